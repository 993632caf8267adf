"""Small image classifiers that scale in width and depth; inputs (batch, channels, height, width).

Each returns logits (batch, classes). Every stage after the first halves the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgecompress.students.stacking import (
    Block,
    StagedNet,
    check_sizes,
    deepened,
    scaled,
    stages,
)

Kernel = int | tuple[int, int]
_Net = TypeVar("_Net", bound=nn.Module)


def conv_norm(
    in_channels: int, out_channels: int, kernel: Kernel, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps the size (at stride 1), and its batch norm."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    size, padding = (high, wide), (high // 2, wide // 2)
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ResidualBlock(nn.Module):
    """Add two convolutions to the input (He et al. 2015, arXiv:1512.03385)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, kernel: Kernel = 3
    ) -> None:
        super().__init__()
        self.first = conv_norm(in_channels, out_channels, kernel, stride)
        self.second = conv_norm(out_channels, out_channels, kernel)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        y: Tensor = self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))
        return y


class SeparableBlock(nn.Sequential):
    """Filter each channel alone, then mix the channels (Howard et al. 2017, arXiv:1704.04861)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, kernel: Kernel = 3
    ) -> None:
        super().__init__(
            conv_norm(in_channels, in_channels, kernel, stride, groups=in_channels),
            nn.ReLU(),
            conv_norm(in_channels, out_channels, 1),
            nn.ReLU(),
        )


class _ImageNet(StagedNet):
    """Start with a 3x3 convolution, as wide as the first stage."""

    def __init__(
        self,
        block: Block,
        shape: tuple[int, int],
        widths: Sequence[int],
        blocks: Sequence[int],
        stem_stride: int,
    ) -> None:
        in_channels, classes = shape
        _check(in_channels, classes, widths, blocks, stem_stride)
        super().__init__(
            nn.Sequential(conv_norm(in_channels, widths[0], 3, stem_stride), nn.ReLU()),
            stages(block, widths[0], widths, blocks),
            nn.Linear(widths[-1], classes),
        )


class ResidualNet(_ImageNet):
    """Stack residual blocks: `blocks[i]` of them at `widths[i]` channels.

    >>> net = ResidualNet(1, 10, widths=(16, 32), blocks=(1, 1))
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        stem_stride: int = 1,
    ) -> None:
        super().__init__(ResidualBlock, (in_channels, classes), widths, blocks, stem_stride)


class DepthwiseNet(_ImageNet):
    """Stack depthwise separable blocks: `blocks[i]` of them at `widths[i]` channels.

    >>> net = DepthwiseNet(1, 10, widths=(16, 32), blocks=(1, 1))
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        stem_stride: int = 1,
    ) -> None:
        super().__init__(SeparableBlock, (in_channels, classes), widths, blocks, stem_stride)


# The image networks of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597), without their dropout
# and with padding on both sides where Keras pads one more after. `width` and `depth` multiply.


def resnet8(
    in_channels: int = 3, classes: int = 10, width: float = 1.0, depth: float = 1.0
) -> ResidualNet:
    """Return the ResNet-8 for 32x32 images, with one residual block a stage at depth 1."""
    widths, blocks = scaled((16, 32, 64), width), deepened((1, 1, 1), depth)
    net = ResidualNet(in_channels, classes, widths, blocks)
    for part in net.modules():
        if isinstance(part, ResidualBlock) and isinstance(part.shortcut, nn.Sequential):
            part.shortcut = part.shortcut[0]  # the published shortcuts have no batch norm
    return _biased(net)


def ds_cnn(
    in_channels: int = 1, classes: int = 12, width: float = 1.0, depth: float = 1.0
) -> StagedNet:
    """Return the DS-CNN for keywords, seen as images of 49 moments by 10 coefficients."""
    check_sizes(in_channels=in_channels, classes=classes)
    (wide,) = scaled((64,), width)
    first = nn.Conv2d(in_channels, wide, (10, 4), 2, padding=(5, 1), bias=False)
    stem = nn.Sequential(first, nn.BatchNorm2d(wide), nn.ReLU())
    body = stages(SeparableBlock, wide, (wide,), deepened((4,), depth))
    return _biased(StagedNet(stem, body, nn.Linear(wide, classes)))


def mobilenet_v1(
    in_channels: int = 3, classes: int = 2, width: float = 0.25, depth: float = 1.0
) -> StagedNet:
    """Return the MobileNetV1, by default the quarter as wide one for 96x96 images."""
    check_sizes(in_channels=in_channels, classes=classes)
    first, *widths = scaled((32, 64, 128, 256, 512, 1024), width)
    stem = nn.Sequential(conv_norm(in_channels, first, 3, stride=2), nn.ReLU())
    body = stages(SeparableBlock, first, widths, deepened((1, 2, 2, 6, 2), depth))
    return _biased(StagedNet(stem, body, nn.Linear(widths[-1], classes)))


def keras_parameters(module: nn.Module) -> int:
    """Count parameters as Keras does: the moving statistics of batch norms are among them."""
    moving = [b for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))]
    return sum(tensor.numel() for tensor in (*module.parameters(), *moving))


def _biased(net: _Net) -> _Net:
    """Give each convolution a bias, as Keras does; export folds it away with the batch norm."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.bias = nn.Parameter(torch.zeros(part.out_channels))
    return net


def _check(
    in_channels: int, classes: int, widths: Sequence[int], blocks: Sequence[int], stride: int
) -> None:
    if not widths or len(widths) != len(blocks):
        raise ValueError(f"widths {widths} and blocks {blocks} must have the same length, >= 1")
    if min(in_channels, classes, stride, *widths, *blocks) < 1:
        raise ValueError("in_channels, classes, widths, blocks and stem_stride must be >= 1")
