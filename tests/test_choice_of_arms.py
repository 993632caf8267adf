"""Which arm goes on and whether distilling helped: from scores alone, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from edgecompress.distilling.choice import (
    CODISTILLED,
    CONTROL,
    DISTILLED,
    PSEUDO,
    best_seed,
    compared,
    pick_arm,
)
from edgecompress.records import Evaluation, Metric
from edgecompress.statistics import paired_drop


@dataclass(frozen=True)
class Scored:
    name: str
    evaluation: Evaluation
    seed: int = 0


def right(name: str, count: int, of: int = 1000, seed: int = 0) -> Scored:
    scores = tuple([1.0] * count + [0.0] * (of - count))
    return Scored(
        name, Evaluation(Metric("accuracy", count / of, 0, 1, "validation"), scores), seed
    )


def off(name: str, errors: list[float]) -> Scored:
    metric = Metric("absolute error", float(np.mean(errors)), 0, 9, "validation", False)
    return Scored(name, Evaluation(metric, tuple(errors)))


@pytest.mark.parametrize(
    ("distilled", "control", "shipped", "words"),
    [
        (950, 900, DISTILLED, "distillation helped: +5.00 points of accuracy ["),
        (900, 950, CONTROL, "distillation hurt: -5.00 points of accuracy ["),
        (950, 949, DISTILLED, "no difference that this validation set can show: +0.10 points"),
        (950, 950, DISTILLED, "no difference"),  # of equals the one that was asked for
    ],
)
def test_the_better_arm_goes_on(distilled: int, control: int, shipped: str, words: str) -> None:
    winner, reason = pick_arm([right(DISTILLED, distilled), right(CONTROL, control)])
    assert winner.name == shipped
    assert words in reason
    who = {DISTILLED: "distilled", CONTROL: "hard-label"}[shipped]
    assert reason.endswith(f"against the hard-label student; the {who} student goes on")


def test_distillation_is_held_against_the_best_control() -> None:
    arms = [right(DISTILLED, 930), right(CONTROL, 900), right(PSEUDO, 960)]
    winner, reason = pick_arm(arms)
    assert winner.name == PSEUDO
    assert "distillation hurt: -3.00 points" in reason
    assert "against the pseudo-label student; the pseudo-label student goes on" in reason


def test_peers_compete_and_are_spoken_of_apart() -> None:
    arms = [right(DISTILLED, 930), right(CONTROL, 900), right(CODISTILLED, 960)]
    winner, reason = pick_arm(arms)
    assert winner.name == CODISTILLED
    assert "distillation helped: +3.00 points" in reason
    assert "; codistillation helped: +6.00 points" in reason
    assert reason.endswith("; the codistilled student goes on")


def test_the_mean_over_seeds_wins_and_its_best_seed_ships() -> None:
    counts = {DISTILLED: (940, 960, 950), CONTROL: (980, 900, 910)}
    arms = [
        right(name, count, seed=seed)
        for name, row in counts.items()
        for seed, count in enumerate(row)
    ]
    winner, reason = pick_arm(arms)
    assert (winner.name, winner.seed) == (DISTILLED, 1)  # though one control beats them all
    assert best_seed(arms, CONTROL).seed == 0
    found = compared(arms)
    assert found is not None
    assert found.by_seed == pytest.approx((-0.04, 0.06, 0.04))
    assert found.value == pytest.approx(0.02)
    assert found.better_seeds == 2
    spread = 100 * np.std(found.by_seed, ddof=1)
    assert (
        f"(seed by seed -4.00 to +6.00, standard deviation {spread:.2f}; better in 2 of 3;"
        in reason
    )
    assert reason.endswith("the distilled student of seed 1, its best, goes on")


def test_seeds_that_disagree_are_a_warning() -> None:
    def told(counts: tuple[int, ...]) -> str:
        arms = [right(DISTILLED, count, seed=s) for s, count in enumerate(counts)]
        return pick_arm([*arms, *(right(CONTROL, 900, seed=s) for s in range(len(counts)))])[1]

    doubt = "; another seed may come out otherwise)"
    assert "distillation helped" in told((890, 990, 960))
    assert doubt in told((890, 990, 960))
    assert doubt not in told((940, 950, 960))
    assert doubt not in told((890, 900, 912))  # no claim, no doubt of it


def test_nothing_is_not_below_nothing() -> None:
    scores = {DISTILLED: (0.1, 0.2, 0.6), CONTROL: (0.3, 0.3, 0.3 + 1e-9)}
    arms = [
        Scored(name, Evaluation(Metric("accuracy", 0.3, 0, 1, "validation"), row))
        for name, row in scores.items()
    ]
    assert ": +0.00 points of accuracy [" in pick_arm(arms)[1]


def test_two_seeds_have_ends_but_no_standard_deviation() -> None:
    arms = [right(DISTILLED, 950 + s, seed=s) for s in (0, 1)]
    arms += [right(CONTROL, 900, seed=s) for s in (0, 1)]
    assert "(seed by seed +5.00 to +5.10; better in 2 of 2)" in pick_arm(arms)[1]


def test_a_samples_score_is_its_mean_over_seeds() -> None:
    draws = np.random.default_rng(0)
    rows = {(name, s): draws.random(50) for name in (DISTILLED, CONTROL) for s in (0, 1, 2)}
    arms = [
        Scored(name, Evaluation(Metric("kept", r.mean(), 0, 1, "validation"), tuple(r)), s)
        for (name, s), r in rows.items()
    ]
    found = compared(arms)
    means = [np.mean([rows[name, s] for s in (0, 1, 2)], axis=0) for name in (DISTILLED, CONTROL)]
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx(paired_drop(*means))


def test_lower_is_better_where_the_metric_says_so() -> None:
    errors = np.linspace(1.0, 2.0, 200)
    arms = [off(DISTILLED, (errors - 0.5).tolist()), off(CONTROL, errors.tolist())]
    winner, reason = pick_arm(arms)
    assert winner.name == DISTILLED
    assert "distillation helped: -0.5 absolute error [" in reason
    turned = [off(DISTILLED, errors.tolist()), off(CONTROL, (errors - 0.5).tolist())]
    assert "distillation hurt: +0.5 absolute error [" in pick_arm(turned)[1]


def test_what_cannot_be_paired_is_not_compared() -> None:
    assert compared([right(DISTILLED, 9)]) is None
    assert compared([right(DISTILLED, 9, 10), right(CONTROL, 9, 11)]) is None
    assert compared([right(DISTILLED, 9, seed=1), right(CONTROL, 9, seed=2)]) is None
    broken = Evaluation(Metric("accuracy", 1, 0, 1, "validation"), (float("nan"), 1.0))
    assert compared([Scored(DISTILLED, broken), right(CONTROL, 1, 2)]) is None
