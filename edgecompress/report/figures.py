"""Work out the figures that every rendering shows: medians, shares, what distillation gained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Candidate, LatencySamples, Measurement, Metric, TrainedNetwork
from edgecompress.report.words import is_share
from edgecompress.statistics import paired_drop


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
    with np.errstate(over="ignore"):  # what overflows is not finite and falls out below
        net = wall - np.nan_to_num(np.asarray(samples.waited_ms, dtype=np.float64))
    return net[np.isfinite(net)]


def process_medians(measurement: Measurement) -> tuple[float, ...]:
    """Return the median call time of each process, in milliseconds."""
    samples = (net_ms(process) for process in measurement.processes)
    return tuple(float(np.median(found)) for found in samples if len(found))


def load_memory_bytes(measurement: Measurement) -> int | None:
    """Return the median over processes of the memory that opening the model took."""
    loads = [process.load_memory_bytes for process in measurement.processes]
    return round(float(np.median(loads))) if loads else None


def samples_per_s(call_ms: float, batch: int) -> float | None:
    """Return how many samples a second calls of this length and batch work off.

    >>> samples_per_s(4.0, 8)
    2000.0
    """
    return 1e3 * batch / call_ms if call_ms > 0 else None


def removed_ratio(before: int, after: int) -> float:
    """Return the share that is gone.

    >>> removed_ratio(200, 150), removed_ratio(0, 0)
    (0.25, 0.0)
    """
    return 1 - after / before if before else 0.0


@dataclass(frozen=True)
class Gain:
    """Hold distilled minus control on the same samples, with one-sided 95 % bounds."""

    value: float
    low: float
    high: float
    samples: int
    helped: bool | None
    words: str


def distillation_gain(training: TrainedNetwork) -> Gain | None:
    """Return what distillation gained over its hard-label control; None without such a pair."""
    arms = {arm.name: arm.evaluation for arm in training.arms}
    if not {"distilled", "control"} <= arms.keys():
        return None
    distilled, control = arms["distilled"].scores, arms["control"].scores
    if len(distilled) != len(control) or len(control) < 2:
        return None
    if not (np.isfinite(distilled).all() and np.isfinite(control).all()):
        return None
    value, low, high = paired_drop(distilled, control)
    metric = arms["distilled"].metric
    helped = _helped(low, high, metric.higher_is_better)
    words = _words(metric, (value, low, high), helped, len(control))
    return Gain(value, low, high, len(control), helped, words)


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
        f"(one-sided 95 % bounds {low} and {high}, paired over {samples:,} {metric.split} samples)."
    )
