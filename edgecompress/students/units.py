"""Let a student of numbers answer in the unit of its labels, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InUnits(nn.Module):
    """Return `mean` + `std` · x, one of each for every value: the last layer of a student.

    An optimizer moves an answer by about the learning rate a step, whatever its unit: from a layer
    that begins near 0, prices of 200,000 are never reached. Neither number is learned.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return answers (batch, values) in the labels' unit."""
        return self.mean + self.std * x
