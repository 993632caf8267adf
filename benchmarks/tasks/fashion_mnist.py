"""Fashion-MNIST for a network without convolutions: 28 x 28 grey pixels, ten classes.

Data: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747 (MIT licence). The convolutional student stands
in `examples/fashion_mnist`; the teacher is the same here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
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
SHIFT, COPIES = 2, 0
VALIDATION_SHARE = 1 / 12


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
    train = whole.take(rows[0])
    return Task(
        name="fashion_mnist",
        train=with_copies(train),
        validation=whole.take(rows[1]),
        test=split("test"),
        teacher=lambda: ResidualNet(1, 10, widths=(32, 64, 128), blocks=(2, 2, 2)),
        student=lambda: nn.Sequential(nn.Flatten(), perceptron(28 * 28, (128, 64), 10)),
        class_names=CLASSES,
    )


def with_copies(split: Split) -> Split:
    """Return the images and, for each, copies shifted by up to two pixels, every other mirrored.

    The copies are drawn once, so that the teacher labels them once for all seeds.
    """
    images = split.inputs["image"]
    draws = np.random.default_rng(0)
    views = [images, *(shifted_and_mirrored(images, draws) for _ in range(COPIES))]
    labels = np.tile(split.labels, 1 + COPIES)
    return Split({"image": np.concatenate(views)}, labels, split.files)


def shifted_and_mirrored(
    images: NDArray[np.float32], draws: np.random.Generator
) -> NDArray[np.float32]:
    """Return each image (1, 28, 28) shifted, and mirrored or not."""
    count, _, height, width = images.shape
    edge = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT))
    padded = np.pad(images[:, 0], edge, constant_values=-MEAN / STD)
    top, left = draws.integers(0, 2 * SHIFT + 1, (2, count, 1))
    columns = np.where(draws.random((count, 1)) < 0.5, np.arange(width)[::-1], np.arange(width))
    rows = top + np.arange(height)
    each = np.arange(count)[:, None, None]
    return padded[each, rows[:, :, None], (left + columns)[:, None, :]][:, None]
