"""Small classifiers of signals, audio and sensors; inputs (batch, channels, time).

Each returns logits (batch, classes). A signal is treated as an image of height 1: in ONNX Runtime
its two-dimensional convolutions run faster than one-dimensional ones, depthwise ones twice as fast.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from edgecompress.students.image import ResidualBlock, SeparableBlock, conv_norm
from edgecompress.students.stacking import StagedNet, check_sizes, deepened, scaled, stages


class SequenceNet(StagedNet):
    """Run convolutions over time, a global average pool and a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, time) to logits (batch, classes)."""
        return super().forward(x.unsqueeze(2))


def sensor_net(
    in_channels: int, classes: int, width: float = 1.0, depth: float = 1.0
) -> SequenceNet:
    """Return residual blocks (Wang et al. 2016, arXiv:1611.06455) for some 50 to 1000 samples.

    Several channels (an accelerometer's axes, or the coefficients of a spectrum) suit it.
    """
    check_sizes(in_channels=in_channels, classes=classes)
    widths, blocks = scaled((16, 32, 64), width), deepened((1, 1, 1), depth)
    stem = nn.Sequential(conv_norm(in_channels, widths[0], (1, 7)), nn.ReLU())
    body = stages(partial(ResidualBlock, kernel=(1, 5)), widths[0], widths, blocks)
    return SequenceNet(stem, body, nn.Linear(widths[-1], classes))


def audio_net(
    in_channels: int, classes: int, width: float = 1.0, depth: float = 1.0
) -> SequenceNet:
    """Return separable blocks (Kriman et al. 2019, arXiv:1910.10261) for raw sound.

    The stem takes 64 samples (4 ms at 16 kHz) in steps of 16.
    """
    check_sizes(in_channels=in_channels, classes=classes)
    widths, blocks = scaled((32, 64, 64, 128), width), deepened((1, 1, 1, 1), depth)
    stem = nn.Sequential(conv_norm(in_channels, widths[0], (1, 64), stride=16), nn.ReLU())
    body = stages(partial(SeparableBlock, kernel=(1, 9)), widths[0], widths, blocks)
    return SequenceNet(stem, body, nn.Linear(widths[-1], classes))
