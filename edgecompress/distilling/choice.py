"""Which arm of a distillation goes on, and whether distilling helped: pure, from validation scores.

Arms that were repeated with several seeds are compared pairwise: a sample's score is its mean over
the seeds, and the interval is paired over samples. It says what these networks do on other samples;
how another seed would have come out, the spread over the seeds says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from edgecompress.records import Evaluation
from edgecompress.statistics import mean_interval, paired_drop

DISTILLED, CONTROL, PSEUDO, CODISTILLED = "distilled", "control", "pseudo", "codistilled"
STUDENTS = {
    DISTILLED: "distilled student",
    CONTROL: "hard-label student",
    PSEUDO: "pseudo-label student",
    CODISTILLED: "codistilled student",
}
LEAST_SEEDS = 3  # from which on a standard deviation says something


class Contender(Protocol):
    """Name a trained arm, the seed of all its draws, and its score on validation."""

    @property
    def name(self) -> str:
        """Return the arm's name."""

    @property
    def seed(self) -> int:
        """Return the seed that order, augmentation, dropout and first weights come from."""

    @property
    def evaluation(self) -> Evaluation:
        """Return its score on validation."""

    @property
    def note(self) -> str:
        """Return what is to be known of its training beside; mostly nothing."""


C = TypeVar("C", bound=Contender)


@dataclass(frozen=True)
class Comparison:
    """Hold one arm's score minus another's on the same samples, with one-sided 95 % bounds.

    `by_seed` is the difference of each seed's pair; `helped` is None where the bounds hold zero.
    """

    arm: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    helped: bool | None
    samples: int
    by_seed: tuple[float, ...]
    better_seeds: int

    @property
    def words(self) -> str:
        """Return the whole claim in one sentence without its full stop."""
        what = "codistillation" if self.arm == CODISTILLED else "distillation"
        claim = {
            True: f"{what} helped",
            False: f"{what} hurt",
            None: f"{what} made no difference that this validation set can show",
        }[self.helped]
        unit = f"points of {self.metric}" if self._points else self.metric
        return (
            f"{claim}: {self._said(self.value)} {unit} [{self._said(self.low)}, "
            f"{self._said(self.high)}] against the {STUDENTS[self.against]}{self._spread}"
        )

    @property
    def _points(self) -> bool:
        return "accuracy" in self.metric.lower()

    def _said(self, value: float) -> str:
        rounded = round(100 * value, 2) + 0.0  # no minus before a zero
        return f"{rounded:+.2f}" if self._points else f"{value:+.3g}"

    @property
    def _spread(self) -> str:
        seeds = len(self.by_seed)
        if seeds < 2:
            return ""
        ends = f"{self._said(min(self.by_seed))} to {self._said(max(self.by_seed))}"
        spread = f", standard deviation {self._said(float(np.std(self.by_seed, ddof=1)))[1:]}"
        return (
            f" (seed by seed {ends}{spread if seeds >= LEAST_SEEDS else ''}; "
            f"better in {self.better_seeds} of {seeds}{self._doubt})"
        )

    @property
    def _doubt(self) -> str:
        """Return a warning where these networks differ beyond doubt, but their seeds do as well."""
        if self.helped is None or len(self.by_seed) < LEAST_SEEDS:
            return ""
        _, low, high = mean_interval(self.by_seed, 0.9)  # one-sided 95 % on either side
        return "; another seed may come out otherwise" if low <= 0 <= high else ""


def pick_arm(arms: Sequence[C]) -> tuple[C, str]:
    """Return the network that goes on, judged on validation, and why in words.

    The arm with the best mean over its seeds wins, of equals the earlier; its best seed ships.
    """
    best = max(dict.fromkeys(arm.name for arm in arms), key=lambda name: _mean(arms, name))
    winner = best_seed(arms, best)
    found = [compared(arms, DISTILLED), compared(arms, CODISTILLED)]
    claims = [comparison.words for comparison in found if comparison is not None]
    seeds = len({arm.seed for arm in arms})
    which = f" of seed {winner.seed}, its best," if seeds > 1 else ""
    return winner, "; ".join([*claims, f"the {STUDENTS[winner.name]}{which} goes on"])


def compared(arms: Sequence[Contender], name: str = DISTILLED) -> Comparison | None:
    """Return arm `name` against the best of its controls; None where there is no such pair.

    Controls have the labels, and the teacher's hard answers at most; the best is the one with the
    best mean score.
    """
    controls = [n for n in (CONTROL, PSEUDO) if any(arm.name == n for arm in arms)]
    ours = _of(arms, name)
    if not ours or not controls:
        return None
    against = max(controls, key=lambda control: _mean(arms, control))
    theirs = _of(arms, against)
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    if not pairs or not _comparable(pairs):
        return None
    first, second = (np.mean([e.scores for e in side], axis=0) for side in zip(*pairs, strict=True))
    value, low, high = paired_drop(first, second)
    score = pairs[0][0].metric
    by_seed = tuple(a.metric.value - b.metric.value for a, b in pairs)
    return Comparison(
        arm=name,
        against=against,
        metric=score.name,
        value=value,
        low=low,
        high=high,
        helped=None if low <= 0 <= high else (low > 0) == score.higher_is_better,
        samples=len(first),
        by_seed=by_seed,
        better_seeds=sum((d > 0) == score.higher_is_better and d != 0 for d in by_seed),
    )


def best_seed(arms: Sequence[C], name: str) -> C:
    """Return the network of arm `name` that does best on validation, of equals the earliest."""
    return max((arm for arm in arms if arm.name == name), key=lambda arm: quality(arm.evaluation))


def _of(arms: Sequence[Contender], name: str) -> dict[int, Evaluation]:
    return {arm.seed: arm.evaluation for arm in arms if arm.name == name}


def _comparable(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> bool:
    """Return whether all were scored on as many samples, two or more, and all scores finite."""
    scores = [evaluation.scores for pair in pairs for evaluation in pair]
    return (
        len({len(row) for row in scores}) == 1
        and len(scores[0]) > 1
        and all(bool(np.isfinite(row).all()) for row in scores)
    )


def _mean(arms: Sequence[Contender], name: str) -> float:
    return float(np.mean([quality(arm.evaluation) for arm in arms if arm.name == name]))


def quality(evaluation: Evaluation) -> float:
    """Return a score so that higher is better, whatever the metric."""
    score = evaluation.metric
    return score.value if score.higher_is_better else -score.value
