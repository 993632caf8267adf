"""What a layer costs at a width: in MACs, in bytes, or in time by this machine's channel curves.

Times leave out what lies between layers, and how well they fit together. Whoever uses them corrects
them by measurements of the whole network.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import ceil, sqrt

from edgecompress.measuring.curves import Curve, LayerKind
from edgecompress.pruning.widths import Layer

LayerCost = Callable[[Layer, int, int], float]
"""Given a layer and the channels that go in and come out, returns what it costs."""

BYTES_PER_WEIGHT = 4
STEPS = 32  # of a group's width, where every channel counts alike


def macs_of(layer: Layer, inputs: int, outputs: int) -> float:
    """Return the multiply-accumulates of one sample."""
    return float(layer.positions * layer.weights(inputs, outputs))


def bytes_of(layer: Layer, inputs: int, outputs: int) -> float:
    """Return the bytes of a layer's weights and bias."""
    return float(BYTES_PER_WEIGHT * (layer.weights(inputs, outputs) + outputs))


def time_by(curves: Sequence[Curve]) -> LayerCost:
    """Return what tells a layer's time, in ms, from the curves of a machine."""
    by_kind: dict[LayerKind, list[Curve]] = {}
    for curve in curves:
        by_kind.setdefault(curve.kind, []).append(curve)

    def time(layer: Layer, inputs: int, outputs: int) -> float:
        kind = _kind(layer)
        curve = min(by_kind[kind], key=lambda c: abs(c.size**2 - layer.positions))
        taps = {"conv3x3": 9, "depthwise": 9}.get(kind, 1)
        work = layer.positions * layer.taps / (curve.size**2 * taps)
        if layer.depthwise:
            return work * _at(curve, outputs)
        # The curve has as many channels in as out: of others, the time lies in the middle.
        return work * sqrt(_at(curve, inputs // layer.groups) * _at(curve, outputs))

    return time


def grid(curves: Sequence[Curve], width: int, unit: int) -> tuple[int, ...]:
    """Return the widths that a group may be cut to, the widest first: those that were timed.

    Beyond the widest, steps are as wide as the last one there.
    """
    timed = sorted({w for curve in curves for w in curve.widths})
    while timed[-1] < width:
        timed.append(2 * timed[-1] - timed[-2])
    return tuple(w for w in reversed(timed) if w < width and w % unit == 0) or tuple(
        range(width - unit, 0, -unit)
    )


def even_grid(width: int, unit: int) -> tuple[int, ...]:
    """Return widths in at most 32 even steps, the widest first, for costs that know no blocks.

    >>> even_grid(8, 2)
    (6, 4, 2)
    """
    step = unit * ceil(width / unit / STEPS)
    return tuple(range(width - step, 0, -step))


def _kind(layer: Layer) -> LayerKind:
    if layer.depthwise:
        return "depthwise"
    if layer.taps > 1:
        return "conv3x3"
    return "pointwise" if layer.positions > 1 else "dense"


def _at(curve: Curve, width: int) -> float:
    """Return the time at a width: that of the next that was timed, for kernels work in blocks."""
    widths = curve.widths
    place = bisect_left(widths, width)
    if place < len(widths):
        return curve.timings[widths[place]].ms
    power = 1 if curve.kind == "depthwise" else 2
    return curve.timings[widths[-1]].ms * (width / widths[-1]) ** power
