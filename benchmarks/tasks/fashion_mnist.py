"""Fashion-MNIST for a network without convolutions: 28 x 28 grey pixels, ten classes.

Data: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747 (MIT licence). The convolutional student stands
in `examples/fashion_mnist`; the teacher is the same here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from edgecompress import Split, Task
from edgecompress.students.image import ResidualNet
from edgecompress.students.stacking import perceptron
from edgecompress.tasks.loaders import read_npz, split_rows

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = 0.2860, 0.3530  # of the training pixels in 0..1
VALIDATION_SHARE, FEW = 1 / 12, 1 / 50


def task(data: Path) -> Task:
    """Read `fashion_mnist.npz` in the folder `data`."""
    path = data / "fashion_mnist.npz"
    found = read_npz(path, ["x_train", "y_train", "x_test", "y_test"])

    def split(part: str) -> Split:
        pixels = (found[f"x_{part}"][:, None] / np.float32(255) - MEAN) / STD
        return Split(
            {"image": pixels.astype(np.float32)}, found[f"y_{part}"].astype(np.int64), (path,)
        )

    whole = split("train")
    rows = split_rows(found["y_train"], (1 - VALIDATION_SHARE, VALIDATION_SHARE))
    return Task(
        name="fashion_mnist",
        train=whole.take(rows[0]),
        validation=whole.take(rows[1]),
        test=split("test"),
        teacher=lambda: ResidualNet(1, 10, widths=(32, 64, 128), blocks=(2, 2, 2)),
        student=lambda: nn.Sequential(nn.Flatten(), perceptron(28 * 28, (128, 64), 10)),
        class_names=CLASSES,
    )


def few_labels(data: Path) -> Task:
    """Return the task with labels for one image in fifty, the others an unlabelled pool."""
    whole = task(data)
    few, rest = split_rows(np.asarray(whole.train.labels), (FEW, 1 - FEW))
    pool = replace(whole.train.take(rest), labels=None)
    return replace(whole, train=whole.train.take(few), unlabelled=pool)
