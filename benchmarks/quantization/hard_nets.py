"""Depthwise nets that plain int8 ruins on purpose, trained in seconds on scikit-learn's digits.

After training, single channels are made up to a few hundred times louder and what reads them as
many times quieter. The float function stays the same; an 8-bit activation, which has one scale for
all of its channels, keeps next to nothing of the quiet ones.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from edgecompress.exporting.onnx import export
from edgecompress.recipe import ExportSettings
from edgecompress.records import OnnxModel

Kind = Literal["relu", "gated"]
Arrays = dict[str, np.ndarray]
LOUDEST = 300.0


class Gate(nn.Module):
    """Multiply each channel by a number from 0 to 1 that all of the picture decides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.look(x.mean((2, 3), keepdim=True)))


class Stage(nn.Module):
    """Filter each channel alone, then mix the channels; `middle` stands between."""

    def __init__(self, inputs: int, outputs: int, stride: int, kind: Kind) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.middle = nn.Sequential(nn.ReLU()) if kind == "relu" else nn.Sequential(Gate(inputs))
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.end = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.pointwise(self.middle(self.norm(self.depthwise(x)))))


class HardNet(nn.Module):
    """A small net of depthwise stages for pictures of 8 x 8."""

    def __init__(self, kind: Kind, width: int = 16, stages: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        sizes = [width * 2 ** (i // 2) for i in range(stages + 1)]
        self.stages = nn.Sequential(
            *(Stage(a, b, 2 if i == 1 else 1, kind) for i, (a, b) in enumerate(pairwise(sizes)))
        )
        self.head = nn.Linear(sizes[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pictures (n, 1, 8, 8) in 0..1 and labels: train, validation, test."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = (data.images[order, None] / 16.0).astype(np.float32)
    y = data.target[order]
    cuts = {"train": slice(0, 900), "validation": slice(900, 1350), "test": slice(1350, None)}
    return {name: (x[rows], y[rows]) for name, rows in cuts.items()}


def trained(kind: Kind, epochs: int = 25, seed: int = 0) -> HardNet:
    """Return a net that has learned the digits."""
    torch.manual_seed(seed)
    x, y = (torch.as_tensor(array) for array in digits()["train"])
    net = HardNet(kind)
    steps = epochs * (len(x) // 60)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-2, total_steps=steps)
    for _ in range(steps):
        rows = torch.randperm(len(x))[:60]
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def harden_(net: HardNet, seed: int = 0) -> HardNet:
    """Make the channels between each depthwise and pointwise layer unequally loud."""
    generator = torch.Generator().manual_seed(seed)
    for stage in net.stages:
        width = stage.norm.num_features
        loudness = LOUDEST ** torch.rand(width, generator=generator)
        stage.norm.weight *= loudness
        stage.norm.bias *= loudness
        stage.pointwise.weight /= loudness[None, :, None, None]
        for gate in (m for m in stage.middle if isinstance(m, Gate)):
            gate.look.weight /= loudness[None, :, None, None]
    return net


def hard_model(path: Path, kind: Kind, epochs: int = 25, seed: int = 0) -> OnnxModel:
    """Write a trained and hardened net as ONNX."""
    net = harden_(trained(kind, epochs, seed), seed)
    return export(net, {"x": digits()["train"][0][:3]}, path, ExportSettings(opset=18))
