"""Tiny ONNX models for tests: made with onnx alone, in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, *shape: int | str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """Return a declared input or output; a text dimension is free."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def save(graph: onnx.GraphProto, path: Path) -> Path:
    """Write `graph` as a model, unchecked."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def save_mlp(path: Path, width: int = 8, depth: int = 1, batch: int | str = "n") -> Path:
    """Write relu(x W) applied `depth` times, input `x` and output `y` of shape (batch, width)."""
    rng = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(1, depth)), "y"]
    nodes, weights = [], []
    for i in range(depth):
        matrix = rng.standard_normal((width, width)).astype(np.float32) / width**0.5
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [names[i], f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [names[i + 1]]))
    inputs, outputs = [value("x", batch, width)], [value("y", batch, width)]
    return save(helper.make_graph(nodes, "mlp", inputs, outputs, weights), path)
