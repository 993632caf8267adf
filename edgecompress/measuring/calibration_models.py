"""Make the three small models that a new device is calibrated with: always the same bytes.

Two compute in floats. The third computes in 8 bits, for a device's pace in 8 bits is another one:
QDQ as `edgecompress quantize` writes it (unsigned activations, signed weights, a scale for each
output channel). Its ranges follow from its weights' variance, for ranges found by running it would
carry one machine's last bits into the file.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
SEED = 20
SIGMAS = 6.0  # so wide is the range of an activation, in standard deviations


class _Chain:
    """Build a chain of layers; `x` names the tensor that the next layer reads."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.x, self.channels = shape, "input", shape[1]
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(SEED)

    def add(self, kind: str, *given: str, **attributes: Any) -> str:
        """Append a layer; return its output."""
        self.x = self._node(kind, *given, **attributes)
        return self.x

    def _node(self, kind: str, *given: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, given, [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Append normal weights that keep the variance; return their name."""
        return self._constant(self._drawn(shape).astype(np.float32))

    def _drawn(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return self._random.standard_normal(shape) / sqrt(prod(shape[1:]))

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


class _Int8Chain(_Chain):
    """Build a chain of layers in 8 bits: every tensor passes a quantizing pair."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.pair(SIGMAS, 128)

    def pair(self, largest: float = SIGMAS * sqrt(2), zero: int = 0) -> None:
        """Append the pair; `largest` is its range's end: by default that behind a Relu."""
        scale = self._constant(np.array(largest / (255 - zero), np.float32))
        form = scale, self._constant(np.array(zero, np.uint8))
        self.add("DequantizeLinear", self._node("QuantizeLinear", self.x, *form), *form)

    def weight(self, *shape: int) -> str:
        """Append 8-bit weights that keep the variance behind a Relu (He et al. 2015)."""
        drawn = self._drawn(shape) * sqrt(2)
        largest = np.abs(drawn).reshape(len(drawn), -1).max(1)
        scale = (largest / 127).astype(np.float32)
        codes = np.rint(drawn / scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
        form = self._constant(scale), self._constant(np.zeros(len(drawn), np.int8))
        return self._node("DequantizeLinear", self._constant(codes), *form, axis=0)

    def conv(self, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        """Append a convolution and its activation, quantized together."""
        super().conv(out, kernel, stride, groups)
        self.pair()


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


def _fires_in_8_bits() -> _Chain:
    """Return 1x1 and 3x3 convolutions side by side, as in SqueezeNet, in 8 bits.

    It begins behind the first layer, whose three channels an 8-bit kernel has no fast way for.
    """
    net = _Int8Chain(1, 64, 56, 56)
    for squeezed, halved in ((16, 0), (16, 0), (32, 1), (32, 0), (48, 1), (64, 0)):
        if halved:
            net.add("MaxPool", net.x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
            net.pair()
        net.conv(squeezed)
        start = net.x
        net.conv(4 * squeezed)
        narrow, net.x, net.channels = net.x, start, squeezed
        net.conv(4 * squeezed, 3)
        net.add("Concat", narrow, net.x, axis=1)
        net.pair()
        net.channels = 8 * squeezed
    return net


_MODELS: dict[str, Callable[[], _Chain]] = {
    "calibration-separable": _separable,
    "calibration-dense": _dense_convolutions,
    "calibration-int8": _fires_in_8_bits,
}


def calibration_models() -> dict[str, bytes]:
    """Return the models' bytes by file name, the same on every machine."""
    return {f"{name}.onnx": make().model().SerializeToString() for name, make in _MODELS.items()}
