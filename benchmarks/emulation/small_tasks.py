"""Six networks of the project, each with a small task on which a minute's training is enough.

An untrained network's outputs nearly tie, and then a last bit decides the class. Images are
scikit-learn's real digits, enlarged; signals, tables and texts are drawn from seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from edgecompress.builtin import digits_task, student
from edgecompress.students.image import mobilenet_v1, resnet8
from edgecompress.students.sequence import sensor_net
from edgecompress.students.tabular import tabular_net
from edgecompress.students.text import text_encoder

TRAIN, TEST = 1024, 256
Data = tuple[dict[str, NDArray[Any]], NDArray[np.int64]]


@dataclass(frozen=True)
class SmallTask:
    """Hold a network, how its samples are made (the first TRAIN to learn on), and for how long."""

    network: Callable[[], nn.Module]
    samples: Callable[[], Data]
    epochs: int


def digits(size: int, channels: int) -> Data:
    """Return the digits as images of `size`, each channel of its own brightness."""
    task = digits_task()
    splits = (task.train, task.validation, task.test)
    images = np.concatenate([split.inputs["image"] for split in splits])[: TRAIN + TEST]
    labels = np.concatenate([split.labels for split in splits])[: TRAIN + TEST]
    large = torch.from_numpy(images)
    if size != large.shape[-1]:
        large = F.interpolate(large, size=(size, size), mode="bilinear")
    tint = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 1.0, (len(images), channels)))
    return {"image": (large * tint[:, :, None, None]).float().numpy()}, labels


def signals() -> Data:
    """Return six kinds of movement: three axes, 128 moments, another pair of tones each."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, TRAIN + TEST)
    time = np.arange(128) / 128
    tones = np.array([(3, 7), (4, 9), (5, 8), (6, 13), (2, 11), (8, 10)])[labels]
    phase = rng.uniform(0, 2 * np.pi, (len(labels), 3, 2, 1))
    waves = np.sin(2 * np.pi * tones[:, None, :, None] * time + phase).sum(2)
    noisy = waves + rng.normal(0, 0.5, waves.shape)
    return {"signal": noisy.astype(np.float32)}, labels


def table() -> Data:
    """Return rows of six numbers and three codes, labelled by a rule that mixes them."""
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=(TRAIN + TEST, 6)).astype(np.float32)
    codes = np.stack([rng.integers(1, size, TRAIN + TEST) for size in (5, 9, 17)], axis=1)
    score = numbers[:, 0] * (codes[:, 0] % 2 * 2 - 1) + numbers[:, 1] + 0.2 * codes[:, 1] - 1
    labels = np.digitize(score, np.quantile(score, [0.25, 0.5, 0.75]))
    return {"numbers": numbers, "codes": codes.astype(np.int64)}, labels


def texts() -> Data:
    """Return texts of 8 to 32 tokens in four topics, each of which prefers a quarter of words."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, TRAIN + TEST)
    own = rng.random((len(labels), 32)) < 0.4
    tokens = np.where(own, labels[:, None] * 100 + rng.integers(1, 101, own.shape),
                      rng.integers(1, 401, own.shape))  # fmt: skip
    tokens[np.arange(32) >= rng.integers(8, 33, len(labels))[:, None]] = 0
    return {"tokens": tokens.astype(np.int64)}, labels


TASKS = {
    "digits-student": SmallTask(student, lambda: digits(8, 1), 20),
    "resnet8": SmallTask(resnet8, lambda: digits(32, 3), 8),
    "mobilenet_v1": SmallTask(lambda: mobilenet_v1(classes=10), lambda: digits(96, 3), 30),
    "sensor_net": SmallTask(lambda: sensor_net(3, 6), signals, 8),
    "tabular_net": SmallTask(lambda: tabular_net(6, [5, 9, 17], 4), table, 40),
    "text_encoder": SmallTask(lambda: text_encoder(401, 4, max_length=32), texts, 8),
}


def trained(task: SmallTask, data: Data) -> nn.Module:
    """Train on the first TRAIN samples with Adam, a seed and batches of 64."""
    torch.manual_seed(0)
    network = task.network().train()
    inputs = [torch.from_numpy(array[:TRAIN]) for array in data[0].values()]
    labels = torch.from_numpy(data[1][:TRAIN])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(task.epochs):
        for rows in torch.randperm(TRAIN).split(64):
            loss = F.cross_entropy(network(*(array[rows] for array in inputs)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()
