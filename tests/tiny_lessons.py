"""A tiny task, three blobs in four dimensions, and small networks for it, maps inside included."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress.tasks.task import Split, Task

CLASSES = 3


def split(rows: int, seed: int, labelled: bool = True, dtype: type = np.float32) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    x = rng.normal(size=(rows, 4)).astype(dtype)
    x[np.arange(rows), labels] += 2.0
    return Split({"x": x}, labels if labelled else None)


def blobs(dtype: type = np.float32, pool: int = 0) -> Task:
    task = Task(
        "blobs", split(96, 0, dtype=dtype), split(64, 1, dtype=dtype), split(64, 2, dtype=dtype),
        teacher=lambda: dense(7, 32), student=lambda: dense(1, 8), class_names=("a", "b", "c"),
    )  # fmt: skip
    return replace(task, unlabelled=split(pool, 3, False, dtype)) if pool else task


def dense(seed: int, width: int, dropout: float = 0.0) -> nn.Module:
    """Return a network whose hidden layer is called `body.0`, with an activation in place."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Dropout(dropout))
    net = nn.Sequential()
    net.add_module("body", body)
    net.add_module("head", nn.Linear(width, CLASSES))
    return net


class Maps(nn.Module):
    """See the four numbers as a map of 2 x 2; `conv` answers with maps, `lstm` with a tuple."""

    def __init__(self, channels: int, size: int = 4) -> None:
        super().__init__()
        self.grow = nn.Upsample(size=(size, size))
        self.conv = nn.Conv2d(1, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.lstm = nn.LSTM(channels, channels, batch_first=True)
        self.head = nn.Linear(channels, CLASSES)
        self.idle = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(self.grow(x.reshape(-1, 1, 2, 2))))
        tokens, _ = self.lstm(maps.flatten(2).transpose(1, 2))
        return self.head(tokens.mean(dim=1))


def knowing() -> nn.Module:
    """Return a teacher that tells the blobs apart."""
    linear = nn.Linear(4, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.eye(CLASSES, 4))
        linear.bias.zero_()
    return linear


def small() -> nn.Module:
    """Return a student with dropout, its weights drawn by torch's generator."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))


def noise(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    x = batch["x"]
    return {"x": x + 0.3 * torch.randn(x.shape, generator=generator)}


def noisy_task(pool: int = 0, **changes: object) -> Task:
    """Return the blobs with an augmentation, a teacher that knows them and a student."""
    made = replace(blobs(pool=pool), augment=noise, teacher=knowing, student=small)
    return replace(made, **changes)  # type: ignore[arg-type]
