"""Even out the ranges of channels before quantizing; the float function stays what it was.

An activation has one scale for all of its channels, so a channel whose values are a hundred times
smaller than another's keeps hardly any levels. Where channels pass from one layer to the next
through nothing but positively homogeneous functions, f(s x) = s f(x) for s > 0, each can be divided
by a number of its own in the first layer and multiplied by it in the next: cross-layer equalization
(Nagel, van Baalen, Blankevoort, Welling 2019, section 4.1). Between a layer norm and the products
that read it, the same is SmoothQuant (Xiao et al. 2022).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgecompress.quantizing.layers import (
    Floats,
    Layer,
    attribute,
    constants,
    layers,
    readers,
    unshared,
    with_constants,
)
from edgecompress.quantizing.watching import watch
from edgecompress.runtime import Arrays

# Not HardSwish, Sigmoid, Gelu; nor a Clip with an upper end (ReLU6): they bend at fixed values.
_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Identity", "Clip")
# Over the places of an image, whose channels stand before them; else they would mix channels.
_OF_IMAGES = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten")
_UNBOUNDED = 1e30
_WIDEST = 1e4  # a channel that hardly ever speaks is not made louder than this

Values = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Seam:
    """Name a value whose channels, along `axis`, may be rescaled: who makes it, who reads it.

    `maker` is the layer that makes it; `scaled` the constants of a norm that does.
    """

    value: str
    axis: int
    maker: Layer | None
    scaled: tuple[str, ...]
    readers: tuple[Layer, ...]


def equalized(model: ModelProto, calibration: Arrays, per_channel: bool = True) -> ModelProto:
    """Return the model with even channels between its convolutions and dense layers.

    With `per_channel` weights will have a scale for each output, so that a depthwise layer wholly
    bears what evens out its input; elsewhere inputs and weights meet in the middle.
    """
    return _rescaled(model, calibration, ("Conv", "Gemm", "MatMul"), per_channel)


def smoothed(model: ModelProto, calibration: Arrays, per_channel: bool = True) -> ModelProto:
    """Return the model with even channels between its layer norms and the products behind them."""
    return _rescaled(model, calibration, ("LayerNormalization",), per_channel)


def seams(model: ModelProto, operators: Collection[str]) -> list[Seam]:
    """Return the seams behind layers or norms of these operators, in order of running."""
    known, reading = constants(model.graph), readers(model.graph)
    by_node = {layer.node: layer for layer in layers(model)}
    outputs = {value.name for value in model.graph.output}
    found = []
    for node in model.graph.node:
        layer = by_node.get(node.name)
        norm = (
            node.op_type == "LayerNormalization"
            and set(node.input[1:]) <= known.keys()
            and len(known[node.input[1]].dims) == 1
        )
        if node.op_type not in operators or not (norm or (layer and _has_all(node, layer))):
            continue
        image = node.op_type == "Conv"
        value, flat = _end_of_path(node.output[0], image, known, reading, outputs)
        behind = [by_node.get(reader.name) for reader in reading.get(value, [])]
        takers = tuple(taker for taker in behind if taker is not None and taker.input == value)
        alike = all((taker.operator == "Conv") == (image and not flat) for taker in takers)
        if takers and alike and len(takers) == len(behind) and value not in outputs:
            axis = 1 if image else -1
            scaled = tuple(node.input[1:]) if norm else ()
            found.append(Seam(value, axis, layer, scaled, takers))
    return found


def _has_all(node: NodeProto, layer: Layer) -> bool:
    """Return whether all that a layer adds to its product is a constant bias."""
    return [name for name in node.input[2:] if name] == [name for name in (layer.bias,) if name]


def _end_of_path(
    value: str,
    image: bool,
    known: Mapping[str, TensorProto],
    reading: Mapping[str, list[NodeProto]],
    outputs: Collection[str],
) -> tuple[str, bool]:
    """Return where a value arrives through homogeneous functions that nothing else looks into.

    And whether an image, whose channels come first, was flattened on the way.
    """
    flat = False
    while value not in outputs:
        after = reading.get(value, [])
        if len(after) != 1 or after[0].input[:1] != [value] or value in after[0].input[1:]:
            break
        if not _is_homogeneous(after[0], image, known):
            break
        value, flat = after[0].output[0], flat or after[0].op_type == "Flatten"
    return value, flat


def _is_homogeneous(node: NodeProto, image: bool, known: Mapping[str, TensorProto]) -> bool:
    """Return whether f(s x) = s f(x) for each channel of the first input and every s > 0."""
    match node.op_type:
        case "Flatten":
            return image and attribute(node, "axis", 1) == 1
        case "Clip":
            ends = [known.get(name) for name in node.input[1:] if name]
            values = [float(numpy_helper.to_array(end)) if end else 1.0 for end in ends]
            bends = node.input[1:2] and node.input[1] and len(values) <= 2
            return bool(bends) and values[0] == 0 and all(v > _UNBOUNDED for v in values[1:])
        case operator:
            return operator in _HOMOGENEOUS or (image and operator in _OF_IMAGES)


def _rescaled(
    model: ModelProto, calibration: Arrays, operators: Collection[str], per_channel: bool
) -> ModelProto:
    if not seams(model, operators):
        return model
    own = unshared(model)
    found = seams(own, operators)
    loudest = _loudest(own, found, calibration)
    values: Values = {
        name: np.asarray(numpy_helper.to_array(tensor), np.float32)
        for name, tensor in constants(own.graph).items()
        if tensor.data_type == tensor.FLOAT
    }
    for seam in found:
        factors = _factors(seam, loudest[seam.value], values, per_channel)
        _divide_(values, seam, factors)
        _multiply_(values, seam, factors)
    return with_constants(own, values)


def _loudest(model: ModelProto, found: list[Seam], calibration: Arrays) -> dict[str, Floats]:
    """Return the largest magnitude of each channel of each seam's value on calibration data.

    No seam changes another one's: whatever lies behind it gets the numbers that it got before.
    """
    loudest: dict[str, Floats] = {}
    for batch in watch(model, [seam.value for seam in found], calibration):
        for seam in found:
            channels = np.moveaxis(np.abs(batch[seam.value]), seam.axis, 0)
            now = channels.reshape(len(channels), -1).max(axis=1).astype(np.float64)
            loudest[seam.value] = np.maximum(now, loudest.get(seam.value, 0.0))
    return loudest


def _factors(seam: Seam, loudest: Floats, values: Values, per_channel: bool) -> Floats:
    """Return by what each channel that is made is divided.

    sqrt(activation / weight) evens out both (SmoothQuant, equation 4, alpha = 0.5). Channels that
    never speak, or that nobody listens to, stay.
    """
    heard = np.max([_heard(reader, values, len(loudest)) for reader in seam.readers], axis=0)
    made = _channels_made(seam, values)  # flattened, several inputs of the reader are one channel
    spoken = loudest.reshape(made, -1).max(axis=1)
    heard = heard.reshape(made, -1).max(axis=1)
    free = per_channel and all(_is_depthwise(reader, values) for reader in seam.readers)
    factors = spoken if free else np.sqrt(spoken / np.where(heard > 0, heard, 1.0))
    alive = (spoken > 0) & (heard > 0)
    if not alive.any():
        return np.ones(made)
    middle = np.exp(np.log(factors[alive]).mean())
    return np.where(alive, np.clip(factors / middle, 1 / _WIDEST, _WIDEST), 1.0)


def _is_depthwise(reader: Layer, values: Values) -> bool:
    """Return whether each output has one input channel alone."""
    return reader.groups > 1 and values[reader.weight].shape[1] == 1


def _channels_made(seam: Seam, values: Values) -> int:
    if seam.maker is None:
        return values[seam.scaled[0]].size
    return seam.maker.outputs(values[seam.maker.weight])


def _heard(reader: Layer, values: Values, channels: int) -> Floats:
    """Return the largest weight with which a layer reads each of its inputs."""
    weight = np.abs(reader.rows(values[reader.weight]))
    loudest: Floats = weight.max(axis=(1, 3)).reshape(channels)
    return loudest


def _divide_(values: Values, seam: Seam, factors: Floats) -> None:
    """Divide the channels that are made."""
    names = (seam.maker.bias,) if seam.maker else seam.scaled
    for name in filter(None, names):
        values[name] = (values[name] / factors).astype(np.float32)
    if seam.maker:
        rows = seam.maker.rows(values[seam.maker.weight])
        divided = rows / factors.reshape(*rows.shape[:2], 1, 1)
        values[seam.maker.weight] = seam.maker.shaped(divided, values[seam.maker.weight])


def _multiply_(values: Values, seam: Seam, factors: Floats) -> None:
    """Multiply what reads the channels."""
    for reader in seam.readers:
        rows = reader.rows(values[reader.weight])
        inputs = rows.shape[0] * rows.shape[2]
        each = np.repeat(factors, inputs // len(factors)).reshape(rows.shape[0], 1, -1, 1)
        values[reader.weight] = reader.shaped(rows * each, values[reader.weight])
