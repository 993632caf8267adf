"""Adult (Census Income): who earns more than 50,000 dollars a year, from 14 columns.

Data: Becker, Kohavi 1996, UCI Machine Learning Repository, doi 10.24432/C5XW20. Only its training
part is used, which is split 60 / 10 / 30 here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from boosted import boosted_classifier
from torch import nn

from edgecompress import Split, Task
from edgecompress.students.tabular import tabular_net
from edgecompress.tasks.loaders import split_csv, split_rows

FRACTIONS = (0.6, 0.1, 0.3)
FEW = 1 / 20
HEAVY = ("capital-gain", "capital-loss")  # mostly 0, else thousands: their logarithm is taken


def task(data: Path) -> Task:
    """Read `adult.data` in the folder `data`."""
    parts, columns = split_csv(data / "adult.data", "Salary", FRACTIONS)
    heavy = [list(columns.numeric).index(name) for name in HEAVY]
    train, validation, test = (_tamed(part, heavy) for part in parts)
    vocabularies = [len(values) + 1 for values in columns.categorical.values()]

    def student() -> nn.Module:
        return tabular_net(len(columns.numeric), vocabularies, 2)

    return Task(
        name="adult",
        train=train,
        validation=validation,
        test=test,
        teacher=lambda: boosted_classifier("adult", train),
        student=student,
        class_names=columns.class_names,
    )


def few_labels(data: Path) -> Task:
    """Return the task with labels for one row in twenty, the others an unlabelled pool."""
    whole = task(data)
    few, rest = split_rows(whole.train.labels, (FEW, 1 - FEW))
    pool = replace(whole.train.take(rest), labels=None)
    return replace(whole, train=whole.train.take(few), unlabelled=pool)


def _tamed(split: Split, heavy: list[int]) -> Split:
    numeric = split.inputs["numeric"].copy()
    numeric[:, heavy] = np.log1p(numeric[:, heavy])
    return replace(split, inputs={**split.inputs, "numeric": numeric})
