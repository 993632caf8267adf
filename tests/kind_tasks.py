"""A small task of every kind, made of one rule, and what knows the rule well enough to teach it.

Two hidden directions decide everything: which class, which labels, which numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgecompress.records import Kind
from edgecompress.students.units import InUnits
from edgecompress.tasks.scores import default_metric
from edgecompress.tasks.task import IGNORED, Split, Task

KINDS: tuple[Kind, ...] = ("binary", "multilabel", "regression", "embedding", "tokens")
FEATURES, TOKENS = 6, 5
OUTPUTS: dict[Kind, int] = {
    "binary": 1, "multilabel": 3, "regression": 2, "embedding": 8, "tokens": 3,
}  # fmt: skip
RULE = np.random.default_rng(7).normal(size=(FEATURES, 8))


def truth(kind: Kind, x: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Return the labels of samples: the rule with a little noise."""
    found = x @ RULE[:, : OUTPUTS[kind]]
    found = found + draws.normal(0, 0.3, found.shape)
    match kind:
        case "binary":
            return (found[:, 0] > 0).astype(np.int64)
        case "multilabel":
            return (found > 0).astype(np.int64)
        case "regression":
            return (1000 + 200 * found).astype(np.float32)
        case "embedding":
            return found.astype(np.float32)
        case _:
            labels = found.argmax(axis=-1)
            labels[draws.random(labels.shape) < 0.2] = IGNORED
            labels[:, 0] = found[:, 0].argmax(axis=-1)
            return labels


def split(kind: Kind, rows: int, seed: int) -> Split:
    draws = np.random.default_rng(seed)
    shape = (rows, TOKENS, FEATURES) if kind == "tokens" else (rows, FEATURES)
    x = draws.normal(size=shape).astype(np.float32)
    return Split({"x": x}, truth(kind, x, draws))


class ByToken(nn.Module):
    """Answer for every token alike, its classes on the second axis."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).transpose(1, 2)


def network(kind: Kind, width: int, outputs: int | None = None) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, outputs or OUTPUTS[kind]),
    ]  # fmt: skip
    match kind:
        case "tokens":
            return ByToken(nn.Sequential(*layers))
        case "regression":
            return nn.Sequential(*layers, InUnits(1000, 200))
        case _:
            return nn.Sequential(*layers)


def scale(kind: Kind) -> float:
    """Return by what a teacher that knows the rule multiplies it: logits are surer than numbers."""
    return 1.0 if kind in ("regression", "embedding") else 3.0


def knowing(kind: Kind) -> nn.Module:
    """Return a torch module that knows the rule: a teacher already trained."""
    linear = nn.Linear(FEATURES, OUTPUTS[kind])
    rule = torch.tensor(scale(kind) * RULE[:, : OUTPUTS[kind]].T, dtype=torch.float32)
    linear.load_state_dict({"weight": rule, "bias": torch.zeros(OUTPUTS[kind])})
    match kind:
        case "tokens":
            return ByToken(linear)
        case "regression":
            return nn.Sequential(linear, InUnits(1000, 200))
        case _:
            return linear


def task(kind: Kind, teacher: Callable[[], object] | None = None, unlabelled: int = 0) -> Task:
    pool = split(kind, unlabelled, 4) if unlabelled else None
    return Task(
        name=kind,
        train=split(kind, 256, 0),
        validation=split(kind, 96, 1),
        test=split(kind, 96, 2),
        teacher=teacher or (lambda: network(kind, 32)),
        student=lambda: network(kind, 16),
        metric=default_metric(kind),
        kind=kind,
        unlabelled=Split(pool.inputs) if pool else None,
    )
