"""banking77: what does a bank's customer want? 77 intents, a transformer as the teacher.

Data: Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, 2020,
arXiv:2003.04807 (PolyAI; CC BY 4.0).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from minilm import intent_teacher
from torch import nn

from edgecompress import Task
from edgecompress.students.text import NgramBag
from edgecompress.tasks.loaders import split_rows, texts_from_csv
from edgecompress.tasks.texts import Texts
from edgecompress.tasks.tokenizers import HashedWords
from edgecompress.teachers.texts import text_teacher

VALIDATION_SHARE, SPLIT_SEED = 0.1, 0
DROPPED = (0.1, 0.2, 0.3)  # share of words that each labelled copy of the training texts lacks
CROSSED = 2  # texts of the pool for each training text
TOKENIZER = HashedWords(length=256, buckets=8192, words=2, characters=(3, 4))
WIDTH = 64


def task(data: Path) -> Task:
    """Read `train.csv` and `test.csv` in the folder `data`."""
    texts, names = texts_from_csv(data / "train.csv", "text", "category")
    test, _ = texts_from_csv(data / "test.csv", "text", "category", names)
    rows = split_rows(texts.labels, (1 - VALIDATION_SHARE, VALIDATION_SHARE), SPLIT_SEED)
    train, validation = texts.take(rows[0]), texts.take(rows[1])
    seen, pool = with_words_dropped(train), crossed(train)
    parts = [part.texts for part in (seen, validation, test, pool)]
    teacher = partial(intent_teacher, train)
    return Task(
        name="banking77",
        train=seen.encoded(TOKENIZER),
        validation=validation.encoded(TOKENIZER),
        test=test.encoded(TOKENIZER),
        unlabelled=pool.encoded(TOKENIZER),
        teacher=lambda: text_teacher(teacher(), TOKENIZER.encode, *parts),
        student=partial(student, len(names)),
        class_names=names,
        tokenizer=TOKENIZER,
    )


def student(classes: int) -> nn.Module:
    """Return an untrained student: hashed words, pairs of words, three and four letters."""
    return NgramBag(TOKENIZER.buckets, classes, WIDTH)


def with_words_dropped(train: Texts) -> Texts:
    """Return the training texts and copies of them that lack some words, labels kept."""
    draw = np.random.default_rng(1)
    texts = list(train.texts)
    for share in DROPPED:
        for text in train.texts:
            words = text.split()
            kept = [word for word in words if draw.random() >= share]
            texts.append(" ".join(kept or words))
    return Texts(tuple(texts), np.tile(train.labels, 1 + len(DROPPED)))


def crossed(train: Texts) -> Texts:
    """Return texts whose beginning is that of one training text and whose end is another's.

    What such a text means only the teacher can say: they have no labels.
    """
    draw = np.random.default_rng(2)
    words = [text.split() for text in train.texts]
    texts = []
    for _ in range(CROSSED * len(train)):
        one, other = words[draw.integers(len(words))], words[draw.integers(len(words))]
        end, start = draw.integers(1, len(one) + 1), draw.integers(len(other))
        texts.append(" ".join([*one[:end], *other[start:]]))
    return Texts(tuple(texts))
