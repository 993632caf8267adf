"""A network that rounds, while it learns, exactly where its int8 ONNX model will round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompress.quantizing.operators import OPERATORS, UnlikeError
from edgecompress.quantizing.places import QUANTIZE, Bias, Grid, Places, Rounded, Step

_BYTE, _WORD = 255, 2**31 - 1


class Range(nn.Module):
    """Round activations to unsigned 8 bits in steps whose size is learned; 0 stays where it is.

    The gradient of a step is that of LSQ (Esser et al. 2020, arXiv:1902.08153); its logarithm is
    what is learned, so that one rate suits steps of any size (Jain et al. 2020, arXiv:1903.08066).
    """

    zero_point: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(grid.scale)]))
        self.register_buffer("zero_point", torch.tensor([float(grid.zero_point)]))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (batch, ...) on its grid."""
        share = 1.0 / math.sqrt(max(1, x[:1].numel()) * _BYTE)
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, self.log_scale.exp(), self.zero_point, 0, _BYTE, share
        )

    @property
    def grid(self) -> Grid:
        """Return the grid as it stands."""
        return Grid(float(self.log_scale.detach().exp()), int(self.zero_point))


class FakeQuantized(nn.Module):
    """Compute what an int8 model computes, with weights and ranges that learn.

    Batch norms are folded into weights by then, and activations into the ranges behind them.
    `largest` is the largest magnitude of an 8-bit weight: 127, or 64 where 7 bits are used. Raise
    UnlikeError for operators that PyTorch has no like of.
    """

    def __init__(self, places: Places, largest: int) -> None:
        super().__init__()
        if unlike := sorted({step.operator for step in places.steps} - {QUANTIZE, *OPERATORS}):
            raise UnlikeError(f"operators {', '.join(unlike)}")
        self._inputs, self._output, self._steps = places.inputs, places.output, places.steps
        self._rounded, self._biases = dict(places.rounded), dict(places.biases)
        self._grid_of, self._settled = dict(places.grid_of), places.settled
        self._learned, self._constants = tuple(places.learned), tuple(places.constants)
        self._largest = largest
        for name, array in places.learned.items():
            self.register_parameter(_key(name), nn.Parameter(torch.from_numpy(np.array(array))))
        for name, array in places.constants.items():
            self.register_buffer(_key(name), torch.from_numpy(np.array(array)), persistent=False)
        for name, grid in places.grids.items():
            self.add_module(_key(name), Range(grid).requires_grad_(name not in places.settled))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the answer to a batch of the model's inputs, given in its order."""
        values = dict(zip(self._inputs, inputs, strict=True))
        values |= {name: getattr(self, _key(name)) for name in (*self._learned, *self._constants)}
        values |= {name: self._weight(rounded) for name, rounded in self._rounded.items()}
        values |= {name: self._bias(bias) for name, bias in self._biases.items()}
        for step in self._steps:
            values.update(zip(step.outputs, self._made(step, values), strict=False))
        return values[self._output]

    def _made(self, step: Step, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        read = [values[name] if name else None for name in step.inputs]
        if step.operator == QUANTIZE:
            return (getattr(self, _key(step.attributes["grid"]))(*read),)
        made = OPERATORS[step.operator](step.attributes, *read)
        return (made,) if isinstance(made, Tensor) else tuple(made)

    def _weight(self, rounded: Rounded) -> Tensor:
        """Return a weight on its grid."""
        weight = getattr(self, _key(rounded.weight))
        return _on_grid(weight, self._scale(rounded), rounded.axis, self._largest)

    def _scale(self, rounded: Rounded) -> Tensor:
        """Return the steps of a weight, in which its largest magnitude is `largest`."""
        weight: Tensor = getattr(self, _key(rounded.weight)).detach()
        across = [i for i in range(weight.ndim) if rounded.axis is None or i != rounded.axis]
        scale = weight.abs().amax(across) / self._largest
        return torch.where(scale < torch.finfo(scale.dtype).tiny, torch.ones_like(scale), scale)

    def _bias(self, bias: Bias) -> Tensor:
        """Return a bias on the grid of the sums that it is added to.

        These steps are small, but a sum that lies between two of the next grid falls otherwise.
        """
        step = getattr(self, _key(bias.grid)).log_scale.detach().exp()
        scale = step * self._scale(bias.weight)
        if bias.weight.axis is None:
            return _on_grid(getattr(self, _key(bias.name)), scale.squeeze(), None, _WORD)
        return _on_grid(getattr(self, _key(bias.name)), scale, 0, _WORD)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the float weights as they stand, by their names in the float model."""
        state = {name: getattr(self, _key(name)) for name in self._learned}
        return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()}

    def overrides(self) -> dict[str, list[dict[str, Any]]]:
        """Return the learned grid of each rounded tensor, in the form that the quantizer takes."""
        found = {}
        for tensor, name in self._grid_of.items():
            if name in self._settled:
                continue
            grid = getattr(self, _key(name)).grid
            known = {"scale": np.float32(grid.scale), "zero_point": np.uint8(grid.zero_point)}
            found[tensor] = [{key: np.array(value) for key, value in known.items()}]
        return found


def _on_grid(x: Tensor, scale: Tensor, axis: int | None, largest: int) -> Tensor:
    """Return x rounded to whole steps, one scale for each position of `axis`, 0 being 0."""
    zero = torch.zeros_like(scale, dtype=torch.int32)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, -largest, largest)
    return torch.fake_quantize_per_channel_affine(x, scale, zero, axis, -largest, largest)


def _key(name: str) -> str:
    """Return the name of a tensor as one that torch allows for a part of a network."""
    return f"tensor/{name.replace('.', '/')}"
