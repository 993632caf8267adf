"""Fit a new device from a few small models that were run on it.

The costs of a near device are the start. A calibration moves their logarithms to the mean of what
is then known (normal errors, the sum of times made linear where it is): one pace for all costs,
one more for int8, and every cost by itself as far as two devices of a class differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import UsageError
from edgecompress.measuring.features import Features
from edgecompress.measuring.nearest import work_by_kind
from edgecompress.profiles import Costs, PredictionBasis

Floats = NDArray[np.float64]

KINDS = tuple(Costs.model_fields)
# Standard deviations of logarithms between devices, as benchmarks/prediction found them.
PACE = 1.0
INT8_PACE = 0.3
OWN_COST = 0.2
NOISE = 0.01  # at least: no time is known better
ROUNDS = 20


def calibrated(
    basis: PredictionBasis, timings: Sequence[tuple[Features, float]], what: str
) -> PredictionBasis:
    """Return `basis` moved to agree with the times (in ms) that models took on a new device.

    `what` says in words what was run. Raise UsageError for a basis without costs or no timing.
    """
    if basis.floats is None or basis.int8 is None:
        raise UsageError("--calibrate: the profile has a host_ratio and no costs; take another")
    if not timings:
        raise UsageError("--calibrate: no model with a time; give MODEL.onnx=MS")
    both = (basis.floats, basis.int8)
    values = np.log([getattr(costs, kind).value for costs in both for kind in KINDS])
    own = np.log([getattr(costs, kind).within for costs in both for kind in KINDS])
    prior = np.diag(np.concatenate([[PACE**2, INT8_PACE**2], own**2 + OWN_COST**2]))
    noise = max(log(basis.unexplained), NOISE)
    mean, covariance = _posterior(values, prior, timings, noise)
    moved = values + _spread(len(KINDS)) @ mean
    within = np.sqrt(np.diag(covariance)[2:])
    size = len(KINDS)
    return basis.model_copy(
        update={
            "floats": _costs(moved[:size], within[:size]),
            "int8": _costs(moved[size:], within[size:]),
            "pace": exp(float(np.sqrt(covariance[0, 0]))),
            "int8_pace": exp(float(np.sqrt(covariance[1, 1]))),
            "spec_sheet": False,
            "runs": len(timings),
            "source": f"calibrated by {len(timings)} models run there ({what}), from: "
            f"{basis.source.strip()}",
        }
    )


def _posterior(
    values: Floats, prior: Floats, timings: Sequence[tuple[Features, float]], noise: float
) -> tuple[Floats, Floats]:
    """Return mean and covariance of the paces and deviations, given the times."""
    spread = _spread(len(KINDS))
    seen = np.log([time for _, time in timings])
    work = np.zeros((len(timings), len(values)))
    for row, (features, _) in enumerate(timings):
        start = len(KINDS) if features.int8 else 0
        work[row, start : start + len(KINDS)] = list(work_by_kind(features).values())
    mean = np.zeros(len(prior))
    for _ in range(ROUNDS):
        times = work * np.exp(values + spread @ mean)
        total = times.sum(1)
        slope = (times / total[:, None]) @ spread
        left = seen - np.log(total) + slope @ mean
        gain = (
            prior @ slope.T @ np.linalg.inv(slope @ prior @ slope.T + noise**2 * np.eye(len(seen)))
        )
        mean = gain @ left
    return mean, prior - gain @ slope @ prior


def _spread(size: int) -> Floats:
    """Return how the paces and deviations move the costs of floats and int8."""
    int8 = np.repeat([0.0, 1.0], size)
    return np.column_stack([np.ones(2 * size), int8, np.eye(2 * size)])


def _costs(logs: Floats, within: Floats) -> Costs:
    return Costs.model_validate(
        {
            kind: {"value": float(f"{exp(mean):.4g}"), "within": float(f"{exp(sd):.3f}")}
            for kind, mean, sd in zip(KINDS, logs, within, strict=True)
        }
    )
