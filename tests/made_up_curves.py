"""Channel curves of a made-up machine, whose kernels work in blocks of 16 channels."""

from __future__ import annotations

from edgecompress.measuring.curves import Curve

BLOCK = 16
WIDTHS = tuple(range(4, 65, 4))


def curve(kind: str, size: int, power: int) -> Curve:
    """Return the curve of one kind of layer."""
    blocks = [-(-width // BLOCK) for width in WIDTHS]
    return Curve(kind, size, "float", WIDTHS, tuple((0.001 * b**power,) * 5 for b in blocks))


CURVES = (
    *(curve("conv3x3", 8, 2), curve("pointwise", 8, 2)),
    *(curve("depthwise", 8, 1), curve("dense", 1, 2)),
)
