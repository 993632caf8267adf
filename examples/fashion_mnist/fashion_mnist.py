"""Fashion-MNIST: 70,000 grey 28 x 28 images of clothes in ten classes.

Data: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747 (MIT licence).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecompress import Split, Task
from edgecompress.students.image import ResidualBlock, ResidualNet, conv_norm
from edgecompress.tasks.loaders import from_idx, from_npz, split_rows
from edgecompress.tasks.task import Normalization

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MEAN, STD = 0.2860, 0.3530  # of the training pixels in 0..1
BLACK = (0 - MEAN) / STD
SHIFT = 2
VALIDATION_SHARE, VALIDATION_SEED = 1 / 12, 0


def task(data: Path) -> Task:
    """Read the four official `.gz` files in the folder `data`, or an npz file."""
    if data.is_dir():
        train = from_idx(data / "train-images-idx3-ubyte.gz", data / "train-labels-idx1-ubyte.gz")
        test = from_idx(data / "t10k-images-idx3-ubyte.gz", data / "t10k-labels-idx1-ubyte.gz")
    else:
        train = scaled(from_npz(data, {"image": "x_train"}, "y_train"))
        test = scaled(from_npz(data, {"image": "x_test"}, "y_test"))
    train, test = normalized(train), normalized(test)
    rows = split_rows(train.labels, (1 - VALIDATION_SHARE, VALIDATION_SHARE), VALIDATION_SEED)
    return Task(
        name="fashion-mnist",
        train=train.take(rows[0]),
        validation=train.take(rows[1]),
        test=test,
        teacher=teacher,
        student=student,
        class_names=CLASSES,
        augment=shift_and_mirror,
        normalization={"image": Normalization(1 / 255, (MEAN,), (STD,))},
    )


def teacher() -> nn.Module:
    """Return the untrained teacher, a residual net; the recipe's [teacher] section trains it."""
    return ResidualNet(1, 10, widths=(32, 64, 128), blocks=(2, 2, 2))


def student() -> nn.Module:
    """Return an untrained student: (width, blocks, stride) a stage after the stem."""
    width = 32
    layers: list[nn.Module] = [conv_norm(1, width, 3), nn.ReLU()]
    for wider, blocks, stride in ((32, 2, 2), (64, 1, 2)):
        for block in range(blocks):
            layers.append(ResidualBlock(width, wider, stride if block == 0 else 1))
            width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def shift_and_mirror(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Shift each image by up to two pixels, and mirror every other one."""
    images = batch["image"]
    count, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4, value=BLACK)
    top, left = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    each = torch.arange(count)[:, None, None]
    return {"image": padded[each, 0, rows[:, :, None], columns[:, None, :]][:, None]}


def scaled(split: Split) -> Split:
    """Return pixels of 0..255, (samples, 28, 28), as 0..1 with a channel axis."""
    pixels = split.inputs["image"].reshape(-1, 1, 28, 28) / np.float32(255)
    return replace(split, inputs={"image": pixels})


def normalized(split: Split) -> Split:
    """Return pixels of 0..1 with mean 0 and deviation 1."""
    pixels = (split.inputs["image"] - np.float32(MEAN)) / np.float32(STD)
    return replace(split, inputs={"image": pixels})
