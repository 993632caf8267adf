"""Turn samples into statements: intervals, one-sided bounds, and what disturbs them. Pure.

`confidence` is two-sided unless a function says one-sided; `error` is one-sided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, inf, pi, sqrt, tan
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def quantile(samples: ArrayLike, level: float) -> float:
    """Return the quantile of `samples`, linear between order statistics.

    >>> quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.5)
    3.0
    """
    return float(np.quantile(np.asarray(samples, dtype=np.float64), level))


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (Wilson 1927).

    >>> low, high = wilson(98, 100)
    >>> round(low, 4), round(high, 4)
    (0.93, 0.9945)
    >>> wilson(10, 10)[1]
    1.0
    """
    z2 = _normal((1 + confidence) / 2) ** 2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = sqrt(z2 * share * (1 - share) / trials + z2**2 / (4 * trials**2)) / (1 + z2 / trials)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def mean_interval(scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return (mean, low, high): Wilson's interval when every score is 0 or 1, else Student's t.

    One score that is neither says nothing about its spread: its interval is infinite.

    >>> mean_interval([1, 1, 0, 1])[0]
    0.75
    >>> [round(x, 3) for x in mean_interval([0.2, 0.4, 0.6])]
    [0.4, -0.097, 0.897]
    """
    values = _floats(scores)
    mean = float(values.mean())
    if _is_binary(values):
        return mean, *wilson(float(values.sum()), len(values), confidence)
    half = _t_half_width(values, (1 + confidence) / 2)
    return mean, mean - half, mean + half


def paired_drop(
    reference: ArrayLike, candidate: ArrayLike, error: float = 0.05
) -> tuple[float, float, float]:
    """Return (drop, low, high): how much lower `candidate` scores on the same samples.

    `low` and `high` are one-sided bounds, each wrong with probability `error`. Scores of 0 and 1
    get Tango's score bounds (Tango 1998), which stay apart even when no sample disagrees: about
    2.7 / n. Other scores get Student's t, and the same allowance, times the range of the scores,
    where most samples agree exactly.

    >>> drop, low, high = paired_drop([1] * 100, [1] * 100)
    >>> drop, round(low, 4), round(high, 4)
    (0.0, -0.0263, 0.0263)
    >>> [round(x, 3) for x in paired_drop([1] * 90 + [0] * 10, [1] * 80 + [0] * 20)]
    [0.1, 0.061, 0.16]
    """
    first, second = _floats(reference), _floats(candidate)
    if first.shape != second.shape:
        raise ValueError(f"paired scores differ in number: {first.shape} and {second.shape}")
    drops = first - second
    drop, n = float(drops.mean()), len(drops)
    if _is_binary(first) and _is_binary(second):
        lost, won = int((drops > 0).sum()), int((drops < 0).sum())
        z = _normal(1 - error)
        return (
            drop,
            _bisect(lambda d: _tango(lost, won, n, d) - z, -1.0, drop),
            _bisect(lambda d: _tango(lost, won, n, d) + z, drop, 1.0),
        )
    half = _t_half_width(drops, 1 - error)
    if float(np.median(np.abs(drops))) == 0.0:
        z2 = _normal(1 - error) ** 2
        half = max(half, float(np.ptp(np.concatenate([first, second]))) * z2 / (n + z2))
    return drop, drop - half, drop + half


def walsh_bounds(values: ArrayLike, error: float) -> tuple[float, float]:
    """Return the signed-rank test's one-sided lower and upper bound on the centre of `values`.

    They are order statistics of the Walsh averages (Hodges & Lehmann 1963): robust to one odd
    value, exact for any symmetric distribution. Where so few values cannot support so small an
    error, the bounds are infinite.

    >>> walsh_bounds([1.0, 2.0, 3.0, 4.0, 5.0], error=1 / 32)
    (1.0, 5.0)
    >>> walsh_bounds([1.0, 2.0, 3.0, 4.0], error=1 / 32)
    (-inf, inf)
    """
    ordered = np.sort(_floats(values))
    n = len(ordered)
    rows, columns = np.triu_indices(n)
    averages = np.sort((ordered[rows] + ordered[columns]) / 2)
    tail = np.cumsum(_signed_rank_counts(n)) / 2.0**n
    outside = int(np.searchsorted(tail, error + 1e-12, side="right"))
    if outside == 0:
        return -inf, inf
    return float(averages[outside - 1]), float(averages[-outside])


def auc_interval(
    lower: ArrayLike, higher: ArrayLike, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return (AUC, low, high): how often a value of `lower` lies below one of `higher`.

    The area under the ROC curve, equal values counting half, with the interval of DeLong, DeLong,
    Clarke-Pearson 1988, held to 0..1. One half is chance. Where either side has one value, nothing
    is known of the spread.

    >>> auc_interval([1.0, 2.0], [3.0, 4.0])
    (1.0, 1.0, 1.0)
    >>> [round(x, 2) for x in auc_interval([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7])]
    [0.51, 0.16, 0.87]
    """
    first, second = np.sort(_floats(lower)), np.sort(_floats(higher))
    below = 1 - _midranks(second, first)  # for each of `lower`, the share of `higher` above it
    above = _midranks(first, second)
    area = float(below.mean())
    if min(len(first), len(second)) < 2:
        return area, 0.0, 1.0
    variance = float(below.var(ddof=1)) / len(first) + float(above.var(ddof=1)) / len(second)
    half = _normal((1 + confidence) / 2) * sqrt(variance)
    return area, max(0.0, area - half), min(1.0, area + half)


def split_error(looks: Sequence[int], error: float = 0.05) -> dict[int, float]:
    """Return the error that each look at so many values may spend; together at most `error`.

    Later looks share what earlier ones leave. A look gets at least 2^-n, the smallest error that
    the signed-rank test on n values can have, or nothing when less than that is left.

    >>> {n: round(share, 6) for n, share in split_error((5, 10, 20)).items()}
    {5: 0.03125, 10: 0.009375, 20: 0.009375}
    """
    left, shares = error, {}
    for position, n in enumerate(looks):
        share = max(left / (len(looks) - position), 0.5**n)
        shares[n] = share if share <= left else 0.0
        left -= shares[n]
    return shares


def burst_share(times: ArrayLike, slow: float = 1.3) -> float:
    """Return the share of all time spent in bursts: three or more slow calls in a row.

    A call is slow above `slow` times the median. What independent slow calls would do by chance
    is taken off, so that a model that is now and then slow by itself shows no bursts.

    >>> burst_share([1.0] * 90 + [2.0] * 10) > 0.1
    True
    >>> burst_share([1.0, 1.0, 1.0, 2.0] * 25)
    0.0
    """
    values = _floats(times)
    is_slow = values > slow * np.median(values)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_slow.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    inside = sum(float(values[a:b].sum()) for a, b in zip(starts, ends, strict=True) if b - a >= 3)
    p = float(is_slow.mean())
    by_chance = float(values[is_slow].sum()) * (1 - (1 - p) ** 2 * (1 + 2 * p))
    return max(0.0, inside - by_chance) / float(values.sum())


def drift(values: ArrayLike) -> float:
    """Return by how much `values`, in the order of time, moved from end to end, as a ratio.

    The Theil-Sen slope, the median over all pairs, so that one odd value moves nothing; over the
    median value.

    >>> round(drift([10.0, 10.1, 10.2, 10.3, 10.4]), 3)
    0.039
    >>> drift([10.0, 30.0, 10.0, 10.0])
    0.0
    """
    ordered = _floats(values)
    if len(ordered) < 3:
        return 0.0
    first, second = np.triu_indices(len(ordered), k=1)
    slope = float(np.median((ordered[second] - ordered[first]) / (second - first)))
    return slope * (len(ordered) - 1) / float(np.median(ordered))


def _floats(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError("expected a non-empty row of finite numbers")
    return array


def _midranks(ordered: Floats, values: Floats) -> Floats:
    """Return for each value the share of `ordered` below it, equal ones counting half."""
    strictly = np.searchsorted(ordered, values, side="left")
    found: Floats = (strictly + np.searchsorted(ordered, values, side="right")) / 2 / len(ordered)
    return found


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _normal(level: float) -> float:
    return NormalDist().inv_cdf(level)


def _t_half_width(values: Floats, level: float) -> float:
    if len(values) < 2:
        return inf
    return student_t(level, len(values) - 1) * float(values.std(ddof=1)) / sqrt(len(values))


def student_t(level: float, freedom: int) -> float:
    """Return a quantile of Student's t; from 3 degrees of freedom on within 0.5 %.

    Exact for one and two degrees of freedom, else Abramowitz & Stegun 26.7.5.

    >>> round(student_t(0.975, 1), 2), round(student_t(0.975, 2), 3), round(student_t(0.95, 30), 3)
    (12.71, 4.303, 1.697)
    """
    if freedom == 1:
        return tan(pi * (level - 0.5))
    if freedom == 2:
        return (2 * level - 1) * sqrt(2 / (4 * level * (1 - level)))
    z, v = _normal(level), float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _tango(lost: int, won: int, n: int, difference: float) -> float:
    """Return Tango's score statistic for a true difference of paired proportions."""
    b = -lost - won + (2 * n - lost + won) * difference
    c = -won * difference * (1 - difference)
    gained = (sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * gained + difference * (1 - difference))
    distance = lost - won - n * difference
    if variance <= 0.0:
        return 0.0 if distance == 0 else inf if distance > 0 else -inf
    return distance / sqrt(variance)


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses zero between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _signed_rank_counts(n: int) -> Floats:
    """Return how many of the 2^n sign patterns give each rank sum 0 .. n(n+1)/2."""
    counts = np.zeros(comb(n + 1, 2) + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] += counts[:-rank].copy()
    return counts
