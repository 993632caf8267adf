"""The judge on simulated traces, the words of its reasons, and the choice among candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.pipeline.choice import choose
from edgecompress.profiles import Budget, Device, PredictionBasis, Profile
from edgecompress.recipe import AcceptSettings
from edgecompress.records import (
    BudgetCheck,
    Candidate,
    Evaluation,
    LatencySamples,
    Measurement,
    Metric,
    OnnxModel,
    Parity,
    Prediction,
    Quantiles,
    Verdict,
)
from edgecompress.statistics import split_error, walsh_bounds
from edgecompress.verdict import LOOKS, Evidence, decided, judge

LIMIT = 10.0  # ms, of the p95
MODEL = OnnxModel(Path("/m.onnx"), "0" * 64, 2_000_000)


def host_profile(**budget: float) -> Profile:
    return Profile(
        name="here",
        device=Device(description="this machine", host=True),
        budget=Budget.model_validate({"latency_ms.p95": LIMIT, **budget}),
    )


def absent_profile(p95: float = LIMIT, **budget: float) -> Profile:
    return Profile(
        name="there",
        device=Device(description="a phone"),
        budget=Budget.model_validate({"latency_ms.p95": p95, **budget}),
        prediction=PredictionBasis(host_ratio=2.0, source="a table"),
    )


def trace(
    p95: float,
    rng: np.random.Generator,
    processes: int = 5,
    calls: int = 300,
    spread: float = 0.01,
) -> list[np.ndarray]:
    """Return calls of each process whose true p95 is `p95`, with a spread between processes."""
    base = rng.gamma(4.0, 0.01, (processes, calls)) + 1.0
    base *= p95 / (1 + 0.01 * 7.754)  # the gamma distribution's own 95 % quantile
    return list(base * (1 + spread * rng.standard_normal((processes, 1))))


def measured(
    running: Sequence[np.ndarray], waited: float = 0.0, uncontrolled: tuple[str, ...] = ()
) -> Measurement:
    """Return a measurement of these calls, each of which waited `waited` ms besides."""
    samples = tuple(
        LatencySamples(tuple(r + waited), (waited,) * len(r), 10, 50.0, 30_000_000, 20_000_000)
        for r in running
    )
    q = Quantiles(*(float(np.quantile(running[0], x)) for x in (0.5, 0.9, 0.95, 0.99)))
    return Measurement(samples, q, q, 50.0, 30_000_000, 1, 1, "host", uncontrolled)


def latency_check(measurement: Measurement) -> BudgetCheck:
    return judge(host_profile(), Evidence(MODEL, measurement)).checks[0]


def shares(p95: float, sets: int = 150, seed: int = 0) -> dict[str, float]:
    """Return how often a model with this true p95 gets each status over all looks."""
    rng = np.random.default_rng(seed)
    done = {"pass": 0, "fail": 0, "inconclusive": 0}
    settled = decided(host_profile())
    for _ in range(sets):
        whole = trace(p95, rng, processes=20)
        for look in (5, 10, 20):
            measurement = measured(whole[:look])
            if settled("m", measurement):
                break
        done[latency_check(measurement).status] += 1
    return {status: count / sets for status, count in done.items()}


# Simulated traces


def test_exactly_at_the_limit() -> None:
    found = shares(LIMIT)
    assert found["pass"] <= 0.05
    assert found["fail"] <= 0.05


def test_two_percent_over_never_passes() -> None:
    assert shares(LIMIT * 1.02)["pass"] <= 0.01


@pytest.mark.parametrize(("factor", "status"), [(0.90, "pass"), (1.10, "fail")])
def test_ten_percent_away_is_decided(factor: float, status: str) -> None:
    found = shares(LIMIT * factor)
    assert found[status] >= 0.95
    assert found["fail" if status == "pass" else "pass"] == 0.0


def test_ten_percent_away_is_decided_at_the_first_look() -> None:
    rng = np.random.default_rng(1)
    settled = decided(host_profile())
    first = [settled("m", measured(trace(LIMIT * 0.9, rng))) for _ in range(200)]
    assert np.mean(first) >= 0.9


def test_one_odd_process_does_not_stop_a_pass() -> None:
    running = trace(LIMIT * 0.9, np.random.default_rng(2), processes=20)
    running[7] = running[7] * 1.5
    assert latency_check(measured(running)).status == "pass"


def test_bursts_leave_it_open_unless_the_limit_is_far() -> None:
    running = trace(LIMIT * 0.9, np.random.default_rng(3))
    for process in running:
        process[100:110] *= 2
    check = latency_check(measured(running))
    assert check.status == "inconclusive"
    assert "bursts of slow calls took" in check.reason
    assert "decides only 50% away from 10 ms" in check.reason
    assert latency_check(measured([r / 2 for r in running])).status == "pass"
    assert latency_check(measured([r * 2 for r in running])).status == "fail"


def test_drift_widens_the_guard_band() -> None:
    rng = np.random.default_rng(4)
    steady = trace(LIMIT * 0.94, rng, spread=0.001)
    drifting = [r * (1 + 0.02 * i) for i, r in enumerate(trace(LIMIT * 0.9, rng, spread=0.001))]
    assert latency_check(measured(steady)).status == "pass"
    check = latency_check(measured(drifting))  # ends at 0.97 of the limit, and rising
    assert check.status == "inconclusive"
    assert "guard band of 7" in check.reason


def test_contention_takes_away_fail_but_not_pass() -> None:
    rng = np.random.default_rng(5)
    over, under = trace(LIMIT * 1.1, rng), trace(LIMIT * 0.9, rng)
    check = latency_check(measured(over, waited=4.0))
    assert check.status == "inconclusive"
    assert "other work held the core 2" in check.reason
    assert latency_check(measured(under, waited=4.0)).status == "pass"
    assert latency_check(measured([r * 1.6 for r in over], waited=4.0)).status == "fail"


def test_what_the_system_cannot_control_decides_only_far_away() -> None:
    rng = np.random.default_rng(6)
    near, far = trace(LIMIT * 0.8, rng), trace(LIMIT * 0.5, rng)
    blind = ("waiting for a core not counted",)
    check = latency_check(measured(near, uncontrolled=blind))
    assert check.status == "inconclusive"
    assert blind[0] in check.reason
    assert latency_check(measured(far, uncontrolled=blind)).status == "pass"


def test_too_few_processes_say_nothing() -> None:
    check = latency_check(measured(trace(LIMIT / 10, np.random.default_rng(7), processes=3)))
    assert (check.status, check.low, check.high) == ("inconclusive", None, None)
    assert "too few to say how far off that may be; measure more processes" in check.reason


def test_each_look_spends_only_its_share_of_the_error() -> None:
    values = [float(v) for v in range(10, 20)]
    check = latency_check(measured([np.full(50, v) for v in values]))
    assert (check.low, check.high) == walsh_bounds(values, split_error(LOOKS, 0.05)[10])
    assert check.high != walsh_bounds(values, 0.05)[1]


def test_a_number_of_processes_fixed_beforehand_spends_the_whole_error() -> None:
    running = trace(LIMIT * 0.9, np.random.default_rng(8), processes=8)
    assert latency_check(measured(running)).status == "pass"


@settings(deadline=None, max_examples=30)
@given(st.floats(0.3, 3.0), st.integers(0, 2**16))
def test_the_interval_holds_the_value_and_agrees_with_the_status(factor: float, seed: int) -> None:
    check = latency_check(measured(trace(LIMIT * factor, np.random.default_rng(seed), calls=60)))
    assert check.low is not None
    assert check.high is not None
    assert check.value is not None
    assert check.low <= check.value <= check.high
    assert check.basis == "measured"
    assert check.status != "pass" or check.high * 1.02 <= LIMIT
    assert check.status != "fail" or check.low > LIMIT * 1.02


# Reasons


def test_a_pass_says_by_how_much() -> None:
    check = latency_check(measured([np.full(50, 8.0)] * 5))
    assert check.reason == "8 ms over 5 processes: 20.0% under the limit"


def test_a_fail_says_by_how_much_and_what_would_pass() -> None:
    running = [np.full(50, 12.0 + 0.1 * i) for i in (2, 0, 4, 1, 3)]
    check = latency_check(measured(running))
    assert check.reason == (
        "12.2 ms over 5 processes, at least 12: 20.0% over the limit; "
        "it would pass a limit of 12.7 ms"
    )


def test_close_to_the_limit_says_so() -> None:
    check = latency_check(measured([np.full(50, 9.9)] * 5))
    assert check.reason == (
        "9.9 ms over 5 processes, between 9.9 and 9.9, with a guard band of 2.0% for drift: "
        "too close to 10 ms to tell"
    )


def test_without_a_measurement_nothing_is_claimed() -> None:
    profile = host_profile(peak_memory_mb=50, cold_start_ms=500)
    verdict = judge(profile, Evidence(MODEL))
    assert verdict.status == "inconclusive"
    assert {(c.basis, c.reason) for c in verdict.checks} == {("none", "not measured")}


# Budgets other than latency, and devices that are not here


def test_all_budgets_of_a_host() -> None:
    profile = host_profile(peak_memory_mb=50, model_size_mb=5, cold_start_ms=500)
    evidence = Evidence(MODEL, measured([np.full(50, 5.0)] * 5))
    verdict = judge(profile, evidence)
    assert (verdict.status, verdict.reason) == ("pass", "all 4 budgets are met")
    assert {c.budget: c.basis for c in verdict.checks} == {
        "latency_ms.p95": "measured",
        "cold_start_ms": "measured",
        "peak_memory_mb": "measured",
        "model_size_mb": "exact",
    }


def test_a_model_too_big_fails_exactly() -> None:
    evidence = Evidence(MODEL, measured([np.full(50, 5.0)] * 5))
    verdict = judge(host_profile(model_size_mb=1.6), evidence)
    assert verdict.status == "fail"
    assert verdict.reason == (
        "over budget: model_size_mb (2 MB: 25.0% over the limit; it would pass a limit of 2 MB)"
    )


def test_memory_and_cold_start_of_an_absent_device_are_this_hosts() -> None:
    profile = absent_profile(peak_memory_mb=20, cold_start_ms=500)
    checks = judge(profile, Evidence(MODEL, measured([np.full(50, 5.0)] * 5))).checks
    found = {c.budget: (c.status, c.basis, c.reason) for c in checks}
    assert found["peak_memory_mb"][:2] == ("fail", "host")
    assert found["cold_start_ms"][:2] == ("pass", "host")
    assert found["peak_memory_mb"][2].startswith("on this host, not the device: 30 MB")
    assert found["latency_ms.p95"] == ("inconclusive", "none", "neither measured nor predicted")


@pytest.mark.parametrize(
    ("limit", "status"),
    [(45.0, "pass"), (44.9, "inconclusive"), (3.4, "inconclusive"), (3, "fail")],
)
def test_predictions_decide_only_beyond_their_interval(limit: float, status: str) -> None:
    # Typical 10 ms within a factor 3: the p95 lies between 3.3 ms and 3 x 10 x 1.5 = 45 ms.
    prediction = Prediction(Quantiles(10.0, 45.0, 45.0, 67.5), 1 / 3, 3.0, 1.5, "a table")
    check = judge(absent_profile(limit), Evidence(MODEL, None, prediction)).checks[0]
    assert (check.status, check.basis) == (status, "predicted")
    assert check.low == pytest.approx(10 / 3)
    assert check.value == check.high == 45.0
    assert "predicted (typical time 10 ms)" in check.reason


def test_a_measurement_here_never_passes_a_device_that_is_not_here() -> None:
    evidence = Evidence(MODEL, measured([np.full(50, 0.1)] * 20))
    assert judge(absent_profile(), evidence).status == "inconclusive"
    assert decided(absent_profile())("m", measured([np.full(50, 0.1)] * 5))


# Accuracy


def evaluation(scores: Sequence[float], higher_is_better: bool = True) -> Evaluation:
    mean = float(np.mean(scores))
    metric = Metric("accuracy", mean, mean, mean, "validation", higher_is_better)
    return Evaluation(metric, tuple(scores))


@pytest.mark.parametrize(
    ("lost", "samples", "status"),
    [(0, 1000, "pass"), (0, 100, "inconclusive"), (4, 1000, "pass"), (40, 1000, "fail")],
)
def test_the_drop_is_paired_and_one_sided(lost: int, samples: int, status: str) -> None:
    teacher = evaluation([1.0] * samples)
    student = evaluation([0.0] * lost + [1.0] * (samples - lost))
    evidence = Evidence(MODEL, None, None, teacher, student)
    check = judge(host_profile(), evidence, AcceptSettings(max_drop=0.01)).checks[-1]
    assert (check.budget, check.unit, check.status) == ("accept.max_drop", "accuracy", status)
    assert f"lost, paired on {samples} validation samples" in check.reason


@pytest.mark.parametrize(("higher", "status"), [(False, "fail"), (True, "pass")])
def test_a_metric_that_should_fall_is_judged_the_other_way(higher: bool, status: str) -> None:
    teacher, more = evaluation([1.0] * 50, higher), evaluation([1.5] * 50, higher)
    evidence = Evidence(MODEL, None, None, teacher, more)
    check = judge(host_profile(), evidence, AcceptSettings(max_drop=0.1)).checks[-1]
    assert check.status == status


def test_of_errors_the_smaller_is_the_more_accurate() -> None:
    two = [
        candidate("worse", 1.0, scores=[0.5, 0.6] * 50),
        candidate("better", 3.0, scores=[0.1, 0.2] * 50),
    ]
    two = [replace(c, evaluations=(evaluation(c.evaluations[0].scores, False),)) for c in two]
    chosen, _ = choose(two, {c.label: verdict("pass") for c in two})
    assert chosen is two[1]


def test_accept_without_scores_is_open() -> None:
    check = judge(host_profile(), Evidence(MODEL), AcceptSettings(max_drop=0.1)).checks[-1]
    assert check.reason == "not scored beside the teacher; give data with labels"


# The choice


def candidate(
    label: str, p50: float, size: int = 1000, scores: Sequence[float] = (1.0,) * 100
) -> Candidate:
    model = OnnxModel(Path(f"/{label}.onnx"), "0" * 64, size)
    measurement = measured([np.full(50, p50)] * 5)
    return Candidate(label, model, label, None, (evaluation(scores),), measurement, None)


def verdict(status: str, value: float = 1.0) -> Verdict:
    check = BudgetCheck("b", "ms", 1.0, value, value, value, status, "measured", "r")  # type: ignore[arg-type]
    return Verdict(status, (check,), "r")  # type: ignore[arg-type]


def test_the_fastest_of_those_that_tie() -> None:
    good, tie, bad = [1.0] * 100, [1.0] * 99 + [0.0], [1.0] * 80 + [0.0] * 20
    three = [
        candidate("float", 3.0, scores=good),
        candidate("int8", 1.0, scores=tie),
        candidate("tiny", 0.1, scores=bad),
    ]
    chosen, reason = choose(three, {c.label: verdict("pass") for c in three})
    assert chosen is three[1]
    assert reason == (
        "int8: meets every budget; ties with float for the best validation score of 3; "
        "is the fastest of the 2 that tie (1 ms)"
    )


def test_equally_fast_ones_are_chosen_by_size() -> None:
    two = [candidate("a", 1.0, size=500), candidate("b", 1.01, size=100)]
    chosen, reason = choose(two, {c.label: verdict("pass") for c in two})
    assert chosen is two[1]
    assert "is the fastest, then the smallest of the 2 that tie" in reason


def test_an_accepted_loss_is_spent_only_on_real_speed() -> None:
    """The score of `quick` is worse beyond doubt, within what `[accept]` allows."""
    worse = [1.0] * 180 + [0.0] * 20
    for ms, shipped in ((0.5, "quick"), (0.95, "exact")):
        two = [candidate("exact", 1.0, scores=[1.0] * 200), candidate("quick", ms, scores=worse)]
        check = BudgetCheck("accept.max_drop", "", 0.2, 0.1, 0.07, 0.14, "pass", "measured", "")
        passed = Verdict("pass", (check,), "")
        chosen, reason = choose(two, {c.label: passed for c in two})
        assert chosen is not None
        assert chosen.label == shipped
    chosen, reason = choose(
        [two[0], candidate("quick", 0.5, scores=worse)], {c.label: passed for c in two}
    )
    assert reason == (
        "quick: meets every budget; is 2x as fast as exact, "
        "for a loss of validation score that [accept] allows"
    )
    chosen, _ = choose(two, {c.label: verdict("pass") for c in two})  # nothing is accepted
    assert chosen is two[0]


def test_budgets_come_before_accuracy() -> None:
    two = [candidate("big", 3.0), candidate("small", 1.0, scores=[1.0] * 90 + [0.0] * 10)]
    chosen, _ = choose(two, {"big": verdict("fail", 2.0), "small": verdict("inconclusive")})
    assert chosen is two[1]


def test_if_all_fail_the_closest_ships() -> None:
    two = [candidate("far", 1.0), candidate("near", 3.0)]
    chosen, reason = choose(two, {"far": verdict("fail", 5.0), "near": verdict("fail", 1.2)})
    assert chosen is two[1]
    assert reason.startswith("near: comes closest to its budgets")


def test_only_candidates_with_parity_can_ship() -> None:
    broken = Parity("float", 10, 1.0, 1.0, 0.5, False, "broken")
    good = candidate("good", 3.0)
    others = [
        Candidate("broken", MODEL, "int8", broken, (), None, None),
        Candidate("dropped", MODEL, "int8", None, (), None, None, dropped="slower than float"),
    ]
    verdicts = {c.label: verdict("pass") for c in [good, *others]}
    assert choose([good, *others], verdicts)[0] is good
    assert choose(others, verdicts) == (None, "no candidate passed parity")
