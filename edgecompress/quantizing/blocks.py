"""Weight-only quantization: weights of products and lookups in 8 or 4 bits, activations in floats.

8 bits have a scale for each column, in standard operators, which ONNX Runtime fuses; 4 bits a scale
for each block of a column, in its own MatMulNBits: the standard's blocks need opset 21, and ran as
fast. Tables of a lookup keep 8 bits in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecompress.quantizing.prepared import SMALLEST_PRODUCT, NothingToDoError

Bits = Literal[4, 8]
Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
BLOCK = 32
_DOMAIN = "com.microsoft"


def weight_only(prepared: Path, bits: Bits) -> ModelProto:
    """Return the model with the weights of its larger products and lookups in `bits` bits.

    Raise NothingToDoError for a model without any.
    """
    model = onnx.load(prepared)
    graph = model.graph
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and np.prod(tensor.dims) >= SMALLEST_PRODUCT
    }
    leaner = [(node, _leaner(node, weights, bits, graph)) for node in graph.node]
    if not any(instead for _, instead in leaner):
        raise NothingToDoError(
            f"int{bits} weights have nothing to gain: no MatMul, Gemm or Gather with at least "
            f"{SMALLEST_PRODUCT} weights"
        )
    nodes = [each for node, instead in leaner for each in instead or [node]]
    del graph.node[:]
    graph.node.extend(nodes)
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return model


def in_blocks(rows: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Return each row's 4-bit codes, shape (rows, blocks, BLOCK), and scales, shape (rows, blocks).

    A weight is (code - 8) * scale. The largest of a block is met exactly, whatever its sign: the
    lowest code reaches one further than the highest. Rows are filled up with 0.
    """
    filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
    blocks = filled.reshape(len(rows), -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scales = (largest / -8).astype(np.float32)
    whole = np.rint(np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales != 0))
    return np.clip(whole + 8, 0, 15).astype(np.uint8), scales[..., 0]


def _by_column(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return 8-bit codes and a scale for each column: a weight is code * scale."""
    largest = np.maximum(np.abs(matrix).max(0), np.finfo(np.float32).tiny)
    scales = (largest / 127).astype(np.float32)
    return np.clip(np.rint(matrix / scales), -127, 127).astype(np.int8), scales


def _leaner(node: NodeProto, weights: Weights, bits: Bits, graph: GraphProto) -> list[NodeProto]:
    """Return the nodes that take the place of a product or lookup; none for any other node."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "MatMul" if node.input[1] in weights:
            return _product(node, weights[node.input[1]], bits, graph)
        case "Gemm" if node.input[1] in weights and _is_plain(given):
            matrix = weights[node.input[1]]
            return _product(node, matrix.T if given.get("transB", 0) else matrix, bits, graph)
        case "Gather" if node.input[0] in weights and not given.get("axis", 0):
            return _lookup(node, weights[node.input[0]], graph)
    return []


def _is_plain(given: dict[str, object]) -> bool:
    """Return whether a Gemm only multiplies and adds its bias once."""
    return not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0


def _product(node: NodeProto, matrix: Floats, bits: Bits, graph: GraphProto) -> list[NodeProto]:
    """Return the nodes of a product with the matrix, shape (inputs, outputs), and of its bias."""
    name = node.output[0]
    bias = [text for text in node.input[2:] if text]
    output = f"{name}@product" if bias else name
    if bits == 8:
        codes, scales = _by_column(matrix)
        zeros = _constant(graph, f"{name}.zeros", np.zeros(len(scales), np.int8))
        factors = _constant(graph, f"{name}.scales", scales)
        stored = [_constant(graph, f"{name}.codes", codes), factors, zeros]
        nodes = [
            helper.make_node("DequantizeLinear", stored, [f"{name}@weights"], axis=1),
            helper.make_node("MatMul", [node.input[0], f"{name}@weights"], [output]),
        ]
    else:
        blocks, scales = in_blocks(np.ascontiguousarray(matrix.T))
        packed = blocks[..., ::2] | (blocks[..., 1::2] << 4)  # the first of two in the lower half
        factors = _constant(graph, f"{name}.scales", scales.reshape(-1))
        stored = [_constant(graph, f"{name}.codes", packed), factors]
        nodes = [
            helper.make_node(
                "MatMulNBits",
                [node.input[0], *stored],
                [output],
                domain=_DOMAIN,
                K=matrix.shape[0],
                N=matrix.shape[1],
                bits=4,
                block_size=BLOCK,
                accuracy_level=4,  # products in 8 bits: as fast as can be, and no less accurate
            )
        ]
    return [*nodes, *(helper.make_node("Add", [output, text], [name]) for text in bias)]


def _lookup(node: NodeProto, table: Floats, graph: GraphProto) -> list[NodeProto]:
    """Look up codes of 8 bits, and multiply by a scale a column.

    4 bits (GatherBlockQuantized) took ten times as long as floats, DequantizeLinear with a scale a
    column twice as long.
    """
    name = node.output[0]
    codes, scales = _by_column(table)
    stored = _constant(graph, f"{name}.codes", codes)
    factors = _constant(graph, f"{name}.scales", scales)
    return [
        helper.make_node("Gather", [stored, node.input[1]], [f"{name}@codes"]),
        helper.make_node("Cast", [f"{name}@codes"], [f"{name}@whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}@whole", factors], [name]),
    ]


def _constant(graph: GraphProto, name: str, array: NDArray[np.generic]) -> str:
    """Add a constant to the graph, and return its name."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name
