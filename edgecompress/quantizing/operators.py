"""ONNX operators as functions of tensors that gradients flow through.

Those that small networks are exported with, in their meaning of opset 18 and later, at the
settings that PyTorch has too; anything else is an UnlikeError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor | Sequence[Tensor]]  # (attributes, *inputs), an absent one is None

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.avg_pool1d,
    2: F.avg_pool2d,
    3: F.avg_pool3d,
}
_CASTS = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}


class UnlikeError(Exception):
    """Say what about an operator PyTorch has no like of."""


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = x.ndim - 2
    x, padding = _padded(a, x, 0.0)
    ones = [1] * rank
    return torch.convolution(
        x,
        weight,
        bias,
        a.get("strides", ones),
        padding,
        a.get("dilations", ones),
        False,
        [0] * rank,
        a.get("group", 1),
    )


def _padded(a: Attributes, x: Tensor, value: float) -> tuple[Tensor, list[int]]:
    """Return the input and how it is yet to be padded, on both sides alike."""
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnlikeError("auto_pad")
    rank = x.ndim - 2
    pads = a.get("pads", [0] * 2 * rank)
    before, after = pads[:rank], pads[rank:]
    if before == after:
        return x, list(before)
    both = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return F.pad(x, both, value=value), [0] * rank


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    x, padding = _padded(a, x, -math.inf)
    rank = x.ndim - 2
    ones = [1] * rank
    return _MAX_POOLS[rank](
        x,
        a["kernel_shape"],
        a.get("strides", ones),
        padding,
        a.get("dilations", ones),
        bool(a.get("ceil_mode", 0)),
    )


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    counts_padding = bool(a.get("count_include_pad", 0))
    kept = x
    x, padding = _padded(a, x, 0.0)
    if (x is not kept and not counts_padding) or max(a.get("dilations", [1])) > 1:
        raise UnlikeError("AveragePool with unequal padding or dilations")
    rank = x.ndim - 2
    return _AVERAGE_POOLS[rank](
        x,
        a["kernel_shape"],
        a.get("strides", [1] * rank),
        padding,
        bool(a.get("ceil_mode", 0)),
        counts_padding,
    )


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x.T if a.get("transA", 0) else x
    product = x @ (weight.T if a.get("transB", 0) else weight)
    product = product * a["alpha"] if a.get("alpha", 1.0) != 1.0 else product
    return product if bias is None else product + a.get("beta", 1.0) * bias


def _clip(
    a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    return torch.clamp(x, low, high) if low is not None or high is not None else x


def _reduced(a: Attributes, x: Tensor, axes: Tensor | None = None) -> tuple[list[int], bool]:
    """Return the axes that go, and whether they stay as ones."""
    named = axes.tolist() if axes is not None else a.get("axes", [])
    if not named and a.get("noop_with_empty_axes", 0):
        raise UnlikeError("a reduction over no axes")
    return list(named) or list(range(x.ndim)), bool(a.get("keepdims", 1))


def _mean(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.mean(*_reduced(a, x, axes))


def _sum(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.sum(*_reduced(a, x, axes))


def _length(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along, stay = _reduced(a, x, axes)
    length: Tensor = torch.linalg.vector_norm(x, dim=along, keepdim=stay)
    return length


def _maximum(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.amax(*_reduced(a, x, axes))


def _remainder(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if a.get("fmod", 0) else torch.remainder(x, y)


def _over_space(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    asked = shape.tolist()
    if not a.get("allowzero", 0):
        asked = [x.shape[i] if size == 0 else size for i, size in enumerate(asked)]
    return x.reshape(asked)


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1)


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(int(i) % rank for i in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _pad(
    a: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    if a.get("mode", b"constant") != b"constant" or axes is not None:
        raise UnlikeError("Pad by anything but a constant, or of some axes only")
    sizes = pads.tolist()
    before, after = sizes[: x.ndim], sizes[x.ndim :]
    both = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return F.pad(x, both, value=0.0 if value is None else float(value))


def _slice(
    a: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    every = range(starts.numel()) if axes is None else axes.tolist()
    strides = [1] * starts.numel() if steps is None else steps.tolist()
    if min(strides) < 1:
        raise UnlikeError("Slice backwards")
    for axis, start, end, step in zip(every, starts.tolist(), ends.tolist(), strides, strict=True):
        rows = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(list(rows), device=x.device))
    return x


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = a.get("axis", 0)
    if sizes is not None:
        return torch.split(x, sizes.tolist(), axis)
    return torch.split(x, math.ceil(x.shape[axis] / a["num_outputs"]), axis)


def _gather(a: Attributes, x: Tensor, rows: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    rows = torch.where(rows < 0, rows + x.shape[axis], rows)
    taken = x.index_select(axis, rows.reshape(-1))
    return taken.reshape(*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])


def _cast(a: Attributes, x: Tensor) -> Tensor:
    if a["to"] not in _CASTS:
        raise UnlikeError(f"Cast to ONNX type {a['to']}")
    return x.to(_CASTS[a["to"]])


def _layer_norm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[a.get("axis", -1) :]
    return F.layer_norm(x, shape, weight, bias, a.get("epsilon", 1e-5))


def _batch_norm(
    a: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, eps=a.get("epsilon", 1e-5))


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0.0, 1.0)


def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.get("approximate", b"none").decode())


OPERATORS: Mapping[str, Operator] = {
    "Add": lambda a, x, y: x + y,
    "And": lambda a, x, y: x & y,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Conv": _conv,
    "Div": lambda a, x, y: x / y,
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Equal": lambda a, x, y: x == y,
    "Erf": lambda a, x: torch.erf(x),
    "Exp": lambda a, x: torch.exp(x),
    "Expand": lambda a, x, shape: x * torch.ones(shape.tolist(), dtype=x.dtype),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean(_over_space(x), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(_over_space(x), keepdim=True),
    "Greater": lambda a, x, y: x > y,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda a, x: F.hardswish(x),
    "Identity": lambda a, x: x,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "MatMul": lambda a, x, y: x @ y,
    "Max": lambda a, *xs: reduce(torch.maximum, xs),
    "MaxPool": _max_pool,
    "Min": lambda a, *xs: reduce(torch.minimum, xs),
    "Mod": _remainder,
    "Mul": lambda a, x, y: x * y,
    "Neg": lambda a, x: -x,
    "Not": lambda a, x: ~x,
    "Pad": _pad,
    "Pow": lambda a, x, y: x**y,
    "PRelu": lambda a, x, slope: torch.where(x < 0, slope * x, x),
    "ReduceL2": _length,
    "ReduceMax": _maximum,
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end", x.ndim)]),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Slice": _slice,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Softplus": lambda a, x: F.softplus(x),
    "Split": _split,
    "Sqrt": lambda a, x: torch.sqrt(x),
    "Squeeze": _squeeze,
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": lambda a, x: x.permute(a.get("perm", tuple(reversed(range(x.ndim))))),
    "Unsqueeze": _unsqueeze,
    "Where": lambda a, chosen, x, y: torch.where(chosen, x, y),
}
