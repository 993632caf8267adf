"""Rebuild published float models from their papers, with random weights: same work, same layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from published_nets import NETS, Net, swish

HARD = "HardSwish"
IR_VERSION = 10  # what ONNX Runtime reads


def alexnet() -> Net:
    net = Net(1, 3, 227, 227)
    net.conv(96, 11, 4, pad=0)
    net.add("LRN", net.x, size=5)
    net.pool(3)
    net.conv(256, 5, groups=2)
    net.add("LRN", net.x, size=5)
    net.pool(3)
    net.conv(384, 3)
    net.conv(384, 3, groups=2)
    net.conv(256, 3, groups=2)
    net.pool(3)
    net.add("Flatten", net.x)
    net.dense(9216, 4096, relu=True)
    net.dense(4096, 4096, relu=True)
    net.dense(4096, 1000)
    return net


def googlenet() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(64, 7, 2)
    net.pool(3, ceil=1)
    net.add("LRN", net.x, size=5)
    net.conv(64)
    net.conv(192, 3)
    net.add("LRN", net.x, size=5)
    net.pool(3, ceil=1)
    for number, widths in enumerate(
        (
            *((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
            *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64)),
            *((128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64)),
            *((256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128)),
            (384, 192, 384, 48, 128, 128),
        )
    ):
        if number in (2, 7):
            net.pool(3, ceil=1)
        _inception(net, *widths)
    net.classify(1000)
    return net


def _inception(net: Net, one: int, r3: int, three: int, r5: int, five: int, pooled: int) -> None:  # noqa: PLR0913
    start, channels, ends = net.x, net.c, []
    for narrow, wide, kernel in ((0, one, 1), (r3, three, 3), (r5, five, 5)):
        net.x, net.c = start, channels
        if narrow:
            net.conv(narrow)
        ends.append(net.conv(wide, kernel))
    net.x, net.c = start, channels
    net.pool(3, 1, pad=1)
    ends.append(net.conv(pooled))
    net.add("Concat", *ends, axis=1)
    net.c = one + three + five + pooled


def _inverted(net: Net, wide: int, out: int, stride: int, k: int, *, widens: bool) -> None:
    start, channels = net.x, net.c
    if widens:
        net.conv(wide)
    net.conv(wide, k, stride, wide)
    net.conv(out, relu=False)
    if stride == 1 and out == channels:
        net.add("Add", start, net.x)


def _inverted_net(stages: Sequence[tuple[int, int, int, int, int]], *, always: bool) -> Net:
    """Return such blocks; `always` expands by a 1x1 convolution, even to the same width."""
    net = Net(1, 3, 224, 224)
    net.conv(32, 3, 2)
    for growth, out, repeats, stride, k in stages:
        for number in range(repeats):
            step, widens = stride if number == 0 else 1, always or growth > 1
            _inverted(net, net.c * growth, out, step, k, widens=widens)
    net.conv(1280)
    net.classify(1000)
    return net


def mobilenet_v2() -> Net:
    return _inverted_net(
        (
            *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3)),
            *((6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)),
        ),
        always=True,
    )


def mnasnet() -> Net:
    return _inverted_net(
        (
            *((1, 16, 1, 1, 3), (3, 24, 3, 2, 3), (3, 40, 3, 2, 5), (6, 80, 3, 2, 5)),
            *((6, 96, 2, 1, 3), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
        ),
        always=False,
    )


def squeeze(net: Net, narrow: int, gate: str) -> None:
    """Append squeeze and excitation by dense layers."""
    start, width = net.x, net.c
    net.add("GlobalAveragePool", start)
    net.add("Flatten", net.x)
    net.dense(width, narrow, relu=True)
    net.dense(narrow, width)
    net.add(gate, net.x)
    net.add("Reshape", net.x, ints(net, 1, width, 1, 1))
    net.add("Mul", start, net.x)


def ints(net: Net, *values: int) -> str:
    name = f"i{len(net.weights)}"
    net.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def mobilenet_v3() -> Net:
    """Return the large one of the paper's first version, as the benchmark's is."""
    net = Net(1, 3, 224, 224)
    net.conv(16, 3, 2, relu=False)
    net.add(HARD, net.x)
    for k, wide, out, squeezed, hard, stride in (
        *((3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2)),
        *((5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2)),
        *((3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1)),
        *((3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 1)),
        *((5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1)),
    ):
        start, channels, act = net.x, net.c, HARD if hard else "Relu"
        if wide != channels:
            net.add(act, net.conv(wide, relu=False))
        net.conv(wide, k, stride, wide, relu=False)
        if squeezed:
            squeeze(net, wide // 4, "HardSigmoid")
        net.add(act, net.x)
        net.conv(out, relu=False)
        if stride == 1 and out == channels:
            net.add("Add", start, net.x)
    net.add(HARD, net.conv(960, relu=False))
    net.add("GlobalAveragePool", net.x)
    net.add("Flatten", net.x)
    net.dense(960, 1280)
    net.add(HARD, net.x)
    net.dense(1280, 1000)
    return net


def resnet50() -> Net:
    """Return the first version, whose stride is in the 1x1 convolutions."""
    net = Net(1, 3, 224, 224)
    net.conv(64, 7, 2)
    net.pool(3, pad=1)
    for stage, (width, repeats) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for number in range(repeats):
            start, channels = net.x, net.c
            stride = 2 if stage and number == 0 else 1
            net.conv(width, 1, stride)
            net.conv(width, 3)
            deep = net.conv(4 * width, relu=False)
            if number == 0:
                net.x, net.c = start, channels
                start = net.conv(4 * width, 1, stride, relu=False)
            net.add("Relu", net.add("Add", deep, start))
    net.classify(1000)
    return net


def shuffle(net: Net, groups: int, size: int) -> None:
    net.add("Reshape", net.x, ints(net, 1, groups, net.c // groups, size, size))
    net.add("Transpose", net.x, perm=[0, 2, 1, 3, 4])
    net.add("Reshape", net.x, ints(net, 1, net.c, size, size))


def shufflenet() -> Net:
    """Return version 1 with three groups."""
    net = Net(1, 3, 224, 224)
    net.conv(24, 3, 2)
    net.pool(3, pad=1)
    for width, repeats, size in ((240, 4, 28), (480, 8, 14), (960, 4, 7)):
        for number in range(repeats):
            start, channels, first = net.x, net.c, number == 0
            out = width - channels if first else width
            net.conv(out // 4, groups=3 if channels > 24 else 1)
            shuffle(net, 3, 2 * size if first else size)
            net.conv(net.c, 3, 2 if first else 1, net.c, relu=False)
            deep = net.conv(out, groups=3, relu=False)
            if first:
                shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
                pooled = net.add("AveragePool", start, **shape)
                net.add("Concat", pooled, deep, axis=1)
                net.c = width
            else:
                net.add("Add", start, deep)
            net.add("Relu", net.x)
    net.classify(1000)
    return net


def split(net: Net, start: str) -> str:
    """Split the channels into halves; the second is read next, the first returned."""
    halves = [f"h{len(net.nodes)}a", f"h{len(net.nodes)}b"]
    net.nodes.append(helper.make_node("Split", [start], halves, axis=1, num_outputs=2))
    net.x, net.c = halves[1], net.c // 2
    return halves[0]


def shuffle_units(net: Net, stages: Sequence[tuple[int, int, int]]) -> None:
    """Append ShuffleNet V2's units: stages of so wide, so many, and the maps' side after each."""
    for width, repeats, size in stages:
        for number in range(repeats):
            start, channels, half = net.x, net.c, width // 2
            if number == 0:
                net.conv(channels, 3, 2, channels, relu=False)
                left = net.conv(half)
                net.x, net.c = start, channels
            else:
                left = split(net, start)
            net.conv(half)
            net.conv(half, 3, 1 if number else 2, half, relu=False)
            net.add("Concat", left, net.conv(half), axis=1)
            net.c = width
            shuffle(net, 2, size)


def shufflenet_v2() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(24, 3, 2)
    net.pool(3, pad=1)
    shuffle_units(net, ((116, 4, 28), (232, 8, 14), (464, 4, 7)))
    net.conv(1024)
    net.classify(1000)
    return net


def regnety_400m() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(32, 3, 2)
    for width, repeats in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for number in range(repeats):
            start, channels, stride = net.x, net.c, 2 if number == 0 else 1
            net.conv(width)
            net.conv(width, 3, stride, width // 8)
            squeeze(net, channels // 4, "Sigmoid")
            deep = net.conv(width, relu=False)
            if number == 0:
                net.x, net.c = start, channels
                start = net.conv(width, 1, stride, relu=False)
            net.add("Relu", net.add("Add", deep, start))
    net.classify(1000)
    return net


def efficientnetv2_b0() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(32, 3, 2, relu=False)
    swish(net)
    for fused, growth, width, repeats, stride in (
        *((True, 1, 16, 1, 1), (True, 4, 32, 2, 2), (True, 4, 48, 2, 2)),
        *((False, 4, 96, 3, 2), (False, 6, 112, 5, 1), (False, 6, 192, 8, 2)),
    ):
        for number in range(repeats):
            start, channels, step = net.x, net.c, stride if number == 0 else 1
            wide = channels * growth
            net.conv(
                width if growth == 1 else wide,
                3 if fused else 1,
                step if fused else 1,
                1,
                relu=False,
            )
            swish(net)
            if not fused:
                net.conv(wide, 3, step, wide, relu=False)
                swish(net)
                outer = net.x
                net.add("GlobalAveragePool", outer)
                net.conv(channels // 4, relu=False)
                swish(net)
                net.conv(wide, relu=False)
                net.add("Mul", outer, net.add("Sigmoid", net.x))
            if growth > 1:
                net.conv(width, relu=False)
            if step == 1 and width == channels:
                net.add("Add", start, net.x)
    net.conv(1280, relu=False)
    swish(net)
    net.classify(1000)
    return net


def leaky(net: Net, out: int, k: int, stride: int = 1) -> str:
    net.conv(out, k, stride, relu=False)
    return net.add("LeakyRelu", net.x, alpha=0.1)


def yolov4_tiny() -> Net:
    """Return it at 416x416, with both heads' convolutions."""
    net = Net(1, 3, 416, 416)
    leaky(net, 32, 3, 2)
    leaky(net, 64, 3, 2)
    for width in (64, 128, 256):
        whole = leaky(net, width, 3)
        split(net, whole)
        first = leaky(net, width // 2, 3)
        second = leaky(net, width // 2, 3)
        net.add("Concat", second, first, axis=1)
        net.c = width
        kept = leaky(net, width, 1)
        net.add("Concat", whole, kept, axis=1)
        net.c = 2 * width
        net.pool(2)
    leaky(net, 512, 3)
    neck = leaky(net, 256, 1)
    leaky(net, 512, 3)
    coarse = net.conv(255, relu=False)
    net.x, net.c = neck, 256
    leaky(net, 128, 1)
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    net.weights.append(scales)
    net.add("Resize", net.x, "", "scales", mode="nearest")
    net.add("Concat", net.x, kept, axis=1)
    net.c = 384
    leaky(net, 256, 3)
    fine = net.conv(255, relu=False)
    flat = [net.add("Reshape", head, ints(net, 1, -1)) for head in (coarse, fine)]
    net.add("Concat", *flat, axis=1)
    return net


REBUILT: dict[str, Callable[[], Net]] = {
    **NETS,
    "alexnet": alexnet,
    "googlenet": googlenet,
    "mobilenet_v2": mobilenet_v2,
    "mnasnet": mnasnet,
    "mobilenet_v3": mobilenet_v3,
    "resnet50": resnet50,
    "shufflenet": shufflenet,
    "shufflenet_v2": shufflenet_v2,
    "regnety_400m": regnety_400m,
    "efficientnetv2_b0": efficientnetv2_b0,
    "yolov4-tiny": yolov4_tiny,
}


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Draw the weights at random, so that the variance keeps from layer to layer."""
    random = np.random.default_rng(3)
    model.ir_version = IR_VERSION
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and not (tensor.raw_data or tensor.float_data):
            shape = tuple(tensor.dims)
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.01
            drawn = random.standard_normal(shape, np.float32) * np.float32(scale)
            tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))
    return model
