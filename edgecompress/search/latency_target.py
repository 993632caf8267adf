"""Widths for a target: which channels go so that the exported network costs what was asked.

The network is narrowed step by step on paper, where each step gains most for the importance that
it loses. That makes one descent from the whole network to the narrowest. A few of its steps are
exported and measured, and each measurement tells better which step to try next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from statistics import fmean

from edgecompress.pruning.widths import Layer, Survey
from edgecompress.records import PruningTrial
from edgecompress.search.layer_costs import LayerCost

TRIALS = 6
WITHIN = 0.05  # a step so little below the target has reached it
NEAR = 0.04  # a trial so little below it ends the search: the next measurement may differ by 1 %
AIM = 0.98  # of the target: the middle of what ends the search
NARROWEST = 1 / 16  # of a group's channels: with fewer, networks no longer learn


@dataclass(frozen=True)
class Step:
    """Hold the widths of all groups, what the layers cost then by estimate, and their load.

    Where a share s of a group's importance is left, what is left carries 1 / s of what it did:
    `load` is the mean of that over the groups, 1 for the whole network.
    """

    widths: Mapping[str, int]
    estimate: float
    load: float


@dataclass(frozen=True)
class Landing:
    """Hold what was tried, in turn, and which step came out; None where none was tried."""

    trials: tuple[PruningTrial, ...]
    step: Step | None
    value: float
    reached: bool


@dataclass(frozen=True)
class Course:
    """Hold what a descent goes by: the network, the widths that groups may have, what layers cost.

    Each step narrows the group that gains most for the load that it adds. Halving what a group has
    left adds twice as much the second time, so that no group is emptied for the others; by the
    product of what is left, the best would be to empty one. Widths that gain nothing are jumped.
    """

    survey: Survey
    choices: Mapping[str, Sequence[int]]
    cost: LayerCost

    def down(self) -> tuple[Step, ...]:
        """Return the steps from the whole network down, as far as the choices of widths go."""
        return self._steps(_Paper(self.survey, self.cost), -inf)

    def between(self, above: Step, below: Step, floor: float) -> tuple[Step, ...]:
        """Return `above`, smaller steps from it down to an estimate of `floor`, and `below`.

        A step with a higher load than `below`, which costs less, is none.
        """
        paper = _Paper(self.survey, self.cost, above.widths)
        steps = self._steps(paper, floor)[1:]
        return (above, *(one for one in steps if one.load < below.load), below)

    def _steps(self, paper: _Paper, floor: float) -> tuple[Step, ...]:
        steps = [paper.step()]
        while (best := _best(paper, self.choices, steps[-1].estimate - floor)) is not None:
            paper.narrow_(*best)
            steps.append(paper.step())
        return tuple(steps)


def land(
    course: Course,
    target: float,
    start: float,
    trial: Callable[[Step], float],
    confirm: Callable[[Step], float] | None = None,
    most: int = TRIALS,
) -> Landing:
    """Return the step that costs the most of those within the target, or the cheapest tried.

    `start` is what the whole network costs, `trial` finds out what a step really costs; both in
    the unit of the target. It is reached if the step lies at most 5 % below, or if the next wider
    one was tried and lies above. Where a trial may err, `confirm` finds out more carefully what
    the step costs that the trial took for an arrival, and its word counts.
    """
    search, refined = _Search(course.down(), target, {0: start}), False
    trials: list[tuple[Step, float]] = []
    while len(trials) < most:
        place = search.next()
        if place is None and not refined and (finer := search.refined(course)) is not None:
            search, refined = finer, True
            continue
        if place is None:
            break
        step = search.steps[place]
        value = trial(step)
        if confirm is not None and _arrived(value, target):
            value = confirm(step)
        search.known[place] = value
        trials.append((step, value))
        if _arrived(value, target):
            break
    return _landing(trials, search, start)


def _arrived(value: float, target: float) -> bool:
    return target * (1 - NEAR) <= value <= target


def _landing(trials: Sequence[tuple[Step, float]], search: _Search, start: float) -> Landing:
    target = search.target
    if not trials:
        return Landing((), None, start, reached=start <= target)
    fitting = [one for one in trials if one[1] <= target]
    by_cost = itemgetter(1)
    step, value = max(fitting, key=by_cost) if fitting else min(trials, key=by_cost)
    near = target * (1 - WITHIN) <= value <= target
    beside = bool(fitting) and search.next() is None
    told = tuple(PruningTrial(one.load, one.estimate, found) for one, found in trials)
    return Landing(told, step, value, near or beside)


class _Paper:
    """Hold the widths and costs of a network that is narrowed on paper."""

    def __init__(
        self, survey: Survey, cost: LayerCost, widths: Mapping[str, int] | None = None
    ) -> None:
        self.groups = {group.path: group for group in survey.groups}
        whole = {group.path: group.width for group in survey.groups}
        self.widths = whole | dict(widths or {})
        self._cost = cost
        self._touched: dict[str, list[Layer]] = {path: [] for path in self.groups}
        for layer in survey.layers:
            for path in layer.inputs.of.keys() | layer.outputs.of.keys():
                self._touched[path].append(layer)
        self._costs = {layer.path: self._of(layer, {}) for layer in survey.layers}

    def gain(self, path: str, width: int) -> float:
        """Return what is saved when a group is narrowed to a width."""
        changed = {path: width}
        return sum(self._costs[one.path] - self._of(one, changed) for one in self._touched[path])

    def load(self, path: str, width: int) -> float:
        """Return what the channels that are left of a group carry at a width."""
        return 1 / max(self.groups[path].surviving(width), 1e-9)

    def narrow_(self, path: str, width: int) -> None:
        """Narrow a group."""
        self.widths[path] = width
        for layer in self._touched[path]:
            self._costs[layer.path] = self._of(layer, {})

    def step(self) -> Step:
        """Return the network as it stands."""
        loads = [self.load(path, width) for path, width in self.widths.items()]
        return Step(dict(self.widths), sum(self._costs.values()), fmean(loads or [1.0]))

    def _of(self, layer: Layer, changed: Mapping[str, int]) -> float:
        shares = {
            path: changed.get(path, self.widths[path]) / self.groups[path].width
            for path in (*layer.inputs.of, *layer.outputs.of)
        }
        return self._cost(layer, layer.inputs.at(shares), layer.outputs.at(shares))


def _best(
    paper: _Paper, choices: Mapping[str, Sequence[int]], most: float
) -> tuple[str, int] | None:
    """Return the narrowing that gains most, up to `most`, for what it loses; None where none is."""
    best, highest = None, 0.0
    for path, group in paper.groups.items():
        least = max(group.unit, group.width * NARROWEST)
        now = paper.load(path, paper.widths[path])
        for width in choices[path]:
            if not least <= width < paper.widths[path]:
                continue
            gain = paper.gain(path, width)
            worth = gain / max(paper.load(path, width) - now, 1e-9)
            if 0 < gain <= most and worth > highest:
                best, highest = (path, width), worth
    return best


@dataclass
class _Search:
    """Look for the place on a way down at which the cost passes the target."""

    steps: Sequence[Step]
    target: float
    known: dict[int, float]

    def next(self) -> int | None:
        """Return the place to try next; None where nothing lies between two neighbours."""
        above, below = self._around()
        if above is None or below - above < 2:
            return None
        predicted = self._line(above, below)
        fits = (p for p in range(above + 1, below) if predicted(self.steps[p]) <= self._aim)
        return next(fits, below - 1)

    def refined(self, course: Course) -> _Search | None:
        """Return a search among smaller steps, where the target lies between two neighbours."""
        above, below = self._around()
        if above is None or below not in self.known:
            return None
        upper, lower = self.steps[above], self.steps[below]
        rise = (self.known[above] - self.known[below]) / (upper.estimate - lower.estimate)
        floor = upper.estimate - (self.known[above] - self._aim) / rise
        steps = course.between(upper, lower, floor)
        known = {0: self.known[above], len(steps) - 1: self.known[below]}
        return _Search(steps, self.target, known)

    @property
    def _aim(self) -> float:
        return AIM * self.target

    def _around(self) -> tuple[int | None, int]:
        """Return the last place above the target, and the first one below."""
        known, end = self.known, len(self.steps)
        below = min((p for p, value in known.items() if value <= self.target), default=end)
        above = (p for p, value in known.items() if value > self.target and p < below)
        return max(above, default=None), below

    def _line(self, above: int, below: int) -> Callable[[Step], float]:
        """Return the cost by estimate: a line through the measured steps around, or the last two.

        With one step measured, in proportion to the estimate.
        """
        before = max((p for p in self.known if p < above), default=None)
        other = below if below in self.known else before
        step, value = self.steps[above], self.known[above]
        slope = value / step.estimate
        if other is not None and self.steps[other].estimate != step.estimate:
            rise = (self.known[other] - value) / (self.steps[other].estimate - step.estimate)
            slope = rise if rise > 0 else slope
        return lambda wanted: value + slope * (wanted.estimate - step.estimate)
