"""Other words for the same arithmetic, for which ONNX Runtime has kernels that are faster."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

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
