"""Small image classifiers that scale in width and depth; inputs (batch, channels, height, width).

Each returns logits (batch, classes). Every stage after the first halves the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps the size (at stride 1), and its batch norm."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ResidualBlock(nn.Module):
    """Add two 3x3 convolutions to the input (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(in_channels, out_channels, 3, stride)
        self.second = conv_norm(out_channels, out_channels, 3)
        self.relu = nn.ReLU()
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        y: Tensor = self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))
        return y


class SeparableBlock(nn.Sequential):
    """Filter each channel alone, then mix the channels (Howard et al. 2017, arXiv:1704.04861)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            conv_norm(in_channels, in_channels, 3, stride, groups=in_channels),
            nn.ReLU(),
            conv_norm(in_channels, out_channels, 1),
            nn.ReLU(),
        )


class _ImageNet(nn.Module):
    """Run a stem, stages of blocks, a global average pool and a linear layer."""

    def __init__(
        self,
        block: type[ResidualBlock] | type[SeparableBlock],
        shape: tuple[int, int],
        widths: Sequence[int],
        blocks: Sequence[int],
        stem_stride: int,
    ) -> None:
        super().__init__()
        in_channels, classes = shape
        _check(in_channels, classes, widths, blocks, stem_stride)
        self.stem = nn.Sequential(conv_norm(in_channels, widths[0], 3, stem_stride), nn.ReLU())
        stages: list[nn.Module] = []
        width = widths[0]
        for stage, (wider, depth) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(depth):
                stages.append(block(width, wider, 2 if i == 0 and stage > 0 else 1))
                width = wider
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        logits: Tensor = self.head(self.pool(self.stages(self.stem(x))))
        return logits


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


def scaled(widths: Sequence[int], factor: float, multiple: int = 8) -> tuple[int, ...]:
    """Return the widths times `factor`, each rounded to a multiple and at least one multiple.

    >>> scaled((32, 64, 128), 0.3)
    (8, 16, 40)
    """
    return tuple(max(multiple, round(w * factor / multiple) * multiple) for w in widths)


def _check(
    in_channels: int, classes: int, widths: Sequence[int], blocks: Sequence[int], stride: int
) -> None:
    if not widths or len(widths) != len(blocks):
        raise ValueError(f"widths {widths} and blocks {blocks} must have the same length, >= 1")
    if min(in_channels, classes, stride, *widths, *blocks) < 1:
        raise ValueError("in_channels, classes, widths, blocks and stem_stride must be >= 1")
