"""What 8 bits do to each layer: one pass over calibration data, each layer quantized alone.

The float graph runs with the int8 form of each node beside it, fed with the float values through
the int8 model's own pairs: what differs at a node's output is that node's doing and no other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto

from edgecompress.quantizing.layers import WEIGHTED, Floats, copied, makers, named
from edgecompress.quantizing.watching import watch
from edgecompress.runtime import Arrays

_OURS = "int8/"
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_QUANTIZER_INPUT = "_QuantizeLinear_Input"  # how the quantizer renames an output of the model


@dataclass(frozen=True)
class LayerError:
    """Hold what 8 bits change at the output of one node.

    `noise` is the mean squared difference over the variance of the float output; `shift` the mean
    difference, float less int8, of each output channel.
    """

    node: str
    noise: float
    shift: tuple[float, ...]


def layer_errors(
    source: ModelProto, int8: ModelProto, calibration: Arrays
) -> dict[str, LayerError]:
    """Return the error of every node of the float `source` that its `int8` model quantizes."""
    both, pairs = _side_by_side(source, int8)
    names = [name for pair in pairs.values() for name in pair]
    sums = {node: _Sums() for node in pairs}
    operators = {node.name: node.op_type for node in source.graph.node}
    for batch in watch(both, names, calibration):
        for node, (exact, rounded) in pairs.items():
            sums[node].add_(
                _rows(batch[exact], operators[node]), _rows(batch[rounded], operators[node])
            )
    return {node: total.error(node) for node, total in sums.items()}


class _Sums:
    """Add up, over batches, what the moments of each channel need."""

    def __init__(self) -> None:
        self.count = 0
        self.totals: Floats = np.zeros(0)

    def add_(self, exact: Floats, rounded: Floats) -> None:
        """Take in values of shape (channels, samples)."""
        apart = exact - rounded
        parts = (exact, exact**2, apart, apart**2)
        totals = np.stack([part.sum(axis=1) for part in parts])
        self.totals = totals if not self.count else self.totals + totals
        self.count += exact.shape[1]

    def error(self, node: str) -> LayerError:
        """Return the error over all that was added."""
        mean, square, shift, noise = self.totals / self.count
        signal = float((square - mean**2).clip(min=0).sum())
        share = float(noise.sum()) / signal if signal > 0 else 0.0
        return LayerError(node, share, tuple(shift.tolist()))


def _rows(values: NDArray[np.generic], operator: str) -> Floats:
    """Return values as (channels, samples), the channels where the operator has them."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        return array.reshape(1, 1)
    last = operator in WEIGHTED[1:] or array.ndim < 3
    channels = np.moveaxis(array, -1 if last else 1, 0)
    return channels.reshape(len(channels), -1)


def _side_by_side(
    source: ModelProto, int8: ModelProto
) -> tuple[ModelProto, dict[str, tuple[str, str]]]:
    """Return one graph of both, and for each node its float output's name and the int8 one's."""
    both, known = copied(source), named(source)
    maker = makers(int8.graph)
    ours = {tensor.name for tensor in int8.graph.initializer}
    ours |= {name for name, made in maker.items() if made.op_type in _PAIR}
    for tensor in int8.graph.initializer:
        own = both.graph.initializer.add()
        own.CopyFrom(tensor)
        own.name = _OURS + tensor.name
    del both.opset_import[:]
    both.opset_import.extend(int8.opset_import)
    pairs = {}
    for node in int8.graph.node:
        if node.op_type not in _PAIR and not _has_form(node, known, maker):
            continue
        beside = both.graph.node.add()
        beside.CopyFrom(node)
        beside.name = _OURS + node.name
        beside.output[:] = [name and _OURS + name for name in node.output]
        beside.input[:] = [_fed(name, ours) for name in node.input]
        if node.op_type not in _PAIR:
            pairs[node.name] = (known[node.name].output[0], beside.output[0])
    return both, pairs


def _fed(name: str, ours: set[str]) -> str:
    """Return what a node of the int8 form reads: its own constants and pairs, else float values."""
    return _OURS + name if name in ours else name.removesuffix(_QUANTIZER_INPUT)


def _has_form(
    node: NodeProto, known: Mapping[str, NodeProto], maker: Mapping[str, NodeProto]
) -> bool:
    """Return whether a node of the int8 model is a node of the float one that reads 8 bits."""
    inner = any(a.type == AttributeProto.GRAPH for a in node.attribute)
    reads = any((made := maker.get(n)) and made.op_type == _PAIR[1] for n in node.input)
    return reads and not inner and "Sequence" not in node.op_type and node.name in known
