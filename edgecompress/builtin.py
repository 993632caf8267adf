"""The built-in task: scikit-learn's 1,797 real handwritten digits, 8 x 8 pixels of 0..16.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (CC BY 4.0).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from edgecompress.students.image import ResidualNet
from edgecompress.tasks.task import Normalization, Split, Task

TEST, VALIDATION = 540, 257
SPLIT_SEED = 0
WHITE = 16.0


def digits_task() -> Task:
    """Return the digits: 1,000 to train on, 257 to choose by, 540 to test on, classes balanced."""
    data = load_digits()
    images = (data.images[:, None] / WHITE).astype(np.float32)
    rows: NDArray[np.intp] = np.arange(len(images))
    rest, test = _divided(rows, data.target, TEST)
    train, validation = _divided(rest, data.target, VALIDATION)
    whole = Split({"image": images}, data.target.astype(np.int64))
    return Task(
        name="digits",
        train=whole.take(train),
        validation=whole.take(validation),
        test=whole.take(test),
        teacher=teacher,
        student=student,
        class_names=tuple(str(digit) for digit in range(10)),
        augment=wobble,
        normalization={"image": Normalization(scale=1 / WHITE)},
    )


def teacher() -> nn.Module:
    """Return the untrained teacher: a residual net of 126,010 parameters at full resolution."""
    return ResidualNet(1, 10, widths=(48,), blocks=(3,))


def student() -> nn.Module:
    """Return an untrained student of 38,890 parameters, which pruning halves in width.

    Widths are multiples of 16: ONNX Runtime gains nothing from those between on wide vector units.
    """
    return ResidualNet(1, 10, widths=(32, 32), blocks=(1, 1))


def wobble(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Turn, zoom, slant and shift each image a little, as hands do."""
    images = batch["image"]
    draw = torch.rand(len(images), 5, generator=generator) * 2 - 1
    angle, zoom = draw[:, 0] * math.radians(12), 1 + draw[:, 1] * 0.12
    slant, shift = draw[:, 2] * 0.15, draw[:, 3:, None] * 0.2
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    first = torch.stack([cos, slant - sin], dim=1)
    matrix = torch.stack([first, torch.stack([sin, cos], dim=1)], dim=1)
    grid = F.affine_grid(torch.cat([matrix, shift], dim=2), list(images.shape), align_corners=False)
    return {"image": F.grid_sample(images, grid, align_corners=False)}


def _divided(
    rows: NDArray[np.intp], labels: NDArray[np.int64], held_out: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    kept, held = train_test_split(
        rows, test_size=held_out, random_state=SPLIT_SEED, stratify=labels[rows]
    )
    return np.sort(kept), np.sort(held)
