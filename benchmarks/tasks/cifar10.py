"""CIFAR-10 from a copy that was encoded as JPEG (quality 75): 32 x 32 pixels, ten classes.

Data: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". Scores on this copy
are not comparable with published ones. Needs Pillow.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edgecompress import Split, Task
from edgecompress.students.image import ResidualNet
from edgecompress.tasks.loaders import read_npz, split_rows

MEAN = np.array([0.491, 0.482, 0.447], dtype=np.float32)[:, None, None]
STD = np.array([0.247, 0.243, 0.262], dtype=np.float32)[:, None, None]
SHIFT = 4


def task(data: Path) -> Task:
    """Read `cifar10_jpeg.npz` in the folder `data`."""
    path = data / "cifar10_jpeg.npz"
    keys = [f"{kind}_{part}" for kind in ("jpeg", "off", "y") for part in ("train", "test")]
    found = read_npz(path, [*keys, "class_names"])
    whole = _split(found, "train", path)
    train, validation = split_rows(found["y_train"], (0.9, 0.1))
    return Task(
        name="cifar10",
        train=whole.take(train),
        validation=whole.take(validation),
        test=_split(found, "test", path),
        teacher=lambda: ResidualNet(3, 10, widths=(32, 64, 128), blocks=(1, 1, 1), stem_stride=2),
        student=lambda: ResidualNet(3, 10, widths=(16, 32, 64), blocks=(1, 1, 1), stem_stride=2),
        class_names=tuple(str(name) for name in found["class_names"]),
        augment=shifted_and_mirrored,
    )


def _split(found: dict[str, NDArray[np.generic]], part: str, path: Path) -> Split:
    stream, bounds = found[f"jpeg_{part}"].tobytes(), found[f"off_{part}"]
    images = np.empty((len(bounds) - 1, 3, 32, 32), dtype=np.float32)
    for i in range(len(images)):
        image = Image.open(io.BytesIO(stream[bounds[i] : bounds[i + 1]])).convert("RGB")
        images[i] = np.asarray(image).transpose(2, 0, 1)
    images = (images / np.float32(255) - MEAN) / STD
    return Split({"image": images}, found[f"y_{part}"].astype(np.int64), (path,))


def shifted_and_mirrored(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Shift each image by up to four pixels, and mirror every other one."""
    images = batch["image"]
    count, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4)
    top, left = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, columns.flip(1), columns)
    rows = (top + torch.arange(height))[:, None, :, None]
    each, channels = torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None]
    return {"image": padded[each, channels, rows, (left + columns)[:, None, None, :]]}
