"""What every record is made of: files, scores, and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["pass", "fail", "inconclusive"]
Basis = Literal["measured", "on-device", "predicted", "exact", "host", "none"]
SplitName = Literal["train", "validation", "test"]
Kind = Literal["classification", "binary", "multilabel", "regression", "embedding", "tokens"]


@dataclass(frozen=True)
class Artifact:
    """Name a file together with the digest that its content must have."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """Name an ONNX file, and the files `beside` it that hold weights; its size is that of all."""

    beside: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Metric:
    """Hold one score, its 95 % interval (`low <= value <= high`) and the split it was read on."""

    name: str
    value: float
    low: float
    high: float
    split: SplitName
    higher_is_better: bool = True


@dataclass(frozen=True)
class Evaluation:
    """Hold a score and the per-sample scores behind it, so that two models can be paired."""

    metric: Metric
    scores: tuple[float, ...] = field(repr=False)
