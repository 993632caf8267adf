"""Rebuild the published models that `nets.py` leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from nets import REBUILT, ints, leaky, shuffle, split
from onnx import numpy_helper
from published_nets import Net, swish

Layer = Callable[[Net, int], str]
Ends = Sequence[tuple[str, int, int]]


def blazeface() -> Net:
    net = Net(1, 3, 128, 128)
    net.conv(24, 5, 2)
    for out, stride in (
        *((24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2), (56, 1), (64, 1)),
        *((72, 1), (80, 1), (88, 1), (96, 2), (96, 1), (96, 1), (96, 1), (96, 1)),
    ):
        start, channels = net.x, net.c
        net.conv(channels, 3, stride, channels, relu=False)
        deep = net.conv(out, relu=False)
        if stride == 2:
            net.x = start
            start = net.pool(2)
        if out > channels:
            start = net.add("Pad", start, ints(net, 0, 0, 0, 0, 0, out - channels, 0, 0))
        net.add("Relu", net.add("Add", deep, start))
    return net


def _separable(net: Net, out: int, stride: int = 1) -> str:
    net.conv(net.c, 3, stride, net.c)
    return net.conv(out)


def _mobilenet(side: int) -> tuple[Net, str]:
    """Return the network on a picture of this side, and the tensor before its last stride."""
    net = Net(1, 3, side, side)
    net.conv(32, 3, 2)
    widths = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for width, stride in widths:
        _separable(net, width, stride)
    middle = net.x
    _separable(net, 1024, 2)
    _separable(net, 1024)
    return net, middle


def mobilenet_ssd() -> Net:
    net, middle = _mobilenet(300)
    ends = [(middle, 512, 3), (net.x, 1024, 6)]
    for narrow, wide in ((256, 512), (128, 256), (128, 256), (64, 128)):
        net.conv(narrow)
        net.conv(wide, 3, 2)
        ends.append((net.x, wide, 6))
    return _heads(net, ends, 1)


def _heads(net: Net, ends: Ends, k: int) -> Net:
    """Append boxes and 21 classes for every end: tensor, channels, anchors."""
    for values in (4, 21):
        flat = []
        for start, channels, anchors in ends:
            net.x, net.c = start, channels
            net.conv(anchors * values, k, relu=False)
            net.add("Transpose", net.x, perm=[0, 2, 3, 1])
            flat.append(net.add("Reshape", net.x, ints(net, 1, -1)))
        net.add("Concat", *flat, axis=1)
    net.add("Reshape", net.x, ints(net, 1, -1, 21))
    return net


def mobilenet_yolo() -> Net:
    net, middle = _mobilenet(416)
    coarse = _separable(net, 1024)
    weight = net.weight(1024, 1, 4, 4)
    net.add("ConvTranspose", coarse, weight, group=512, strides=[2, 2], pads=[1] * 4)
    net.add("Add", middle, net.x)
    net.c = 512
    _separable(net, 1024)
    net.conv(125, relu=False)
    net.x, net.c = coarse, 1024
    net.conv(125, relu=False)
    return net


def mobilenetv2_yolov3() -> Net:
    """Return it with a Resize for the published deconvolution of 1x1 and the pooling after it."""
    net = Net(1, 3, 352, 352)
    net.conv(32, 3, 2)
    net.conv(32, 3, 1, 32)
    net.conv(16, relu=False)
    middle = ""
    for growth, out, repeats, stride in (
        *((6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for number in range(repeats):
            start, channels, step = net.x, net.c, stride if number == 0 else 1
            net.conv(channels * growth)
            middle = net.x if (channels, step) == (96, 2) else middle
            net.conv(net.c, 3, step, net.c)
            net.conv(out, relu=False)
            if step == 1 and out == channels:
                net.add("Add", start, net.x)
    net.conv(1280)
    coarse = _separable(net, 576)
    net.x = middle
    fine = _separable(net, 576)
    net.add("Add", fine, _resized(net, coarse, 2))
    _separable(net, 576)
    net.conv(75, relu=False)
    net.x, net.c = coarse, 576
    net.conv(75, relu=False)
    return net


def _resized(net: Net, start: str, factor: float) -> str:
    scales = np.array([1, 1, factor, factor], np.float32)
    name = f"s{len(net.weights)}"
    net.weights.append(numpy_helper.from_array(scales, name))
    return net.add("Resize", start, "", name, mode="nearest")


def proxylessnasnet() -> Net:
    net = Net(1, 3, 224, 224)
    net.conv(32, 3, 2)
    net.conv(32, 3, 1, 32)
    net.conv(32, relu=False)
    for k, wide, out, stride in (
        *((5, 48, 32, 2), (3, 96, 32, 1), (7, 96, 40, 2), (3, 120, 40, 1), (5, 120, 40, 1)),
        *((5, 120, 40, 1), (7, 240, 80, 2), (5, 240, 80, 1), (5, 240, 80, 1), (5, 240, 80, 1)),
        *((5, 480, 96, 1), (5, 288, 96, 1), (5, 288, 96, 1), (5, 288, 96, 1), (7, 576, 192, 2)),
        *((7, 1152, 192, 1), (7, 576, 192, 1), (7, 576, 192, 1), (7, 1152, 320, 1)),
    ):
        start, channels = net.x, net.c
        net.conv(wide)
        net.conv(wide, k, stride, wide)
        net.conv(out, relu=False)
        if stride == 1 and out == channels:
            net.add("Add", start, net.x)
    net.conv(1280)
    net.classify(1000)
    return net


def _fire(net: Net, narrow: int, wide: int) -> None:
    net.conv(narrow)
    squeezed = net.x
    left = net.conv(wide)
    net.x, net.c = squeezed, narrow
    net.add("Concat", left, net.conv(wide, 3), axis=1)
    net.c = 2 * wide


def squeezenet_ssd() -> Net:
    net = Net(1, 3, 300, 300)
    net.conv(64, 3, 2, pad=0)
    ends = []
    for fires, anchors in (
        *((((16, 64),) * 2, 0), (((32, 128),) * 2, 4)),
        *((((48, 192),) * 2 + ((64, 256),) * 2, 6), (((96, 384),), 6), (((96, 384),), 6)),
    ):
        net.pool(3, ceil=1)
        for narrow, wide in fires:
            _fire(net, narrow, wide)
        if anchors:
            ends.append((net.x, net.c, anchors))
    for narrow, wide, anchors in ((128, 256, 6), (64, 128, 4)):
        net.conv(narrow)
        net.conv(wide, 3, 2)
        ends.append((net.x, wide, anchors))
    return _heads(net, ends, 3)


def _plain(net: Net, out: int) -> str:
    return net.conv(out)


def _leaking(net: Net, out: int) -> str:
    return leaky(net, out, 1)


def _leaking_depthwise(net: Net, k: int, stride: int = 1) -> None:
    net.conv(net.c, k, stride, net.c, relu=False)
    net.add("LeakyRelu", net.x, alpha=0.1)


def _backbone(side: int, widths: Sequence[int], layer: Layer) -> tuple[Net, list[str]]:
    """Return ShuffleNet v2 without its classifier, and the ends of its three stages."""
    net = Net(1, 3, side, side)
    net.conv(24, 3, 2)
    net.pool(3, pad=1)
    ends = []
    for width, repeats, divisor in zip(widths, (4, 8, 4), (8, 16, 32), strict=True):
        for number in range(repeats):
            start, channels, half = net.x, net.c, width // 2
            if number == 0:
                net.conv(channels, 3, 2, channels, relu=False)
                left = layer(net, half)
                net.x, net.c = start, channels
            else:
                left = split(net, start)
            layer(net, half)
            net.conv(half, 3, 2 if number == 0 else 1, half, relu=False)
            net.add("Concat", left, layer(net, half), axis=1)
            net.c = width
            shuffle(net, 2, side // divisor)
        ends.append(net.x)
    return net, ends


def nanodet_m() -> Net:
    widths = (116, 232, 464)
    net, ends = _backbone(320, widths, _leaking)
    narrow = []
    for end, width in zip(ends, widths, strict=True):
        net.x, net.c = end, width
        narrow.append(net.conv(96, relu=False))
    fine, middle, coarse = narrow
    middle = net.add("Add", middle, _resized(net, coarse, 2))
    fine = net.add("Add", fine, _resized(net, middle, 2))
    middle = net.add("Add", middle, _resized(net, fine, 0.5))
    coarse = net.add("Add", coarse, _resized(net, middle, 0.5))
    for level in (fine, middle, coarse):
        net.x, net.c = level, 96
        for _ in range(2):
            _leaking_depthwise(net, 3)
            leaky(net, 96, 1)
        net.conv(112, relu=False)
    return net


def yolo_fastestv2() -> Net:
    net, (_, middle, coarse) = _backbone(352, (48, 96, 192), _plain)
    necks = [net.conv(72)]
    net.add("Concat", _resized(net, coarse, 2), middle, axis=1)
    net.c = 288
    necks.append(net.conv(72))
    for neck in necks:
        for outs in ((3, 80), (12,)):
            net.x, net.c = neck, 72
            for _ in range(2):
                net.conv(72, 5, 1, 72)
                net.conv(72, relu=False)
            end = net.x
            for out in outs:
                net.x, net.c = end, 72
                net.conv(out, relu=False)
    return net


def fastestdet() -> Net:
    net, (fine, middle, coarse) = _backbone(352, (48, 96, 192), _plain)
    shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    pooled = net.add("AveragePool", fine, **shape)
    net.add("Concat", pooled, middle, _resized(net, coarse, 2), axis=1)
    net.c = 336
    start = net.conv(96)
    ends = []
    for depth in (1, 2, 3):
        net.x, net.c = start, 96
        for _ in range(depth):
            net.conv(96, 5, 1, 96)
        ends.append(net.x)
    net.add("Concat", *ends, axis=1)
    net.c = 288
    net.add("Relu", net.add("Add", start, net.conv(96, relu=False)))
    whole = net.conv(96)
    for out in (80, 4, 1):
        net.x, net.c = whole, 96
        net.conv(96, 5, 1, 96)
        net.conv(out, relu=False)
    return net


def yolo_fastest() -> Net:
    net = Net(1, 3, 320, 320)
    leaky(net, 8, 3, 2)
    middle = ""
    for wide, out, stride, repeats in (
        *((8, 4, 1, 2), (24, 8, 2, 1), (32, 8, 1, 2), (32, 8, 2, 1), (48, 8, 1, 2), (48, 16, 1, 1)),
        *((96, 16, 1, 4), (96, 24, 2, 1), (136, 24, 1, 4), (136, 48, 2, 1), (224, 48, 1, 5)),
    ):
        middle = net.x if (wide, stride) == (136, 2) else middle
        for _ in range(repeats):
            start, channels = net.x, net.c
            leaky(net, wide, 1)
            _leaking_depthwise(net, 3, stride)
            net.conv(out, relu=False)
            if stride == 1 and out == channels:
                net.add("Add", start, net.x)
    start, pools = net.x, []
    for k in (9, 5, 3):
        net.x = start
        pools.append(net.pool(k, 1, pad=k // 2))
    net.add("Concat", *pools, start, axis=1)
    net.c = 192
    neck = leaky(net, 96, 1)
    _yolo_head(net)
    net.add("Concat", _resized(net, neck, 2), middle, axis=1)
    net.c = 120
    _yolo_head(net)
    return net


def _yolo_head(net: Net) -> None:
    for _ in range(2):
        _leaking_depthwise(net, 5)
        net.conv(net.c, relu=False)
    net.conv(255, relu=False)


def vision_transformer() -> Net:
    """Return its patches and blocks; its GELU is here a swish, which moves the same bytes."""
    net = Net(1, 3, 384, 384)
    net.conv(768, 16, 16, pad=0, relu=False)
    net.add("Reshape", net.x, ints(net, 1, 768, 576))
    net.add("Transpose", net.x, perm=[0, 2, 1])
    net.add("Concat", net.weight(1, 1, 768), net.x, axis=1)
    for _ in range(12):
        start, given = net.x, _normal(net)
        heads = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            _linear(net, given, 768, 768)
            net.add("Reshape", net.x, ints(net, 1, 577, 12, 64))
            heads.append(net.add("Transpose", net.x, perm=perm))
        net.add("Softmax", net.add("MatMul", heads[0], heads[1]))
        net.add("MatMul", net.x, heads[2])
        net.add("Transpose", net.x, perm=[0, 2, 1, 3])
        net.add("Reshape", net.x, ints(net, 1, 577, 768))
        start = net.add("Add", start, _linear(net, net.x, 768, 768))
        _linear(net, _normal(net), 768, 3072)
        swish(net)
        net.add("Add", start, _linear(net, net.x, 3072, 768))
    return net


def _normal(net: Net) -> str:
    return net.add("LayerNormalization", net.x, net.weight(768), net.weight(768))


def _linear(net: Net, start: str, inputs: int, out: int) -> str:
    net.add("MatMul", start, net.weight(inputs, out))
    return net.add("Add", net.x, net.weight(out))


PUBLISHED: dict[str, Callable[[], Net]] = {
    **REBUILT,
    "blazeface": blazeface,
    "FastestDet": fastestdet,
    "mobilenet_ssd": mobilenet_ssd,
    "mobilenet_yolo": mobilenet_yolo,
    "mobilenetv2_yolov3": mobilenetv2_yolov3,
    "nanodet_m": nanodet_m,
    "proxylessnasnet": proxylessnasnet,
    "squeezenet_ssd": squeezenet_ssd,
    "vision_transformer": vision_transformer,
    "yolo-fastest-1.1": yolo_fastest,
    "yolo-fastestv2": yolo_fastestv2,
}
