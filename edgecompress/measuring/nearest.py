"""Name the published models whose work is most like a given one's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from math import log

from edgecompress.measuring.features import Features

SIZE = 0.1  # a factor e in size counts like so much of the time spent elsewhere


def nearest(work: Mapping[str, float], costs: Mapping[str, float], wanted: int = 2) -> list[str]:
    """Return the `wanted` published models that spend a core's time most alike.

    `work` and `costs` are by kind; the distance is the share of time spent elsewhere, and a
    little for another size.
    """
    shares, time = _shares(work, costs)
    distance = {}
    for name, other in published().items():
        theirs, their_time = _shares(other, costs)
        elsewhere = sum(abs(shares[kind] - theirs[kind]) for kind in costs) / 2
        distance[name] = elsewhere + SIZE * abs(log(time / their_time))
    return sorted(distance, key=lambda name: (distance[name], name))[:wanted]


@cache
def published() -> dict[str, dict[str, float]]:
    """Return the work of the published models by kind, in the units of `Features`."""
    text = files("edgecompress.measuring").joinpath("published_models.json").read_text("utf-8")
    found: dict[str, dict[str, float]] = json.loads(text)
    return found


def work_by_kind(features: Features) -> dict[str, float]:
    """Return a model's work under the names of its costs; there is a layer in any model."""
    return {
        "pointwise": features.pointwise,
        "conv3x3": features.conv3x3,
        "conv_other": features.conv_other,
        "depthwise": features.depthwise,
        "grouped": features.grouped,
        "fully_connected": features.fully_connected,
        "matmul": features.matmul,
        "elementwise": features.elementwise_mb,
        "exponential": features.exponential_mb,
        "layer": max(features.layers, 1.0),
        "parameter": features.parameters_m,
        "convolved": features.convolved_mb,
        "unaligned": features.unaligned,
    }


def _shares(
    work: Mapping[str, float], costs: Mapping[str, float]
) -> tuple[dict[str, float], float]:
    times = {kind: work[kind] * cost for kind, cost in costs.items()}
    total = sum(times.values())
    return {kind: time / total for kind, time in times.items()}, total
