"""banking77: what does a bank's customer want? 77 intents, a transformer as the teacher.

Data: Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, 2020,
arXiv:2003.04807 (PolyAI; CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from minilm import intent_teacher
from torch import nn

from edgecompress import Task
from edgecompress.students.text import NgramBag
from edgecompress.tasks.loaders import split_rows, texts_from_csv
from edgecompress.tasks.texts import Texts
from edgecompress.tasks.tokenizers import HashedWords
from edgecompress.teachers.texts import TextTeacher, text_teacher

VALIDATION_SHARE, SPLIT_SEED = 0.1, 0
CROSSED = 2  # texts of the pool for each training text
TOKENIZER = HashedWords(length=256, buckets=8192, words=2, characters=(3, 4))
WIDTH = 64


def task(data: Path) -> Task:
    """Read `train.csv` and `test.csv` in the folder `data`."""
    train, validation, test, names = read(data)
    pool = crossed(train)

    def teacher() -> TextTeacher:
        parts = (part.texts for part in (train, validation, test, pool))
        return text_teacher(intent_teacher(train), TOKENIZER.encode, *parts)

    def student() -> nn.Module:
        return NgramBag(TOKENIZER.buckets, len(names), WIDTH)

    return Task(
        name="banking77",
        train=train.encoded(TOKENIZER),
        validation=validation.encoded(TOKENIZER),
        test=test.encoded(TOKENIZER),
        unlabelled=pool.encoded(TOKENIZER),
        teacher=teacher,
        student=student,
        class_names=names,
        tokenizer=TOKENIZER,
    )


def read(data: Path) -> tuple[Texts, Texts, Texts, tuple[str, ...]]:
    """Return the texts to learn from, to choose by and to test on, and the names of the intents."""
    texts, names = texts_from_csv(data / "train.csv", "text", "category")
    test, _ = texts_from_csv(data / "test.csv", "text", "category", names)
    rows = split_rows(texts.labels, (1 - VALIDATION_SHARE, VALIDATION_SHARE), SPLIT_SEED)
    return texts.take(rows[0]), texts.take(rows[1]), test, names


def crossed(train: Texts) -> Texts:
    """Return texts whose beginning is that of one training text and whose end is another's.

    What such a text means only the teacher can say: they have no labels.
    """
    draw = np.random.default_rng(0)
    words = [text.split() for text in train.texts]
    texts = []
    for _ in range(CROSSED * len(train)):
        one, other = words[draw.integers(len(words))], words[draw.integers(len(words))]
        end, start = draw.integers(1, len(one) + 1), draw.integers(len(other))
        texts.append(" ".join([*one[:end], *other[start:]]))
    return Texts(tuple(texts))
