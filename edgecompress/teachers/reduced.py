"""Reduce a teacher's vectors to the few directions in which they vary most."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.teachers.protocol import Teacher


@dataclass(frozen=True)
class Reduction:
    """Hold a principal component analysis: `mean`, (wide,), and `directions`, (wide, width)."""

    mean: NDArray[np.float64] = field(repr=False)
    directions: NDArray[np.float64] = field(repr=False)

    def of(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """Return vectors (samples, wide) as (samples, width), about their mean."""
        return np.asarray((vectors - self.mean) @ self.directions, dtype=np.float32)

    @property
    def fingerprint(self) -> str:
        """Return a digest of it."""
        return hashlib.sha256(self.mean.tobytes() + self.directions.tobytes()).hexdigest()


def fit_reduction(vectors: NDArray[Any], width: int) -> Reduction:
    """Return the `width` directions that keep most of the variance (Pearson 1901).

    The largest component of each points up, so that they are the same wherever they are found.

    >>> line = np.outer(np.arange(5.0), [3.0, 4.0])
    >>> fit_reduction(line, 1).of(line).round(3).ravel().tolist()
    [-10.0, -5.0, 0.0, 5.0, 10.0]
    """
    wide = np.asarray(vectors, dtype=np.float64)
    mean = wide.mean(axis=0)
    _, found = np.linalg.eigh(np.cov(wide - mean, rowvar=False))
    directions = found[:, ::-1][:, :width]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
    return Reduction(mean, np.ascontiguousarray(directions * np.sign(largest)))


@dataclass(frozen=True)
class ReducedTeacher:
    """Teach with the reduced vectors of another teacher."""

    inner: Teacher
    reduction: Reduction

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (batch, width)."""
        return torch.from_numpy(self.reduction.of(self.inner.logits(inputs).cpu().numpy()))
