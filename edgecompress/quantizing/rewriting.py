"""Other words for the same arithmetic, for which ONNX Runtime has kernels that are faster."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecompress.graphs import graphs

Floats = NDArray[np.float32]
Shapes = Mapping[str, tuple[int | None, ...]]  # a free dimension is None


def pool_instead_of_mean_(model: ModelProto) -> None:
    """Write a mean over all places of an image as the pooling that it is: that has int8 kernels."""
    shapes = _shapes(model)
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and _keeps(node) and _axes(model, node, shapes) == {2, 3}:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def product_instead_of_sum_(model: ModelProto) -> None:
    """Write the sum of a sequence's rows, (batch, length, width), as a product with ones.

    ONNX Runtime adds up rows one number at a time; the product took half as long.
    """
    shapes = _shapes(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.op_type == "ReduceSum" else ()
        length = shape[1] if len(shape) == 3 else None
        if length is None or _keeps(node) or _axes(model, node, shapes) != {1}:
            nodes.append(node)
            continue
        ones, row = f"{node.output[0]}@ones", f"{node.output[0]}@row"
        model.graph.initializer.append(
            numpy_helper.from_array(np.ones((1, length), np.float32), ones)
        )
        nodes.append(helper.make_node("MatMul", [ones, node.input[0]], [row]))
        nodes.append(helper.make_node("Squeeze", [row, node.input[1]], node.output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def plain_gemm_(model: ModelProto) -> None:
    """Write the factors of each Gemm into its constants, and its bias as one number a column.

    ONNX Runtime's quantizer loses beta, and asks for a bias of one dimension.
    """
    known = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in known:
            continue
        told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        alpha, beta = told.get("alpha", 1.0), told.get("beta", 1.0)
        weights = numpy_helper.to_array(known[node.input[1]])
        columns = weights.shape[0 if told.get("transB", 0) else 1]
        folded = {"alpha"}
        if alpha != 1:
            _hold_(model, node, 1, weights * np.float32(alpha))
        bias = known.get(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and (len(bias.dims) < 2 or bias.dims[0] == 1):
            row = numpy_helper.to_array(bias).reshape(-1) * np.float32(beta)
            _hold_(model, node, 2, np.broadcast_to(row, columns))
            folded.add("beta")
        kept = [a for a in node.attribute if a.name not in folded]
        del node.attribute[:]
        node.attribute.extend(kept)


def _hold_(model: ModelProto, node: NodeProto, slot: int, values: Floats) -> None:
    """Give a node a constant of its own."""
    node.input[slot] = f"{node.output[0]}@{slot}"
    tensor = numpy_helper.from_array(np.ascontiguousarray(values), node.input[slot])
    model.graph.initializer.append(tensor)


def in_order_(model: ModelProto) -> None:
    """Move each node behind those whose values it reads, be it in a branch; else keep the order.

    What ONNX Runtime's tools put in order may stand before what its branches read.
    """
    nodes = list(model.graph.node)
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    placed: dict[int, NodeProto] = {}
    for first in range(len(nodes)):
        pending = [first]
        while pending:
            needed = {makers[name] for name in reads(nodes[pending[-1]]) if name in makers}
            if missing := sorted(needed - placed.keys()):
                pending += missing
            else:
                last = pending.pop()
                placed.setdefault(last, nodes[last])
    del model.graph.node[:]
    model.graph.node.extend(placed.values())


def reads(node: NodeProto) -> set[str]:
    """Return the names of all values that a node reads, those inside its branches too."""
    inner = (each for a in node.attribute for each in graphs(a.g))
    return {*node.input, *(name for g in inner for each in g.node for name in each.input)}


def _keeps(node: NodeProto) -> bool:
    """Return whether a reduction keeps the reduced dimensions, with size 1."""
    return all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")


def _axes(model: ModelProto, node: NodeProto, shapes: Shapes) -> set[int]:
    """Return the dimensions that a reduction of floats runs over; none where that is not known."""
    rank = len(shapes.get(node.input[0], ()))
    named = node.input[1] if len(node.input) > 1 else ""
    axes = next((t for t in model.graph.initializer if t.name == named), None)
    if not rank or axes is None:
        return set()
    return {int(axis) % rank for axis in numpy_helper.to_array(axes)}


def _shapes(model: ModelProto) -> Shapes:
    """Return the shapes of the model's tensors of 32-bit floats, where they can be told."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {
        value.name: value.type.tensor_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return {
        name: tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        for name, kind in kinds.items()
        if kind.elem_type == onnx.TensorProto.FLOAT and kind.HasField("shape")
    }
