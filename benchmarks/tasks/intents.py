"""banking77 without the texts that its example makes up: 77 intents of a bank's customers.

Data: Casanueva et al. 2020, arXiv:2003.04807 (CC BY 4.0). Teacher and student are those of
`examples/banking77`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecompress import Task
from edgecompress.students.text import NgramBag
from edgecompress.teachers.texts import text_teacher

sys.path.append(str(Path(__file__).parents[2] / "examples" / "banking77"))
from banking77 import TOKENIZER, WIDTH, read
from minilm import intent_teacher

SHOTS = 10


def task(data: Path) -> Task:
    """Read `train.csv` and `test.csv` in the folder `data`."""
    train, validation, test, names = read(data)
    parts = (train.texts, validation.texts, test.texts)
    return Task(
        name="banking77",
        train=train.encoded(TOKENIZER),
        validation=validation.encoded(TOKENIZER),
        test=test.encoded(TOKENIZER),
        teacher=lambda: text_teacher(intent_teacher(train), TOKENIZER.encode, *parts),
        student=lambda: NgramBag(TOKENIZER.buckets, len(names), WIDTH),
        class_names=names,
        tokenizer=TOKENIZER,
    )


def few_labels(data: Path) -> Task:
    """Return the task with labels for ten texts of each intent, the others an unlabelled pool."""
    whole = task(data)
    labels = np.asarray(whole.train.labels)
    order = np.random.default_rng(0).permutation(len(labels))
    of_class = (order[labels[order] == intent] for intent in range(len(whole.class_names)))
    few = np.sort(np.concatenate([rows[:SHOTS] for rows in of_class]))
    rest = np.setdiff1d(np.arange(len(labels)), few)
    pool = replace(whole.train.take(rest), labels=None)
    return replace(whole, train=whole.train.take(few), unlabelled=pool)
