"""Which candidate ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from evidence import MODEL, evaluation, measured

from edgecompress.pipeline.choice import choose
from edgecompress.records import (
    BudgetCheck,
    Candidate,
    OnnxModel,
    Parity,
    Verdict,
)


def test_of_errors_the_smaller_is_the_more_accurate() -> None:
    two = [
        candidate("worse", 1.0, scores=[0.5, 0.6] * 50),
        candidate("better", 3.0, scores=[0.1, 0.2] * 50),
    ]
    two = [replace(c, evaluations=(evaluation(c.evaluations[0].scores, False),)) for c in two]
    chosen, _ = choose(two, {c.label: verdict("pass") for c in two})
    assert chosen is two[1]


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
