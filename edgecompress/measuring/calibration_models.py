"""Make the three small models that a new device is calibrated with: always the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
SEED = 20


class _Chain:
    """Build a chain of layers; `x` names the tensor that the next layer reads."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.x, self.channels = shape, "input", shape[1]
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(SEED)

    def add(self, kind: str, *given: str, **attributes: Any) -> str:
        """Append a node; return its output."""
        self.x = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, given, [self.x], **attributes))
        return self.x

    def weight(self, *shape: int) -> str:
        """Append normal weights that keep the variance; return their name."""
        fan_in = int(np.prod(shape[1:]))
        drawn = self._random.standard_normal(shape) / np.sqrt(fan_in)
        return self._constant(drawn.astype(np.float32))

    def _constant(self, array: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        """Append a convolution and its activation."""
        weight = self.weight(out, self.channels // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        self.add("Conv", self.x, weight, strides=[stride] * 2, pads=pads, group=groups)
        self.add("Relu", self.x)
        self.channels = out

    def model(self) -> onnx.ModelProto:
        """Return the finished model."""
        value = helper.make_tensor_value_info
        given = [value("input", TensorProto.FLOAT, self.shape)]
        out = [value(self.x, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "calibration", given, out, self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        return onnx.shape_inference.infer_shapes(model)


def _separable() -> _Chain:
    """Return depthwise and 1x1 convolutions, as in mobile networks."""
    net = _Chain(1, 3, 160, 160)
    net.conv(24, 3, 2)
    for width, stride in ((48, 1), (96, 2), (96, 1), (192, 2), (192, 1), (384, 2), (384, 1)):
        net.conv(net.channels, 3, stride, net.channels)
        net.conv(width)
    return net


def _dense_convolutions() -> _Chain:
    """Return 3x3 convolutions with residual sums, as in larger networks."""
    net = _Chain(1, 3, 96, 96)
    net.conv(32, 3, 2)
    for width, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        net.conv(width, 3, stride)
        start = net.x
        net.conv(width, 3)
        net.add("Add", start, net.x)
    return net


def _attention() -> _Chain:
    """Return matrix products, soft maxima and sums, as in transformers."""
    net = _Chain(1, 128, 192)
    width = 192
    for _ in range(2):
        start = net.x
        query, key, mixed = (net.add("MatMul", start, net.weight(width, width)) for _ in range(3))
        scores = net.add(
            "Softmax", net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
        )
        added = net.add("Add", start, net.add("MatMul", scores, mixed))
        wide = net.add("Sigmoid", net.add("MatMul", added, net.weight(width, 4 * width)))
        net.add("Add", added, net.add("MatMul", wide, net.weight(4 * width, width)))
    return net


_MODELS: dict[str, Callable[[], _Chain]] = {
    "calibration-separable": _separable,
    "calibration-dense": _dense_convolutions,
    "calibration-attention": _attention,
}


def calibration_models() -> dict[str, bytes]:
    """Return the models' bytes by file name, the same on every machine."""
    return {f"{name}.onnx": make().model().SerializeToString() for name, make in _MODELS.items()}
