"""Lay out how pruning came to its target: what each narrowed network cost and scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgecompress.records import Metric, PruningSearch, Report
from edgecompress.report import words
from edgecompress.report.tables import Table

LESSON = "after a short lesson"


@dataclass(frozen=True)
class Stop:
    """Hold a network on the way down: what it cost, in the unit of the search, and its score.

    `kept` marks the one that goes on; `taught` those that learned again in full.
    """

    name: str
    cost: float
    score: Metric | None
    kept: bool = False
    taught: bool = False


def stops(report: Report, search: PruningSearch) -> tuple[Stop, ...]:
    """Return the unpruned network, the trials from the widest to the narrowest, and the outcome."""
    kept = [trial.found == search.found and search.gained for trial in search.trials]
    tried = [
        Stop(f"trial {number}", trial.found, trial.score, goes_on)
        for number, (trial, goes_on) in enumerate(zip(search.trials, kept, strict=True), start=1)
    ]
    again = [
        Stop("taught again", search.found, training.arm.evaluation.metric, taught=True)
        for training in report.trainings
        if training.stage == "redistill" and search.gained
    ]
    tried.sort(key=lambda stop: -stop.cost)
    return (Stop("unpruned", search.start, search.score), *tried, *again)


def searches(report: Report) -> Iterator[PruningSearch]:
    """Yield the searches that tried something."""
    for pruning in report.prunings:
        if pruning.search is not None and pruning.search.trials:
            yield pruning.search


def search_table(report: Report, search: PruningSearch) -> Table:
    """Return one row a network that was exported on the way to the target."""
    found = stops(report, search)
    metric = next((stop.score.name for stop in found if stop.score), "score")
    rows = tuple(
        (
            stop.name,
            f"{stop.cost:.4g}",
            words.score(stop.score) if stop.score else words.NOTHING,
            _remark(stop),
        )
        for stop in found
    )
    return Table(("network", cost_name(search), f"{metric} on validation", ""), rows)


def cost_name(search: PruningSearch) -> str:
    """Return what the costs of a search are, in words."""
    relative = search.start == 1 and search.figure != "share of the latency budget"
    return f"share of {search.figure}" if relative else search.figure


def _remark(stop: Stop) -> str:
    if stop.taught or stop.name == "unpruned":
        return ""
    return f"{LESSON}, goes on" if stop.kept else LESSON
