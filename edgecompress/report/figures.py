"""Work out the figures that every rendering shows: medians, shares, what distillation gained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Arm, Candidate, LatencySamples, Measurement, Metric, TrainedNetwork
from edgecompress.report.words import is_share


def final_metric(candidate: Candidate | None) -> Metric | None:
    """Return the score on the test split where that was read, else on validation."""
    if candidate is None:
        return None
    found = candidate.evaluation("test") or candidate.evaluation("validation")
    found = found or next(iter(candidate.evaluations), None)
    return found.metric if found else None


def net_ms(samples: LatencySamples) -> NDArray[np.float64]:
    """Return a process's call times with the waiting for a core taken out, in milliseconds."""
    wall = np.asarray(samples.wall_ms, dtype=np.float64)
    waited = np.asarray(samples.waited_ms, dtype=np.float64)
    return wall - waited if len(waited) == len(wall) else wall


def process_medians(measurement: Measurement) -> tuple[float, ...]:
    """Return the median call time of each process, in milliseconds."""
    samples = (net_ms(process) for process in measurement.processes)
    return tuple(float(np.median(found)) for found in samples if len(found))


def removed_ratio(before: int, after: int) -> float:
    """Return the share that is gone.

    >>> removed_ratio(200, 150), removed_ratio(0, 0)
    (0.25, 0.0)
    """
    return 1 - after / before if before else 0.0


@dataclass(frozen=True)
class Gain:
    """Hold distilled minus control on the same samples, with its 95 % interval."""

    value: float
    low: float
    high: float
    samples: int
    helped: bool | None
    words: str


def distillation_gain(training: TrainedNetwork) -> Gain | None:
    """Return what distillation gained over its hard-label control; None without such a pair.

    The interval is the normal one for the mean of paired differences, mean +- 1.96 s / sqrt(n).
    """
    arms = {arm.name: arm for arm in training.arms}
    if not {"distilled", "control"} <= arms.keys():
        return None
    differences = _differences(arms["distilled"], arms["control"])
    if differences is None:
        return None
    value = float(differences.mean())
    half = 1.96 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    metric = arms["distilled"].evaluation.metric
    helped = _helped(value - half, value + half, metric.higher_is_better)
    words = _words(metric, (value, value - half, value + half), helped, len(differences))
    return Gain(value, value - half, value + half, len(differences), helped, words)


def _differences(distilled: Arm, control: Arm) -> NDArray[np.float64] | None:
    left, right = distilled.evaluation.scores, control.evaluation.scores
    if len(left) != len(right) or len(left) < 2:
        return None
    found = np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)
    return found if bool(np.isfinite(found).all()) else None


def _helped(low: float, high: float, higher_is_better: bool) -> bool | None:
    """Return True or False when the interval leaves zero out, None when it does not."""
    if low <= 0 <= high:
        return None
    return (low > 0) == higher_is_better


def _words(
    metric: Metric, figures: tuple[float, float, float], helped: bool | None, samples: int
) -> str:
    percent = is_share(metric.name, metric.value)
    value, low, high = (f"{100 * f:+.2f}" if percent else f"{f:+.3g}" for f in figures)
    unit = "points" if percent else metric.name
    claim = {
        True: "Distillation helped",
        False: "Distillation lost",
        None: "Distillation made no difference that these samples can show",
    }[helped]
    return (
        f"{claim}: {value} {unit} against the hard-label control with the same steps and seed "
        f"(95 % interval {low} to {high}, paired over {samples:,} {metric.split} samples)."
    )
