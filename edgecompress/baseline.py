"""Compare a model with the one that it is to replace. Pure.

Latency is compared only between processes that took turns in one measurement: the machine's drift
then meets both alike and cancels in the ratio of each pair. Figures of an earlier day, or of
another machine, say nothing about speed here and now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, inf

import numpy as np

from edgecompress.bounds import Bounds, answer, unknown
from edgecompress.measuring.latency import running_ms
from edgecompress.records import Basis, BudgetCheck, Evaluation, Measurement, Metric
from edgecompress.statistics import paired_drop, quantile, split_error, walsh_bounds

LATENCY = "baseline.latency_ms.p50"
ERROR = 0.05  # of a one-sided bound, over all looks together


@dataclass(frozen=True)
class Tolerance:
    """Say how much worse a model may be than its baseline.

    `ratio` is the share by which it may be slower or larger; `drop` is what its score may lose, in
    the metric's own unit.
    """

    ratio: float = 0.05
    drop: float = 0.01


@dataclass(frozen=True)
class Version:
    """Hold what is known of one of the two models; what was not measured or scored is None.

    `metric` stands for a score of which only the interval is known, not each sample.
    """

    size_bytes: int
    measurement: Measurement | None = None
    evaluation: Evaluation | None = None
    metric: Metric | None = None


def compare_with_baseline(
    baseline: Version,
    candidate: Version,
    tolerance: Tolerance,
    looks: Sequence[int],
    basis: Basis = "measured",
) -> tuple[BudgetCheck, ...]:
    """Return a check for each figure that both have: latency, size, score.

    The measurements must come from one call of `measure`, where the two took turns; `basis` says
    where that was. `looks` are the process counts at which it may have been ended.
    """
    checks = [_size(baseline, candidate, tolerance.ratio)]
    if baseline.measurement is not None and candidate.measurement is not None:
        pair = (baseline.measurement, candidate.measurement)
        checks.insert(0, compare_latency(*pair, tolerance.ratio, looks, basis))
    if candidate.evaluation is not None:
        checks.append(_score(baseline, candidate.evaluation, tolerance.drop))
    return tuple(checks)


def compare_latency(
    baseline: Measurement,
    candidate: Measurement,
    ratio: float,
    looks: Sequence[int],
    basis: Basis = "measured",
) -> BudgetCheck:
    """Judge how many times the baseline's typical call (p50) a call of the candidate takes.

    The signed-rank bounds of the logarithms, over the pairs of processes that ran one after the
    other.
    """
    pairs = list(zip(_typical(baseline), _typical(candidate), strict=False))
    logs = np.log([new / old for old, new in pairs])
    low, high = walsh_bounds(logs, split_error(looks, ERROR).get(len(pairs), ERROR))
    old = float(np.median([old for old, _ in pairs]))
    bounds = Bounds(
        value=exp(float(np.median(logs))),
        low=exp(low) if low > -inf else -inf,
        high=exp(high) if high < inf else inf,
        known=f"the baseline's {old:.3g} ms over {len(pairs)} pairs of processes",
    )
    return answer(LATENCY, "x", 1 + ratio, bounds, basis)


def _typical(measurement: Measurement) -> list[float]:
    return [quantile(running_ms(process), 0.5) for process in measurement.processes]


def _size(baseline: Version, candidate: Version, ratio: float) -> BudgetCheck:
    old, new = baseline.size_bytes / 1e6, candidate.size_bytes / 1e6
    bounds = Bounds(new, new, new, known=f"(the baseline: {old:.4g} MB)")
    return answer("baseline.model_size_mb", "MB", old * (1 + ratio), bounds, "exact")


def _score(baseline: Version, candidate: Evaluation, limit: float) -> BudgetCheck:
    """Judge the drop: paired on the same samples, else between two intervals."""
    new = candidate.metric
    name = f"baseline.{new.name}"
    if baseline.evaluation is not None:
        pair = (baseline.evaluation.scores, candidate.scores)
        drop, low, high = paired_drop(*(pair if new.higher_is_better else pair[::-1]), ERROR)
        known = f"lost, paired on {len(candidate.scores)} {new.split} samples"
    elif baseline.metric is not None:
        drop, low, high = _unpaired_drop(baseline.metric, new)
        known = "lost against the score in the baseline's report, not paired"
    else:
        return unknown(name, new.name, limit, f"the baseline's report holds no {new.name} on test")
    return answer(name, new.name, limit, Bounds(drop, low, high, known=known), "measured")


def _unpaired_drop(old: Metric, new: Metric) -> tuple[float, float, float]:
    """Return how much worse `new` is, with the bounds that two independent intervals leave.

    Both intervals are two-sided at 95 %, so each bound is wrong at most one time in forty.
    """
    fall = old.value - new.value
    most = fall + hypot(old.high - old.value, new.value - new.low)
    least = fall - hypot(old.value - old.low, new.high - new.value)
    return (fall, least, most) if new.higher_is_better else (-fall, -most, -least)
