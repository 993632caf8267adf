"""Count what ONNX graphs compute: MACs by kind of operator, bytes moved, layers, parameters.

Run by path, as `python -P counting.py MEMORY_BYTES CPU_SECONDS`, in a child with limits, for the
files may come from anywhere: one JSON request in (`[{"path", "shapes"}]`), one JSON answer out
(for each file the counts, or `{"error"}`).

The counts are those of the published table (`benchmarks/prediction`): a layer that computes takes
its batch normalization, bias and simple activation with it, as every runtime fuses them. All else
moves its inputs and outputs at 4 bytes an element. Quantize and dequantize nodes are transparent.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from onnx import NodeProto
from onnx.inliner import inline_local_functions

from edgecompress.admission import limit

Shape = tuple[int, ...]

CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1, "QGemm": 3}
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # gates
FEW = 5  # a 3x3 convolution of fewer channels (an image's) has no fast algorithm
# The fast one (Winograd's F(4x4, 3x3), Lavin and Gray 2016) turns 4x4 outputs into 6x6 products:
# beside reading and writing the tensors, it writes and reads 36/16 times as much.
WINOGRAD = 1 + 2 * 36 / 16
BLOCK = 4  # channels that a kernel computes together
WIDE = 16  # groups of so many channels are computed as so many plain convolutions
LOOPS = {"Loop", "Scan", "If"}  # how often they run is not in the file
UNKNOWN = {"Einsum", "Attention", "DFT", "STFT", "DeformConv"}  # no kind of cost covers these
# Nodes through which a tensor passes unchanged, or in another number format.
ALIASES = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Identity", "Dropout"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
}
FUSED = {"Relu", "LeakyRelu", "Clip", "PRelu", "Cast", "BatchNormalization", "Add", "Sub", "Mul"}
POINTWISE = FUSED | {
    *("Div", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Exp", "Softplus", "Mish"),
    *("Gelu", "Elu", "Selu", "Pow", "Sqrt", "Abs", "Neg", "Min", "Max", "Log", "Swish"),
}


class UncountableError(Exception):
    """Say why a graph cannot be counted."""


@dataclass
class Graph:
    """Hold a graph ready to be counted: shapes by tensor, constants, and who reads what."""

    nodes: list[NodeProto]
    shapes: Mapping[str, Shape]
    constants: set[str]
    integers: set[str]
    alias: dict[str, str] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)

    def origin(self, name: str) -> str:
        """Return the tensor that `name` is, behind reshapes and changes of number format."""
        while name in self.alias:
            name = self.alias[name]
        return name

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape, or raise UncountableError when nobody could infer it."""
        if name not in self.shapes:
            raise UncountableError(f"the shape of {name[:80]!r} is not known before it runs")
        return self.shapes[name]

    def elements(self, name: str) -> int:
        """Return how many elements a tensor has."""
        return prod(self.shape(name))


def prepare(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """Return the model's graph with every shape inferred from those of its inputs."""
    for value in model.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape
            dims.ClearField("dim")
            for size in shapes[value.name]:
                dims.dim.add(dim_value=size)
    model = inline_local_functions(model)  # what they do is not hidden in them
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {t.name: tuple(t.dims) for t in graph.initializer}
    integers = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        if tensor.HasField("shape") and min(dims, default=0) >= 0:
            known[value.name] = tuple(dims)
        if tensor.elem_type == onnx.TensorProto.INT64:
            integers.add(value.name)
    return Graph(list(graph.node), known, {t.name for t in graph.initializer}, integers)


def count(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the counts of one inference with inputs of these shapes.

    Raise UncountableError for loops, for operators of unknown work, and for shapes that only a run
    can tell.
    """
    graph = prepare(model, shapes)
    macs: Counter[str] = Counter()
    layers = parameters = unaligned = 0
    convolved = 0.0
    weights: dict[str, int] = {}
    computed: set[str] = set()
    rest: list[NodeProto] = []
    for node in graph.nodes:
        if node.op_type in LOOPS:
            raise UncountableError(f"what its {node.op_type} does is known only when it runs")
        _constants_(graph, node, weights)
        kind, done = macs_of(graph, node)
        if kind:
            macs[kind] += done
            layers += 1
            if node.op_type in CONVOLUTIONS and kind != "depthwise":
                convolved += _bytes(graph, node) * (WINOGRAD if kind == "conv3x3" else 1)
                unaligned += done * _is_unaligned(graph, node)
            computed.add(node.output[0])
        elif not _is_known(node):
            raise UncountableError(f"how much work a {node.op_type} is cannot be told")
        elif node.op_type in ALIASES and node.input:
            graph.alias[node.output[0]] = node.input[0]
        elif not all(name in graph.constants for name in node.output):
            rest.append(node)
    parameters = sum(weights.values())
    moved, smooth, others = _moved(graph, rest, computed)
    counted = {kind: macs[kind] / 1e6 for kind in KINDS}
    return counted | {
        "elementwise_mb": moved / 1e6,
        "exponential_mb": smooth / 1e6,
        "layers": float(layers + others),
        "parameters_m": parameters / 1e6,
        "convolved_mb": convolved / 1e6,
        "unaligned": unaligned / 1e6,
        "int8": float(_is_int8(graph.nodes)),
    }


KINDS = (
    *("pointwise", "conv3x3", "conv_other", "depthwise", "grouped"),
    *("fully_connected", "matmul"),
)


def _constants_(graph: Graph, node: NodeProto, weights: dict[str, int]) -> None:
    """Follow constants through the nodes that only rearrange them; note the weights read."""
    given = [name for name in node.input if name]
    if node.op_type == "DynamicQuantizeLinear":  # its scale and zero point are a number each
        graph.constants.update(node.output[1:])
    if node.op_type in ("Constant", "ConstantOfShape", "Shape") or (
        given and all(name in graph.constants for name in given)
    ):
        graph.constants.update(node.output)
        return
    skip = 1 if node.op_type in ALIASES else len(given)
    for name in given[:skip]:
        if name in graph.constants and name in graph.shapes and name not in graph.integers:
            size = graph.elements(name)
            weights[name] = size if size > 1 else 0


def macs_of(graph: Graph, node: NodeProto) -> tuple[str, int]:
    """Return the kind and the multiply-accumulates of a node, or no kind."""
    if node.op_type in CONVOLUTIONS:
        return _convolution(graph, node)
    if node.op_type in PRODUCTS:
        right = node.input[PRODUCTS[node.op_type]]
        inner = graph.shape(node.input[0])[0 if _attribute(node, "transA", 0) else -1]
        dense = right in graph.constants and len(graph.shape(node.output[0])) <= 2
        kind = "fully_connected" if dense else "matmul"
        return kind, graph.elements(node.output[0]) * inner
    if node.op_type in RECURRENT:
        steps, batch, size = graph.shape(node.input[0])
        directions, _, hidden = graph.shape(node.input[2])
        gates = RECURRENT[node.op_type] * hidden
        return "matmul", steps * batch * directions * gates * (size + hidden)
    return "", 0


def _convolution(graph: Graph, node: NodeProto) -> tuple[str, int]:
    weight = graph.shape(node.input[CONVOLUTIONS[node.op_type]])
    groups = _attribute(node, "group", 1)
    channels, made = graph.shape(node.input[0])[1], graph.shape(node.output[0])[1]
    transposed = node.op_type == "ConvTranspose"
    places = graph.elements(node.input[0] if transposed else node.output[0])
    macs = places * prod(weight[1:])
    kernel = weight[2:]
    steps = {*_attribute(node, "strides", [1]), *_attribute(node, "dilations", [1])}
    if groups > 1 and (transposed or min(channels, made) < WIDE * groups):
        return ("depthwise" if groups == channels else "grouped"), macs
    if prod(kernel) == 1:
        return "pointwise", macs
    fast = kernel == (3, 3) and steps == {1} and channels >= FEW and not transposed
    return ("conv3x3" if fast else "conv_other"), macs


def _bytes(graph: Graph, node: NodeProto) -> int:
    """Return the bytes of a layer's input and output."""
    return 4 * (graph.elements(node.input[0]) + graph.elements(node.output[0]))


def _is_unaligned(graph: Graph, node: NodeProto) -> bool:
    """Return whether a group's channels fill no whole blocks; an image's few are apart."""
    groups = _attribute(node, "group", 1)
    given, made = (graph.shape(name)[1] // groups for name in (node.input[0], node.output[0]))
    return bool(made % BLOCK or (given >= FEW and given % BLOCK))


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _moved(graph: Graph, nodes: Sequence[NodeProto], computed: set[str]) -> tuple[int, int, int]:
    """Return bytes moved, those of them under an exponential, and the layers that move them.

    Pointwise nodes that all follow from one tensor (x times the sigmoid of x) are one layer.
    """
    readers = Counter(graph.origin(name) for node in nodes for name in node.input)
    groups: dict[str, list[NodeProto]] = {}
    plain: list[NodeProto] = []
    for node in nodes:
        if all(name in graph.integers for name in node.output if name):
            continue  # the arithmetic of shapes
        root = _root(graph, node)
        if root is None:
            plain.append(node)
        else:
            graph.source[node.output[0]] = root
            groups.setdefault(root, []).append(node)
    moved = smooth = layers = 0
    for root, members in groups.items():
        if root in computed and {m.op_type for m in members} <= FUSED and readers[root] == 1:
            continue
        size = 4 * (graph.elements(root) + graph.elements(members[-1].output[0]))
        moved, layers = moved + size, layers + 1
        smooth += size if any(_exponential(m) for m in members) else 0
    for node in plain:
        tensors = [t for t in (*node.input, *node.output) if t and t not in graph.constants]
        if node.op_type in ("Gather", "Slice", "Split"):
            tensors = [*node.output, *node.output]
        size = 4 * sum(graph.elements(t) for t in tensors if t in graph.shapes)
        moved, layers = moved + size, layers + 1
        smooth += size if _exponential(node) else 0
    return moved, smooth, layers


def _root(graph: Graph, node: NodeProto) -> str | None:
    """Return the one tensor from which a pointwise node follows, or None."""
    if node.op_type not in POINTWISE:
        return None
    given = [graph.origin(name) for name in node.input if name and name not in graph.constants]
    large = [n for n in given if len(given) == 1 or graph.elements(n) > 1]
    roots = {graph.source.get(name, name) for name in large}
    return roots.pop() if len(roots) == 1 else None


def _exponential(node: NodeProto) -> bool:
    return node.op_type in (
        *("Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Mish", "Gelu", "Elu", "Selu", "Swish"),
        *("Softmax", "LogSoftmax", "Pow", "Log"),
    )


def _is_known(node: NodeProto) -> bool:
    """Return whether a node that multiplies no matrices is one whose cost is its bytes.

    Another domain's operator, or a function of the model's own, may hold any work.
    """
    if node.domain in ("", "ai.onnx"):
        return node.op_type not in UNKNOWN
    contributed = POINTWISE | ALIASES | {"FastGelu", "BiasGelu", "QuickGelu"}
    return node.op_type.startswith("QLinear") or node.op_type in contributed


def _is_int8(nodes: Sequence[NodeProto]) -> bool:
    """Return whether most computing layers take 8-bit activations and weights."""
    kinds = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    layers = [n for n in nodes if n.op_type in CONVOLUTIONS or n.op_type in PRODUCTS]
    narrow = [
        n
        for n in layers
        if n.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm")
        or (n.input[0] in kinds and n.input[1] in kinds)
    ]
    return 2 * len(narrow) > len(layers)


def answers(requests: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the answer to each request."""
    for request in requests:
        try:
            model = onnx.load(request["path"], load_external_data=False)
            yield {"counts": count(model, request["shapes"])}
        except Exception as error:  # whatever the libraries raise on foreign bytes
            yield {"error": " ".join(str(error).split())[:300] or type(error).__name__}


def main(memory: str, seconds: str) -> None:
    """Answer one request; nothing else reaches standard output."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    limit(int(memory), int(seconds))
    json.dump(list(answers(json.load(sys.stdin))), answer_to)
    answer_to.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
