"""Layers as repairs see them: nodes with constant weights, each with weights of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgecompress.graphs import graphs
from edgecompress.quantizing.rewriting import reads

Floats = NDArray[np.float64]
Weights = TypeVar("Weights", bound=np.generic)
WEIGHTED = ("Conv", "Gemm", "MatMul")


def copied(model: ModelProto) -> ModelProto:
    """Return a copy."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def attribute(node: NodeProto, name: str, default: int) -> int:
    """Return a whole-number attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the constants of a graph by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def makers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return which node makes each value."""
    return {name: node for node in graph.node for name in node.output if name}


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return which nodes read each value, those inside branches by the node that holds them."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in reads(node):
            found.setdefault(name, []).append(node)
    return found


@dataclass(frozen=True)
class Layer:
    """Name a layer and say how its weights lie.

    `groups` is that of a convolution, else 1; `transposed` says that inputs come first (those of a
    convolution come last always). `kernel` is empty for a product.
    """

    node: str
    operator: str
    input: str
    output: str
    weight: str
    bias: str
    groups: int = 1
    transposed: bool = False
    kernel: tuple[int, ...] = ()

    def rows(self, weight: NDArray[np.generic]) -> Floats:
        """Return weights as (groups, outputs of a group, inputs of a group, positions)."""
        array = np.asarray(weight, dtype=np.float64)
        array = array.T if self.transposed else array
        outputs, inputs = array.shape[0] // self.groups, array.shape[1]
        return array.reshape(self.groups, outputs, inputs, -1)

    def outputs(self, weight: NDArray[np.generic]) -> int:
        """Return how many channels the layer makes."""
        return int(weight.shape[-1 if self.transposed else 0])

    def shaped(self, rows: Floats, like: NDArray[Weights]) -> NDArray[Weights]:
        """Return `rows` as the weights lie in the file, of the type of `like`."""
        shape = like.shape[::-1] if self.transposed else like.shape
        array = rows.reshape(shape)
        return np.ascontiguousarray(array.T if self.transposed else array).astype(like.dtype)


def layers(model: ModelProto) -> list[Layer]:
    """Return the layers of the outer graph whose weights are constants, in order of running."""
    known = constants(model.graph)
    found = []
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or node.domain or node.input[1] not in known:
            continue
        if known[node.input[1]].data_type != TensorProto.FLOAT:
            continue
        flat = node.op_type != "Conv"
        if flat and (len(known[node.input[1]].dims) != 2 or attribute(node, "transA", 0)):
            continue
        has_bias = node.op_type != "MatMul" and len(node.input) > 2 and node.input[2] in known
        found.append(
            Layer(
                node=node.name,
                operator=node.op_type,
                input=node.input[0],
                output=node.output[0],
                weight=node.input[1],
                bias=node.input[2] if has_bias else "",
                groups=1 if flat else attribute(node, "group", 1),
                transposed=flat and not attribute(node, "transB", 0),
                kernel=tuple(known[node.input[1]].dims[2:]),
            )
        )
    return found


def unshared(model: ModelProto) -> ModelProto:
    """Return the model in which each layer and norm has constants and a bias of its own.

    What it computes stays the same. Equal constants are one in our files, and a layer without a
    bias would have nowhere to put what repairs find.
    """
    own = copied(model)
    known, inner = constants(own.graph), list(graphs(own.graph))
    uses = Counter(name for g in inner for node in g.node for name in node.input)
    for node in own.graph.node:
        if node.op_type in (*WEIGHTED, "LayerNormalization"):
            for slot, name in enumerate(node.input):
                if slot and name in known and uses[name] > 1:
                    uses[name] -= 1
                    tensor = own.graph.initializer.add()
                    tensor.CopyFrom(known[name])
                    node.input[slot] = tensor.name = f"{name}@{node.name}"
    for layer in layers(own):
        if layer.operator in ("Conv", "Gemm") and not layer.bias:
            _add_bias_(own, layer)
    return own


def _add_bias_(model: ModelProto, layer: Layer) -> None:
    node = named(model)[layer.node]
    if len(node.input) > 2 and node.input[2]:  # computed, not constant
        return
    weight = numpy_helper.to_array(constants(model.graph)[layer.weight])
    zeros = np.zeros(layer.outputs(weight), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(zeros, f"bias@{node.name}"))
    node.input[:] = [*node.input[:2], f"bias@{node.name}"]


def with_constants(model: ModelProto, new: Mapping[str, NDArray[np.generic]]) -> ModelProto:
    """Return the model with other values for the constants named, of the types given."""
    changed = copied(model)
    for tensor in changed.graph.initializer:
        if tensor.name in new:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(new[tensor.name]), tensor.name))
    return changed


def quantized_constant(
    graph: GraphProto, node: NodeProto, slot: int
) -> tuple[TensorProto, Floats, Floats] | None:
    """Return whole numbers, scale and zero point of a node's constant input; None if it is float.

    Scale and zero point have shape (1,) or one entry for each output.
    """
    known, made = constants(graph), makers(graph)
    maker = made.get(node.input[slot]) if len(node.input) > slot else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in known:
        return None
    values = known[maker.input[0]]
    scale = np.atleast_1d(numpy_helper.to_array(known[maker.input[1]]).astype(np.float64))
    zero = np.zeros_like(scale)
    if len(maker.input) > 2 and maker.input[2]:
        zero = np.atleast_1d(numpy_helper.to_array(known[maker.input[2]]).astype(np.float64))
    return values, scale, zero


def named(model: ModelProto) -> dict[str, NodeProto]:
    """Return the nodes of the outer graph by name."""
    return {node.name: node for node in model.graph.node}
