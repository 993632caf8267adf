"""A task small enough to carry through the whole chain in a test: three blobs in 8 x 8 images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgecompress.students.image import ResidualNet
from edgecompress.tasks.task import Split, Task


def blobs(rows: int, seed: int) -> Split:
    """Return images in which one of three corners glows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    images = rng.normal(0, 0.4, (rows, 1, 8, 8)).astype(np.float32)
    for corner, (top, left) in enumerate(((0, 0), (0, 5), (5, 0))):
        images[labels == corner, :, top : top + 3, left : left + 3] += 1.0
    return Split({"image": images}, labels)


def teacher() -> nn.Module:
    return ResidualNet(1, 3, widths=(16,), blocks=(1,))


def student() -> nn.Module:
    return ResidualNet(1, 3, widths=(8,), blocks=(1,))


def jitter(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    image = batch["image"]
    return {"image": image + 0.1 * torch.randn(image.shape, generator=generator)}


def task() -> Task:
    return Task(
        name="blobs",
        train=blobs(192, 0),
        validation=blobs(96, 1),
        test=blobs(96, 2),
        teacher=teacher,
        student=student,
        class_names=("left", "right", "below"),
        augment=jitter,
    )


RECIPE = """
task = "blobs.py:task"
[teacher]
epochs = 3
batch_size = 32
learning_rate = 1e-2
precision = "fp32"
[distill]
epochs = 3
batch_size = 32
learning_rate = 1e-2
precision = "fp32"
views = 2
[prune]
pruning_ratio = 0.5
round_to = 2
[redistill]
epochs = 2
batch_size = 32
precision = "fp32"
[quantize]
calibration_samples = 64
[measure]
processes = [2]
screening_processes = 1
seconds_per_process = 0.02
[accept]
max_drop = 0.2
"""
