"""banking77 without the texts that its example makes up: 77 intents of a bank's customers.

Data: Casanueva et al. 2020, arXiv:2003.04807 (CC BY 4.0). Teacher and student are those of
`examples/banking77`; `in_order` reads the same texts as word pieces, for students that heed the
order of words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from edgecompress import Task
from edgecompress.students.text import NgramBag
from edgecompress.tasks.texts import Texts
from edgecompress.tasks.tokenizers import Tokenizer
from edgecompress.tasks.vocabulary import train_word_pieces
from edgecompress.teachers.texts import text_teacher

sys.path.append(str(Path(__file__).parents[2] / "examples" / "banking77"))
from banking77 import TOKENIZER, WIDTH, read
from minilm import intent_teacher

SHOTS = 10
PIECES, LENGTH = 2048, 48  # 99 texts of 100 have no more pieces


def task(data: Path) -> Task:
    """Read `train.csv` and `test.csv` in the folder `data`."""
    found = read(data)
    return _tokenized(found, TOKENIZER, lambda: NgramBag(TOKENIZER.buckets, len(found[3]), WIDTH))


def in_order(data: Path) -> Task:
    """Return the task with texts as word pieces in their order; the recipe names its student."""
    found = read(data)
    return _tokenized(found, train_word_pieces(found[0].texts, PIECES, LENGTH))


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


def _tokenized(
    found: tuple[Texts, Texts, Texts, tuple[str, ...]],
    tokenizer: Tokenizer,
    student: Callable[[], nn.Module] | None = None,
) -> Task:
    train, validation, test, names = found
    parts = (train.texts, validation.texts, test.texts)
    return Task(
        name="banking77",
        train=train.encoded(tokenizer),
        validation=validation.encoded(tokenizer),
        test=test.encoded(tokenizer),
        teacher=lambda: text_teacher(intent_teacher(train), tokenizer.encode, *parts),
        student=student,
        class_names=names,
        tokenizer=tokenizer,
    )
