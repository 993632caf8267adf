"""Float models written by hand: int8 must need nothing of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecompress.graphs import tidy
from edgecompress.records import OnnxModel
from edgecompress.store import artifact


def save(
    path: Path, nodes: list[onnx.NodeProto], shape: list[object], **weights: object
) -> OnnxModel:
    """Write a float model x -> y by hand."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(tidy(model, ("a", "b")).SerializeToString())
    return artifact(path, OnnxModel)


def classifier(path: Path) -> OnnxModel:
    """Write a residual convolutional net whose classes are ten random filters of noise."""
    g = np.random.default_rng(0)
    node = helper.make_node
    return save(
        path,
        [
            node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2", "b1"], ["c2"], pads=[1, 1, 1, 1]),
            node("Add", ["c2", "r1"], ["a1"]),
            node("Relu", ["a1"], ["r2"]),
            node("Flatten", ["r2"], ["f"]),
            node("Gemm", ["f", "w3"], ["y"], transB=1),
        ],
        [1, 8, 8],
        w1=g.normal(size=(16, 1, 3, 3)),
        w2=g.normal(size=(16, 16, 3, 3)) / 12,
        b1=g.normal(size=16),
        w3=g.normal(size=(10, 1024)),
    )


def images(count: int, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 1, 8, 8)).astype(np.float32)}


def operators(made: OnnxModel) -> set[str]:
    return {node.op_type for node in onnx.load(made.path).graph.node}
