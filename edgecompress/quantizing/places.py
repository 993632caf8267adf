"""Where an int8 model rounds: read off the QDQ pairs that ONNX Runtime's quantizer set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization.quant_utils import QUANT_INPUT_SUFFIX, TENSOR_NAME_QUANT_SUFFIX

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# Which inputs of an operator are learned where they are constants; the rest are no weights.
_LEARNED = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "LayerNormalization": (1, 2),
    "BatchNormalization": (1, 2),
}

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """Hold one operator with the names of what it reads (empty: absent) and makes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Rounded:
    """Name a float weight and the axis of its scales, None where it has a single one."""

    weight: str
    axis: int | None


@dataclass(frozen=True)
class Bias:
    """Name a bias that is rounded to 32 bits, in steps of its input's times its weight's.

    `grid` is that of the input, `weight` the rounded weight beside it.
    """

    name: str
    grid: str
    weight: Rounded


@dataclass(frozen=True)
class Grid:
    """Hold the 8-bit grid of activations: the size of its steps, and the step that is 0."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Places:
    """Hold what an int8 model computes: all in float, but where its numbers are rounded.

    `learned` are the float weights by their name in the float model; `rounded` the values that are
    a weight in 8 bits, `biases` those that are a bias in 32; `grids` belong to one tensor or
    several, as `grid_of` says; those of constants, `settled`, follow from what these hold.
    """

    inputs: tuple[str, ...]
    output: str
    steps: tuple[Step, ...]
    learned: Mapping[str, Array]
    rounded: Mapping[str, Rounded]
    biases: Mapping[str, Bias]
    grids: Mapping[str, Grid]
    grid_of: Mapping[str, str]
    settled: frozenset[str]
    constants: Mapping[str, Array]


def places_of(source: ModelProto, int8: ModelProto) -> Places:
    """Return what `int8` computes, which the quantizer made of the float model `source`."""
    read = _Reader(_constants(source), _constants(int8))
    for node in int8.graph.node:
        read.node_(node)
    output = int8.graph.output[0].name
    used = {name for step in read.steps for name in step.inputs}
    others = {n: a for n, a in read.own.items() if n in used and n not in read.learned}
    return Places(
        inputs=tuple(i.name for i in int8.graph.input if i.name not in read.own),
        output=read.same.get(output, output),
        steps=tuple(read.steps),
        learned=read.learned,
        rounded=read.rounded,
        biases=read.biases,
        grids=read.grids,
        grid_of=read.grid_of,
        settled=frozenset(read.settled & read.grids.keys()),
        constants={**others, **read.restored},
    )


class _Reader:
    """Read nodes in order; `same` gives values that only pass on another one."""

    def __init__(self, floats: Mapping[str, Array], own: Mapping[str, Array]) -> None:
        self.floats, self.own = floats, own
        self.same: dict[str, str] = {}
        self.steps: list[Step] = []
        self.learned: dict[str, Array] = {}
        self.restored: dict[str, Array] = {}
        self.rounded: dict[str, Rounded] = {}
        self.grids: dict[str, Grid] = {}
        self.grid_of: dict[str, str] = {}
        self.grid_behind: dict[str, str] = {}  # by the value that was rounded on it
        self.biases: dict[str, Bias] = {}
        self.whole: dict[str, str] = {}  # biases in 32 bits, by value
        self.settled: set[str] = set()

    def node_(self, node: NodeProto) -> None:
        """Take in one more node."""
        match node.op_type:
            case "QuantizeLinear":
                self._rounding_(node)
            case "DequantizeLinear":
                self._restoring_(node)
            case _:
                self._operator_(node)

    def _rounding_(self, node: NodeProto) -> None:
        tensor, scale, zero_point = node.input
        self.grids[scale] = Grid(float(self.own[scale]), int(self.own[zero_point]))
        # An output of the graph keeps its name behind the pair, and is called otherwise before.
        self.grid_of[tensor.removesuffix(QUANT_INPUT_SUFFIX)] = scale
        self.grid_behind[node.output[0]] = scale
        inputs = (self.same.get(tensor, tensor),)
        self.steps.append(Step(QUANTIZE, inputs, tuple(node.output), {"grid": scale}))

    def _restoring_(self, node: NodeProto) -> None:
        """Pass an activation on; take a weight from the float model, else a constant as it is."""
        value, made = node.input[0], node.output[0]
        if value not in self.own:
            self.same[made] = value
            return
        name = value.removesuffix(TENSOR_NAME_QUANT_SUFFIX)
        kind = self.own[value].dtype
        if name in self.floats and kind == np.int32:
            self.learned[name] = self.floats[name]
            self.whole[made] = name
        elif name in self.floats and kind == np.int8:
            self.learned[name] = self.floats[name]
            single = self.own[node.input[1]].ndim == 0
            axis = None if single else int(_attributes(node).get("axis", 1))
            self.rounded[made] = Rounded(name, axis)
        else:
            self.restored[made] = self._restored(node)
            self.settled.add(node.input[1])

    def _restored(self, node: NodeProto) -> Array:
        value, scale, *zero = (self.own[name] for name in node.input)
        if scale.ndim:
            shape = [1] * value.ndim
            shape[int(_attributes(node).get("axis", 1))] = -1
            scale, zero = scale.reshape(shape), [z.reshape(shape) for z in zero]
        whole = value.astype(np.int64) - (zero[0].astype(np.int64) if zero else 0)
        return np.asarray(whole * scale, np.float32)

    def _operator_(self, node: NodeProto) -> None:
        inputs = tuple(self.same.get(name, name) for name in node.input)
        for slot in _LEARNED.get(node.op_type, ()):
            if slot < len(inputs) and (name := inputs[slot]) in self.floats:
                self.learned[name] = self.floats[name]
        if len(inputs) > 2 and (bias := self.whole.get(inputs[2])):
            grid, weight = self.grid_behind.get(inputs[0]), self.rounded.get(inputs[1])
            if grid is not None and weight is not None:
                self.biases[inputs[2]] = Bias(bias, grid, weight)
            else:  # beside a weight that is computed
                inputs = (*inputs[:2], bias)
        step = Step(node.op_type, inputs, tuple(node.output), _attributes(node))
        self.steps.append(step)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _constants(model: ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
