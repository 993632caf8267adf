"""Published networks as ONNX graphs without weights: shapes are all that counting needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto, helper


class Net:
    """Build a chain of layers; `x` is the tensor that the next layer reads, `c` its channels."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.x, self.c = shape, "x", shape[1]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *given: str, **attributes: Any) -> str:
        self.x = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*given], [self.x], **attributes))
        return self.x

    def weight(self, *dims: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT))
        return name

    def conv(
        self,
        out: int,
        k: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        pad: int = -1,
    ) -> str:
        weight, bias = self.weight(out, self.c // groups, k, k), self.weight(out)
        pads = [k // 2 if pad < 0 else pad] * 4
        self.add("Conv", self.x, weight, bias, strides=[stride] * 2, pads=pads, group=groups)
        self.c = out
        return self.add("Relu", self.x) if relu else self.x

    def pool(self, k: int, stride: int = 2, pad: int = 0, ceil: int = 0) -> str:
        shape = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [pad] * 4}
        return self.add("MaxPool", self.x, ceil_mode=ceil, **shape)

    def dense(self, inputs: int, out: int, relu: bool = False) -> None:
        self.add("Gemm", self.x, self.weight(out, inputs), self.weight(out), transB=1)
        if relu:
            self.add("Relu", self.x)

    def classify(self, classes: int) -> None:
        self.add("GlobalAveragePool", self.x)
        self.add("Flatten", self.x)
        self.dense(self.c, classes)

    def model(self) -> onnx.ModelProto:
        self.add("Softmax", self.x)
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, ["n", *self.shape[1:]])],
            [value(self.x, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def mobilenet() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(32, 3, 2)
    widths = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for width, stride in [*widths, (1024, 2), (1024, 1)]:
        net.conv(net.c, 3, stride, net.c)
        net.conv(width)
    net.classify(1000)
    return net


def resnet18() -> Net:
    """Return it with a projection in the first block too, as the benchmark's has."""
    net = Net(1, 3, 224, 224)
    net.conv(64, 7, 2)
    net.pool(3, pad=1)
    for block, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
        start, channels, stride = net.x, net.c, 2 if block in (2, 4, 6) else 1
        net.conv(width, 3, stride)
        deep = net.conv(width, 3, relu=False)
        if block % 2 == 0:
            net.x, net.c = start, channels
            start = net.conv(width, 1, stride, relu=False)
        net.add("Relu", net.add("Add", deep, start))
    net.classify(1000)
    return net


def vgg16() -> Net:
    net = Net(1, 3, 224, 224)
    for repeats, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeats):
            net.conv(width, 3)
        net.pool(2)
    net.add("Flatten", net.x)
    net.dense(25088, 4096, relu=True)
    net.dense(4096, 4096, relu=True)
    net.dense(4096, 1000)
    return net


def squeezenet() -> Net:
    """Return version 1.1; its last convolution is padded, as in the original."""
    net = Net(1, 3, 227, 227)
    net.conv(64, 3, 2, pad=0)
    for number, (narrow, wide) in enumerate(((16, 64), (32, 128), (48, 192), (64, 256))):
        if number < 3:
            net.pool(3, ceil=1)
        for _ in range(2):
            net.conv(narrow)
            squeezed = net.x
            left = net.conv(wide)
            net.x, net.c = squeezed, narrow
            net.add("Concat", left, net.conv(wide, 3), axis=1)
            net.c = 2 * wide
    net.conv(1000, pad=1)
    net.add("GlobalAveragePool", net.x)
    return net


def swish(net: Net) -> None:
    """Add x times the sigmoid of x."""
    start = net.x
    net.add("Mul", start, net.add("Sigmoid", start))


def efficientnet_b0() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(32, 3, 2, relu=False)
    swish(net)
    for growth, width, repeats, stride, k in (
        *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
        *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
    ):
        for number in range(repeats):
            _inverted_block(net, growth, width, stride if number == 0 else 1, k)
    net.conv(1280, relu=False)
    swish(net)
    net.classify(1000)
    return net


def _inverted_block(net: Net, growth: int, width: int, stride: int, k: int) -> None:
    start, channels = net.x, net.c
    if growth > 1:
        net.conv(channels * growth, relu=False)
        swish(net)
    net.conv(net.c, k, stride, net.c, relu=False)
    swish(net)
    wide, expanded = net.x, net.c
    net.add("GlobalAveragePool", wide)
    net.conv(channels // 4, relu=False)
    swish(net)
    net.conv(expanded, relu=False)
    net.add("Mul", wide, net.add("Sigmoid", net.x))
    net.conv(width, relu=False)
    if stride == 1 and width == channels:
        net.add("Add", start, net.x)


NETS: dict[str, Callable[[], Net]] = {
    "mobilenet": mobilenet,
    "resnet18": resnet18,
    "vgg16": vgg16,
    "squeezenet": squeezenet,
    "efficientnet_b0": efficientnet_b0,
}
