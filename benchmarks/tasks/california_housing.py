"""California housing: the median house value of 20,640 census blocks, in 100,000 dollars.

Data: Pace, Barry 1997, "Sparse Spatial Autoregressions"; the 1990 US census. The copy holds 207
blocks without a number of bedrooms and names the nearness of the ocean. Split 60 / 10 / 30.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from boosted import boosted_regressor
from numpy.typing import NDArray

from edgecompress import Split, Task
from edgecompress.students.tabular import tabular_net
from edgecompress.tasks.loaders import split_rows
from edgecompress.tasks.scores import R2

FRACTIONS = (0.6, 0.1, 0.3)
FEW = 1 / 20
LABEL, PLACE = "median_house_value", "ocean_proximity"
COUNTS = ("total_rooms", "total_bedrooms", "population", "households")  # taken as logarithms
DOLLARS = 100_000.0


def task(data: Path) -> Task:
    """Read `housing.csv` in the folder `data`."""
    train, validation, test = _splits(data / "housing.csv")
    columns = train.inputs["numeric"].shape[1]
    return Task(
        name="california_housing",
        kind="regression",
        metric=R2,
        train=train,
        validation=validation,
        test=test,
        teacher=lambda: boosted_regressor("california_housing", train),
        student=lambda: tabular_net(columns, (), 1, width=2.0),
    )


def few_labels(data: Path) -> Task:
    """Return the task with labels for one block in twenty, the others an unlabelled pool."""
    whole = task(data)
    few, rest = split_rows(len(whole.train), (FEW, 1 - FEW))
    pool = replace(whole.train.take(rest), labels=None)
    return replace(whole, train=whole.train.take(few), unlabelled=pool)


def _splits(path: Path) -> tuple[Split, ...]:
    with path.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    rows = split_rows(len(table), FRACTIONS)
    values = np.array([[float(r[LABEL]) / DOLLARS] for r in table], dtype=np.float32)
    names = [name for name in table[0] if name not in (LABEL, PLACE)]
    numbers = np.array([[float(r[name] or "nan") for name in names] for r in table])
    counts = [names.index(name) for name in COUNTS]
    numbers[:, counts] = np.log(numbers[:, counts])
    medians = np.nanmedian(numbers[rows[0]], axis=0)
    numbers = np.where(np.isnan(numbers), medians, numbers)
    places = np.array([r[PLACE] for r in table])
    columns = np.concatenate([numbers, _marks(places)], axis=1).astype(np.float32)
    return tuple(Split({"numeric": columns[part]}, values[part], (path,)) for part in rows)


def _marks(texts: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return a column of 0 and 1 for each distinct text."""
    return (texts[:, None] == np.unique(texts)).astype(np.float64)
