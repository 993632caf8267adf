"""Four models unlike the trials' and unlike the reference that pace is judged by.

8-bit convolutions, dense layers that stream 50 MB of weights from memory, depthwise convolutions,
and a recurrent net: what they share with the reference network is the machine alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]


class _Net:
    """Build a chain of nodes; `x` names the tensor that the next node reads."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.x = shape, "x"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def node(self, kind: str, *given: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"v{len(self.nodes)}{'_' * i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, given, names, **attributes))
        self.x = names[-1]
        return self.x

    def constant(self, values: object, kind: type = np.float32) -> str:
        array = np.asarray(values, dtype=kind)
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return f"w{len(self.weights) - 1}"

    def normal(self, *shape: int) -> NDArray[np.float64]:
        return self._rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

    def finish(self) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("x", self.shape), (self.x, None))
        ]
        graph = helper.make_graph(self.nodes, "other", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def int8() -> onnx.ModelProto:
    """Return five 3x3 convolutions of 48 channels in QDQ: unsigned times signed 8 bits."""
    net, inside = _Net((1, 3, 56, 56)), 3

    def rounded() -> None:
        ends = (net.constant(0.03), net.constant(128, np.uint8))
        net.node("DequantizeLinear", net.node("QuantizeLinear", net.x, *ends), *ends)

    rounded()
    for _ in range(5):
        weight = np.clip(np.rint(net.normal(48, inside, 3, 3) * 300), -127, 127)
        ends = (net.constant(1 / 300), net.constant(0, np.int8))
        before = net.x
        exact = net.node("DequantizeLinear", net.constant(weight, np.int8), *ends)
        net.node("Conv", before, exact, pads=[1] * 4)
        net.node("Relu", net.x)
        rounded()
        inside = 48
    return net.finish()


def dense() -> onnx.ModelProto:
    """Return three dense layers of 2048, whose weights no cache holds."""
    net = _Net((1, 2048))
    for _ in range(3):
        net.node("MatMul", net.x, net.constant(net.normal(2048, 2048)))
        net.node("Relu", net.x)
    return net.finish()


def depthwise() -> onnx.ModelProto:
    """Return four pairs of a depthwise and a pointwise convolution with swish between."""
    net = _Net((1, 96, 28, 28))
    for _ in range(4):
        net.node("Conv", net.x, net.constant(net.normal(96, 1, 3, 3)), group=96, pads=[1] * 4)
        before = net.x
        net.node("Mul", before, net.node("Sigmoid", before))
        net.node("Conv", net.x, net.constant(net.normal(96, 96, 1, 1)))
    return net.finish()


def recurrent() -> onnx.ModelProto:
    """Return an LSTM of 128 states over 64 steps."""
    net = _Net((64, 1, 64))
    weights = [net.constant(net.normal(1, 512, inside)) for inside in (64, 128)]
    net.node("LSTM", net.x, *weights, outputs=2, hidden_size=128)
    return net.finish()


OTHERS: dict[str, tuple[Callable[[], onnx.ModelProto], Shape]] = {
    "int8": (int8, (1, 3, 56, 56)),
    "dense": (dense, (1, 2048)),
    "depthwise": (depthwise, (1, 96, 28, 28)),
    "recurrent": (recurrent, (64, 1, 64)),
}
