"""Make networks like published families, but none of them, to know a host's costs by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from nets import HARD, ints, leaky, shuffle_units, squeeze
from onnx import numpy_helper
from published_nets import Net, swish

SIDE, CLASSES = 192, 500
Layer = tuple[int, int, int, int]  # channels, kernel, stride, groups


def separable() -> Net:
    net = Net(1, 3, SIDE, SIDE)
    net.conv(24, 3, 2)
    widths = ((48, 1), (96, 2), (96, 1), (192, 2), (192, 1), (384, 2), *[(384, 1)] * 3)
    for width, stride in (*widths, (768, 2), (768, 1)):
        net.conv(net.c, 3, stride, net.c)
        net.conv(width)
    net.classify(CLASSES)
    return net


def inverted() -> Net:
    """Return inverted residuals with hard gates; those of 5x5 squeeze and excite."""
    net = Net(1, 3, SIDE, SIDE)
    net.add(HARD, net.conv(24, 3, 2, relu=False))
    for k, growth, out, repeats, first in (
        *((3, 3, 24, 2, 2), (5, 4, 40, 2, 2), (3, 6, 72, 3, 2)),
        *((5, 6, 96, 2, 1), (5, 6, 144, 2, 2)),
    ):
        for number in range(repeats):
            start = net.x
            net.add(HARD, net.conv(net.c * growth, relu=False))
            net.conv(net.c, k, 1 if number else first, net.c, relu=False)
            if k == 5:
                squeeze(net, net.c // 4, "HardSigmoid")
            net.add(HARD, net.x)
            net.conv(out, relu=False)
            if number:
                net.add("Add", start, net.x)
    net.classify(CLASSES)
    return net


def swishing() -> Net:
    """Return inverted residuals whose gates are exponentials."""
    net = Net(1, 3, SIDE, SIDE)
    net.conv(24, 3, 2, relu=False)
    swish(net)
    for growth, out, repeats in ((4, 32, 2), (4, 48, 2), (6, 96, 3), (6, 160, 2)):
        for number in range(repeats):
            start = net.x
            net.conv(net.c * growth, relu=False)
            swish(net)
            net.conv(net.c, 3, 1 if number else 2, net.c, relu=False)
            swish(net)
            net.conv(out, relu=False)
            if number:
                net.add("Add", start, net.x)
    net.classify(CLASSES)
    return net


def residual() -> Net:
    net = Net(1, 3, SIDE, SIDE)
    net.conv(48, 7, 2)
    net.pool(3, pad=1)
    for width in (48, 96, 192, 384):
        for number in range(2):
            stride = 1 if number or width == 48 else 2
            _block(net, ((width, 3, stride, 1), (width, 3, 1, 1)), project=number == 0)
    net.classify(CLASSES)
    return net


def bottleneck() -> Net:
    net = Net(1, 3, SIDE, SIDE)
    net.conv(32, 3, 2)
    net.pool(3, pad=1)
    for width, repeats in ((32, 2), (64, 3), (128, 3), (256, 2)):
        for number in range(repeats):
            stride = 1 if number or width == 32 else 2
            layers = ((width, 1, 1, 1), (width, 3, stride, 1), (4 * width, 1, 1, 1))
            _block(net, layers, project=number == 0)
    net.classify(CLASSES)
    return net


def grouped() -> Net:
    net = Net(1, 3, SIDE, SIDE)
    net.conv(32, 3, 2)
    for width, repeats in ((64, 2), (128, 2), (256, 4), (512, 2)):
        for number in range(repeats):
            stride = 1 if number else 2
            layers = ((width, 1, 1, 1), (width, 3, stride, width // 16), (width, 1, 1, 1))
            _block(net, layers, project=number == 0)
    net.classify(CLASSES)
    return net


def _block(net: Net, layers: Sequence[Layer], *, project: bool) -> None:
    """Append layers, and add what went into them, made as wide and small where asked."""
    start, channels = net.x, net.c
    for number, layer in enumerate(layers):
        deep = net.conv(*layer, relu=number + 1 < len(layers))
    width = net.c
    if project:
        net.x, net.c = start, channels
        start = net.conv(width, 1, max(stride for _, _, stride, _ in layers), relu=False)
    net.add("Relu", net.add("Add", deep, start))


def branches() -> Net:
    """Return kernels of 1x1, 3x3 and 5x5 side by side."""
    net = Net(1, 3, SIDE, SIDE)
    net.conv(48, 5, 2)
    net.pool(3, pad=1)
    sizes = ((16, 48, 16), (24, 64, 16), (32, 96, 24), (48, 128, 32), (64, 192, 48))
    for number, (narrow, wide, few) in enumerate(sizes):
        if number in (1, 3):
            net.pool(3, pad=1)
        start, channels = net.x, net.c
        ends = [net.conv(wide)]
        net.x, net.c = start, channels
        squeezed = net.conv(narrow)
        ends.append(net.conv(wide, 3))
        net.x, net.c = squeezed, narrow
        ends.append(net.conv(few, 5))
        net.x, net.c = start, channels
        net.pool(3, 1, pad=1)
        ends.append(net.conv(few))
        net.add("Concat", *ends, axis=1)
        net.c = 2 * (wide + few)
    net.classify(CLASSES)
    return net


def plain() -> Net:
    """Return 3x3 convolutions and large dense layers."""
    net = Net(1, 3, 160, 160)
    for repeats, width in ((1, 48), (2, 96), (2, 192), (2, 384), (2, 384)):
        for _ in range(repeats):
            net.conv(width, 3)
        net.pool(2)
    net.add("Flatten", net.x)
    net.dense(384 * 25, 1024, relu=True)
    net.dense(1024, 1024, relu=True)
    net.dense(1024, CLASSES)
    return net


def shuffled() -> Net:
    net = Net(1, 3, SIDE, SIDE)
    net.conv(24, 3, 2)
    net.pool(3, pad=1)
    shuffle_units(net, ((96, 3, 24), (192, 6, 12), (384, 3, 6)))
    net.classify(CLASSES)
    return net


def detector() -> Net:
    """Return leaky convolutions with two heads, one of them on an enlarged map."""
    net = Net(1, 3, 224, 224)
    leaky(net, 24, 3, 2)
    stages = []
    for width in (48, 96, 192, 384):
        start = leaky(net, width, 3, 2)
        leaky(net, width // 2, 1)
        stages.append(net.add("Add", start, leaky(net, width, 3)))
    neck = leaky(net, 128, 1)
    coarse = net.conv(75, relu=False)
    net.x, net.c = neck, 128
    net.weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    net.add("Resize", net.x, "", "scales", mode="nearest")
    net.add("Concat", net.x, stages[2], axis=1)
    net.c = 128 + 192
    leaky(net, 128, 1)
    leaky(net, 128, 3)
    fine = net.conv(75, relu=False)
    flat = [net.add("Reshape", head, ints(net, 1, -1)) for head in (coarse, fine)]
    net.add("Concat", *flat, axis=1)
    return net


REFERENCE: dict[str, Callable[[], Net]] = {
    f"reference-{make.__name__}": make
    for make in (
        *(separable, inverted, swishing, residual, bottleneck),
        *(grouped, branches, plain, shuffled, detector),
    )
}
