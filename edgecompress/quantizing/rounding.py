"""Round weights so that the layer's output errs least on calibration data, not each weight.

The objective is AdaRound's layer-wise one, the squared error of the layer's output (Nagel, Amjad,
van Baalen, Louizos, Blankevoort 2020, equation 13), a quadratic form of the rounding errors with
the second moments of the layer's inputs. Instead of learning a soft rounding we go down it one
input at a time, each time to the whole number that is best given all others (cyclic coordinate
descent, as Nair and Suggala 2024): every step lowers the error or leaves it, so the end is never
worse than rounding to the nearest, and it takes seconds on one core.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgecompress.quantizing.layers import (
    Floats,
    Layer,
    constants,
    layers,
    named,
    quantized_constant,
    with_constants,
)
from edgecompress.quantizing.watching import watch
from edgecompress.runtime import Arrays

_SAMPLES = 256
_ROWS = 4096  # of a layer's inputs; more hardly move the second moments
_MOST_INPUTS = 1536  # of one output; the descent takes time with their square
_SWEEPS = 3
_BLOCK = 64  # inputs after which all others learn of what has moved
_DAMPING = 0.01  # of the mean second moment: inputs that hardly vary pull no weight far


def rounded(source: ModelProto, int8: ModelProto, calibration: Arrays) -> ModelProto:
    """Return the int8 model with weights rounded for the outputs of the float `source`'s layers.

    Scales, zero points and the largest whole numbers stay. Layers with more than 1,536 inputs an
    output, and convolutions whose padding the file leaves to the runtime, keep their rounding.
    """
    nodes, floats, new = named(int8), constants(source.graph), {}
    chosen = [
        layer
        for layer in layers(source)
        if layer.node in nodes and quantized_constant(int8.graph, nodes[layer.node], 1)
    ]
    moments = _second_moments(source, chosen, calibration)
    for layer in chosen:
        found = quantized_constant(int8.graph, nodes[layer.node], 1)
        if found is None or layer.node not in moments:
            continue
        tensor, scale, zero = found
        whole, weight = numpy_helper.to_array(tensor), numpy_helper.to_array(floats[layer.weight])
        best = _descended(layer, weight, whole, scale, zero, moments[layer.node])
        new[tensor.name] = best
    return with_constants(int8, new)


def _descended(
    layer: Layer,
    weight: NDArray[np.generic],
    whole: NDArray[np.generic],
    scale: Floats,
    zero: Floats,
    moments: Floats,
) -> NDArray[np.generic]:
    """Return whole numbers that err less at the layer's output."""
    wanted, start = layer.rows(weight), layer.rows(whole)
    shape, groups = start.shape, start.shape[0]
    each = (groups, -1, 1) if len(scale) > 1 else (1, 1, 1)
    step, offset = scale.reshape(each), zero.reshape(each)
    flat = (groups, shape[1], shape[2] * shape[3])
    limits = (float(whole.min()), float(whole.max()))
    best = descend(wanted.reshape(flat) / step + offset, start.reshape(flat), moments, limits)
    return layer.shaped(best.reshape(shape), whole)


def descend(wanted: Floats, start: Floats, moments: Floats, limits: tuple[float, float]) -> Floats:
    """Return whole numbers near `wanted` with the least error e M e, from `start` downwards.

    `wanted` and `start` are (groups, outputs, inputs), in steps of each output's scale; `moments`
    (groups, inputs, inputs). The scale of an output is a factor of its error alone, so that it
    decides nothing.
    """
    whole = start.copy()
    slope = (wanted - whole) @ moments
    for _ in range(_SWEEPS):
        for first in range(0, whole.shape[2], _BLOCK):
            block = slice(first, first + _BLOCK)
            now, within = whole[..., block], moments[:, block, block]
            before, here = now.copy(), slope[..., block].copy()
            for i in range(now.shape[2]):
                ideal = now[..., i] + here[..., i] / within[:, None, i, i]
                moved = np.clip(np.rint(ideal), *limits) - now[..., i]
                now[..., i] += moved
                here -= moved[..., None] * within[:, None, i, :]
            slope -= (now - before) @ moments[:, block]
    return whole


def _second_moments(
    source: ModelProto, chosen: list[Layer], calibration: Arrays
) -> dict[str, Floats]:
    """Return the mean of x x' over the inputs x of an output, (groups, inputs, inputs), damped."""
    nodes = named(source)
    kept = _spread(len(next(iter(calibration.values()))), _SAMPLES)
    some, samples = {name: array[kept] for name, array in calibration.items()}, len(kept)
    sums: dict[str, Floats] = {}
    for batch in watch(source, {layer.input for layer in chosen}, some):
        for layer in chosen:
            values = batch[layer.input]
            most = max(1, _ROWS * len(values) // samples)
            rows = _inputs_of_outputs(layer, nodes[layer.node], values, most)
            if rows is not None and rows.shape[2] <= _MOST_INPUTS:
                found = rows.transpose(0, 2, 1) @ rows
                sums[layer.node] = sums.get(layer.node, 0.0) + found
    return {node: _damped(moments) for node, moments in sums.items()}


def _damped(moments: Floats) -> Floats:
    mean = np.trace(moments, axis1=1, axis2=2) / moments.shape[1]
    mean = np.where(mean > 0, mean, 1.0)
    damped: Floats = moments + _DAMPING * mean[:, None, None] * np.eye(moments.shape[1])
    return damped


def _inputs_of_outputs(
    layer: Layer, node: NodeProto, values: NDArray[np.generic], most: int
) -> Floats | None:
    """Return at most `most` rows of inputs, each of one output, as (groups, rows, inputs)."""
    if layer.operator != "Conv":
        flat = values.reshape(-1, values.shape[-1])
        return flat[_spread(len(flat), most)][None].astype(np.float64)
    told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if told.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    places = values.ndim - 2
    pads = told.get("pads", [0] * 2 * places)
    width = [(0, 0), (0, 0), *zip(pads[:places], pads[places:], strict=True)]
    dilations = told.get("dilations", [1] * places)
    spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel, dilations, strict=True)]
    axes = tuple(range(2, 2 + places))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, width), spans, axes)
    steps = [slice(None, None, s) for s in told.get("strides", [1] * places)]
    taps = [slice(None, None, d) for d in dilations]
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    # (samples, channels, places..., taps...) -> (samples, places..., channels, taps...)
    windows = np.moveaxis(windows, 1, 1 + places)
    count = int(np.prod(windows.shape[: 1 + places]))
    where = np.unravel_index(_spread(count, most), windows.shape[: 1 + places])
    rows: Floats = windows[where].astype(np.float64).reshape(min(count, most), layer.groups, -1)
    return rows.transpose(1, 0, 2)


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """Return at most `most` of the numbers below `count`, evenly spread.

    >>> _spread(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.linspace(0, count - 1, min(count, most)).astype(np.intp)
