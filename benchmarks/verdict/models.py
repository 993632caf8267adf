"""The four models of the trials: plain convolutional nets of about 0.2, 1, 10 and 50 ms.

On one core of an AMD EPYC (Zen 5, AVX-512). Made with onnx alone from a fixed seed, so that every
machine makes the same files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from others import OTHERS

from edgecompress.records import OnnxModel
from edgecompress.runtime import Arrays, onnx_model

# channels, side of the image, 3x3 convolutions
SIZES = {
    "0.2ms": (32, 32, 4),
    "1ms": (48, 36, 5),
    "10ms": (64, 104, 4),
    "50ms": (96, 112, 7),
}


def build(name: str, folder: Path) -> tuple[OnnxModel, Arrays]:
    """Write one model into `folder` unless it is there; return it with an input for it."""
    path = folder / f"{name}.onnx"
    shape = OTHERS[name][1] if name in OTHERS else (1, 3, SIZES[name][1], SIZES[name][1])
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = OTHERS[name][0]() if name in OTHERS else _network(*SIZES[name])
        path.write_bytes(model.SerializeToString())
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return onnx_model(path), {"x": values}


def _network(channels: int, side: int, depth: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(depth):
        inside = channels if i else 3
        values = rng.standard_normal((channels, inside, 3, 3)) / (9 * inside) ** 0.5
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{i}"))
        source = f"r{i - 1}" if i else "x"
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [f"r{depth - 1}"], ["y"]))
    shapes = {"x": (1, 3, side, side), "y": (1, channels, 1, 1)}
    ends = {k: helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in shapes.items()}
    graph = helper.make_graph(nodes, "trial", [ends["x"]], [ends["y"]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
