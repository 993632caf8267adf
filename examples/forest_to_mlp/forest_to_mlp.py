"""A random forest of 200 trees teaches a network of 2,410 weights: scikit-learn's digits.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (CC BY 4.0).
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from edgecompress import Split, Task
from edgecompress.students.stacking import perceptron
from edgecompress.tasks.rows import split_rows
from edgecompress.teachers.out_of_fold import OutOfFold

PIXELS, HIDDEN, CLASSES, WHITE = 64, 32, 10, 16


def task() -> Task:
    """Return the 1,797 digits as rows of 64 pixels: 70 % train, 15 % validation, 15 % test."""
    rows, labels = load_digits(return_X_y=True)
    whole = Split({"pixels": (rows / WHITE).astype(np.float32)}, labels.astype(np.int64))
    train, validation, test = map(whole.take, split_rows(labels, (0.7, 0.15, 0.15), seed=0))
    return Task(
        name="forest-to-mlp",
        train=train,
        validation=validation,
        test=test,
        teacher=lambda: teacher(train),
        student=student,
        class_names=tuple(str(digit) for digit in range(CLASSES)),
    )


def forest() -> RandomForestClassifier:
    """Return the unfitted forest."""
    return RandomForestClassifier(200, max_depth=20, random_state=0)


def teacher(train: Split) -> OutOfFold:
    """Return the forest, to be fitted; training rows are answered by trees that never saw them."""
    return OutOfFold(forest(), train.inputs, train.labels, folds=5)


def student() -> nn.Module:
    """Return an untrained network, 64 pixels - 32 hidden - 10 classes."""
    return perceptron(PIXELS, (HIDDEN,), CLASSES)
