"""Edit ONNX files by hand, as converters and hasty quantizers do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def saved(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def pairs_of(model: ModelProto) -> list[tuple[NodeProto, list[NodeProto]]]:
    """Return each QuantizeLinear of an activation with the DequantizeLinear nodes behind it."""
    return [
        (q, [d for d in model.graph.node if d.input[0] == q.output[0]])
        for q in model.graph.node
        if q.op_type == "QuantizeLinear"
    ]


def remove_pairs(model: ModelProto, quantizers: Iterable[NodeProto]) -> ModelProto:
    """Let the readers behind these pairs read the float value before them."""
    gone = [
        n for q, ds in pairs_of(model) if any(q is given for given in quantizers) for n in (q, *ds)
    ]
    source = {node.output[0]: node.input[0] for node in gone}

    def root(name: str) -> str:
        return root(source[name]) if name in source else name

    ends = {root(value.name): value.name for value in model.graph.output}
    for node in gone:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [ends.get(root(name), root(name)) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    return model


def one_sided(path: Path) -> Path:
    """Quantize what every second convolution gives, and not what the others do."""
    model = onnx.load(path)
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    behind = [q for q, _ in pairs_of(model) if maker.get(q.input[0]) in ("Conv", "Relu")][::2]
    return saved(remove_pairs(model, behind), path.with_name("one-sided.onnx"))


def weights_only(path: Path) -> Path:
    """Keep the int8 weights, and compute with float activations."""
    model = onnx.load(path)
    return saved(
        remove_pairs(model, [q for q, _ in pairs_of(model)]), path.with_name("weights-only.onnx")
    )


def mixed_types(path: Path) -> Path:
    """Make every second pair signed, so that what a layer reads and gives differs in type."""
    model = onnx.load(path)
    zero = numpy_helper.from_array(np.array(0, np.int8), "signed_zero")
    model.graph.initializer.append(zero)
    for quantizer, dequantizers in pairs_of(model)[1::2]:
        for node in (quantizer, *dequantizers):
            node.input[2] = zero.name
    return saved(model, path.with_name("mixed.onnx"))


def signed(path: Path) -> Path:
    """Make every unsigned activation signed: the same model, 128 taken off all of them."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            array = (numpy_helper.to_array(tensor).astype(np.int16) - 128).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return saved(model, path.with_name("signed.onnx"))


def in_half(path: Path) -> Path:
    """Write every weight and activation in float16."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return saved(model, path.with_name("half.onnx"))


def recurrent(folder: Path, steps: int, width: int) -> Path:
    """Write a recurrent layer as one operator."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    shapes = {"w": (1, width, width), "r": (1, width, width), "b": (1, 2 * width)}
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) / 4, name)
        for name, shape in shapes.items()
    ]
    weights.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("RNN", ["t", "w", "r", "b"], ["", "h"], hidden_size=width),
        helper.make_node("Squeeze", ["h", "first"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", steps, width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph(nodes, "recurrent", [x], [y], weights)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return saved(model, folder / "recurrent.onnx")
