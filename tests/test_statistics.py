"""Statistics: known values, exact properties, and coverage on simulated samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.statistics import (
    burst_share,
    drift,
    mean_interval,
    paired_drop,
    quantile,
    split_error,
    student_t,
    walsh_bounds,
    wilson,
)

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=200)


def test_wilson_agrees_with_the_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_a_share(case: tuple[int, int]) -> None:
    successes, trials = case
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high


def test_perfect_scores_have_an_interval_all_the_same() -> None:
    mean, low, high = mean_interval([1.0] * 500)
    assert (mean, high) == (1.0, 1.0)
    assert 0.99 < low < 0.995


@pytest.mark.parametrize(
    ("level", "freedom", "expected"),
    [(0.95, 3, 2.353), (0.95, 4, 2.132), (0.975, 10, 2.228), (0.975, 1000, 1.962)],
)
def test_student_t(level: float, freedom: int, expected: float) -> None:
    assert student_t(level, freedom) == pytest.approx(expected, rel=2e-3)


def test_one_score_says_nothing_of_its_spread() -> None:
    assert mean_interval([0.3]) == (0.3, -math.inf, math.inf)


def _tango_by_search(lost: int, won: int, n: int, difference: float) -> float:
    """Compute the statistic from its definition, the likelihood's maximum searched on a grid."""
    q = np.linspace(max(0.0, -difference), (1 - difference) / 2, 200_001)[1:-1]
    likelihood = lost * np.log(q + difference) + (n - lost - won) * np.log(1 - 2 * q - difference)
    likelihood += won * np.log(q)
    best = q[np.argmax(likelihood)]
    return (lost - won - n * difference) / math.sqrt(n * (2 * best + difference * (1 - difference)))


def test_paired_bounds_invert_the_score_test() -> None:
    reference, candidate = [1] * 36 + [1] * 12 + [0] * 2, [1] * 36 + [0] * 12 + [1] * 2
    drop, low, high = paired_drop(reference, candidate, error=0.025)
    assert drop == pytest.approx(0.2)
    assert _tango_by_search(12, 2, 50, low) == pytest.approx(1.95996, abs=1e-3)
    assert _tango_by_search(12, 2, 50, high) == pytest.approx(-1.95996, abs=1e-3)


@settings(deadline=None)
@given(binary)
def test_paired_bounds_hold_the_drop_and_are_antisymmetric(pairs: list[tuple[int, int]]) -> None:
    reference, candidate = zip(*pairs, strict=True)
    drop, low, high = paired_drop(reference, candidate)
    back, back_low, back_high = paired_drop(candidate, reference)
    assert -1 <= low <= drop <= high <= 1
    assert (drop, low, high) == pytest.approx((-back, -back_high, -back_low), abs=1e-9)
    assert high > 0 or drop < 0, "no finite sample proves that nothing was lost"


@pytest.mark.parametrize("n", [10, 540, 10_000])
def test_no_disagreement_still_leaves_a_bound(n: int) -> None:
    _, low, high = paired_drop([1.0] * n, [1.0] * n)
    assert -low == pytest.approx(high) == pytest.approx(2.706 / (n + 2.706), rel=1e-3)


def test_equal_scores_that_are_not_binary_leave_a_bound_too() -> None:
    scores = np.linspace(0.0, 2.0, 300)
    drop, low, high = paired_drop(scores, scores)
    assert drop == 0.0
    assert -low == high == pytest.approx(2 * 2.706 / 302.706, rel=1e-3)


def test_paired_bound_covers_a_true_drop() -> None:
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(400):
        reference = (rng.random(500) < 0.97).astype(float)
        lost = rng.random(500) < 0.02  # a true drop of 0.97 * 0.02
        misses += paired_drop(reference, reference * ~lost)[2] < 0.97 * 0.02
    assert misses / 400 < 0.08


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="paired scores differ in number"):
        paired_drop([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="non-empty row of finite numbers"):
        mean_interval([float("nan")])


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_walsh_bounds_have_exactly_their_error(n: int) -> None:
    # Over all sign patterns of magnitudes with distinct ranks, each equally likely around zero.
    magnitudes = np.array([1.0, 2.1, 4.3, 8.7, 17.0, 33.0, 65.0])[:n]
    for error in (0.05, 0.10, 0.25):
        high = [
            walsh_bounds(magnitudes * signs, error)[1]
            for signs in itertools.product((-1, 1), repeat=n)
        ]
        assert np.mean(np.array(high) < 0) <= error


def test_walsh_bounds_resist_one_odd_process() -> None:
    steady = 1 + 0.01 * np.random.default_rng(1).standard_normal(20)
    _, clean = walsh_bounds(steady, 0.01)
    _, soiled = walsh_bounds(np.append(steady[:-1], 3.0), 0.01)
    assert soiled < clean * 1.02


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=25))
def test_walsh_bounds_are_ordered_and_scale(values: list[float]) -> None:
    low, high = walsh_bounds(values, 0.05)
    assert low <= high
    assert walsh_bounds([2 * v for v in values], 0.05) == (2 * low, 2 * high)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5, unique=True).map(sorted))
def test_looks_never_spend_more_than_their_error(looks: list[int]) -> None:
    shares = split_error(looks)
    assert sum(shares.values()) <= 0.05 + 1e-12
    assert all(share == 0 or share >= 0.5**n for n, share in shares.items())


def test_false_alarm_over_all_looks_is_bounded() -> None:
    rng = np.random.default_rng(2)
    shares = split_error((5, 10, 20))
    passes = 0
    for _ in range(2000):
        values = rng.standard_normal(20)  # exactly at a limit of zero
        passes += any(walsh_bounds(values[:n], share)[1] < 0 for n, share in shares.items())
    assert passes / 2000 <= 0.05


def test_bursts_are_runs_of_slow_calls_not_slow_calls() -> None:
    rng = np.random.default_rng(3)
    calls = 1 + 0.02 * rng.standard_normal(4000)
    scattered, bursty = calls.copy(), calls.copy()
    scattered[rng.random(4000) < 0.07] *= 2
    bursty[1000:1080] *= 2
    assert burst_share(calls) == 0.0
    assert burst_share(scattered) < 0.005
    assert burst_share(bursty) == pytest.approx(160 / 4080, rel=0.1)


@given(st.floats(-0.3, 0.3))
def test_drift_reads_a_steady_change(change: float) -> None:
    values = np.linspace(1 - change / 2, 1 + change / 2, 20)
    assert drift(values) == pytest.approx(change, abs=1e-9)


def test_drift_needs_three_values() -> None:
    assert drift([1.0, 2.0]) == 0.0


def test_quantile() -> None:
    assert quantile(range(101), 0.95) == 95.0
