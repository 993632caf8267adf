"""Pruning to a target: the search for widths, wired to export, runtime, device and profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgecompress.distilling.views import tensors
from edgecompress.errors import RecipeError
from edgecompress.exporting.onnx import export
from edgecompress.measuring.curves import kept_curves
from edgecompress.measuring.features import read_features
from edgecompress.measuring.host import describe_host
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.measuring.readings import GUARD, usual_latency
from edgecompress.measuring.targets.machine import fingerprint, machine_of
from edgecompress.measuring.targets.target import HOST
from edgecompress.pipeline.glimpses import first_sight, glimpse
from edgecompress.pipeline.networks import Network
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.pruning.graph import count_macs
from edgecompress.pruning.importance import LossBatch
from edgecompress.pruning.prune import Pruned, prune_to
from edgecompress.pruning.widths import Survey, survey
from edgecompress.recipe import MeasureSettings, PruneSettings
from edgecompress.records import (
    Measurement,
    Metric,
    OnnxModel,
    PruningSearch,
    PruningTrial,
    Quantiles,
)
from edgecompress.search.latency_target import Course, Landing, Step, land
from edgecompress.search.layer_costs import bytes_of, even_grid, grid, macs_of, time_by
from edgecompress.store import StageCode, artifact, digest_of

AIMED = StageCode(
    "prune",
    ("pruning", "search", "exporting", "measuring", "distilling"),
    ("torch", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "numpy"),
)
ROOM = 0.05
"""The share of a budget that is left free: nearer to it, no judge could tell that it is met."""


@dataclass(frozen=True)
class Goal:
    """Hold what is counted, in words, and the limit; `share` makes it one of the whole network."""

    figure: str
    limit: float
    share: bool = False

    @property
    def timed(self) -> bool:
        """Return whether it is about time."""
        return self.figure not in ("size_bytes", "macs")

    def times(self, measured: Measurement) -> Quantiles:
        """Return the times that count: as a budget is judged; in a share the pace cancels."""
        return measured.latency_ms if self.share else usual_latency(measured)


def goal_of(settings: PruneSettings, profile: Profile | None) -> Goal:
    """Return the goal that the recipe sets; raise RecipeError for a budget that is not known."""
    match settings.target:
        case float(share):
            return Goal("latency_ms.p50", share, share=True)
        case dict(given):
            ((figure, limit),) = given.items()
            return Goal(figure, limit, share=figure != "latency_ms.p50" and limit < 1)
    if profile is None:
        raise RecipeError(
            'recipe: prune.target = "budget" is set by the profile of a device; give '
            "--profile NAME, or a figure"
        )
    if not profile.budget.latency_ms.model_dump(exclude_none=True):
        raise RecipeError(
            f'recipe: prune.target = "budget", but profile {profile.name} limits no latency; give '
            'a figure, such as prune.target = {"latency_ms.p50" = 2.0}'
        )
    return Goal("share of the latency budget", 1 - ROOM)


def basis(run: Run, profile: Profile | None) -> Mapping[str, object]:
    """Return what a search depends on, beside the network and the recipe's `[prune]`."""
    target = run.options.target
    return {
        "profile": profile and digest_of(profile.model_dump(mode="json")),
        "host": describe_host().fingerprint,
        "target": None if target == HOST else fingerprint(target),
        "export": run.recipe.export.plain.model_dump(),
        "measure": run.recipe.measure and run.recipe.measure.model_dump(),
    }


@dataclass
class Trials:
    """Make, export and weigh narrowed networks in a folder; hold the pruned ones by their place."""

    run: Run
    student: Network
    settings: PruneSettings
    losses: tuple[LossBatch, ...]
    profile: Profile | None
    goal: Goal
    folder: Path
    made: list[tuple[Step, Pruned]] = field(default_factory=list)
    scores: list[Metric | None] = field(default_factory=list)

    @cached_property
    def whole(self) -> OnnxModel:
        """Return the unpruned network, exported."""
        example, path = self.run.task.example_inputs(3), self.folder / "unpruned.onnx"
        return export(self.student.module, example, path, self.run.recipe.export.plain)

    def pruned(self, step: Step) -> Pruned:
        """Return the network that was made for a step."""
        return next(pruned for tried, pruned in self.made if tried is step)

    def start(self) -> float:
        """Return what the whole network costs, in the unit of the goal."""
        if self.goal.share:
            return 1.0
        if self.goal.figure == "macs":
            return count_macs(self.student.module, tensors(self.run.task.example_inputs(2)))[0]
        if not self.goal.timed:
            return float(self.whole.size_bytes)
        alone = self._times({"unpruned": self.whole}, self._measuring.processes[0])
        return self._cost(alone["unpruned"])

    def __call__(self, step: Step) -> float:
        """Return what the network costs at these widths, in the unit of the goal."""
        run = self.run
        inputs = tensors(run.task.example_inputs(2))
        seed = run.recipe.seed
        pruned = prune_to(
            self.student.module, inputs, step.widths, self.settings, self.losses, seed
        )
        self.made.append((step, pruned))
        self.scores.append(glimpse(run, pruned.module))
        if self.goal.figure == "macs":
            return pruned.macs_after / (pruned.macs_before if self.goal.share else 1)
        path = self.folder / f"trial-{len(self.made)}.onnx"
        model = export(pruned.module, run.task.example_inputs(3), path, run.recipe.export.plain)
        if not self.goal.timed:
            return model.size_bytes / (self.whole.size_bytes if self.goal.share else 1)
        return self._beside_the_whole(model, self._measuring.screening_processes)

    def scored(self, landing: Landing) -> tuple[PruningTrial, ...]:
        """Return the trials of a landing with their scores, in turn."""
        pairs = zip(landing.trials, self.scores, strict=True)
        return tuple(replace(trial, score=score) for trial, score in pairs)

    def confirm(self, step: Step) -> float:
        """Return what the last step costs, by as many processes as a judge's first look."""
        assert step is self.made[-1][0]
        model = artifact(self.folder / f"trial-{len(self.made)}.onnx", OnnxModel)
        return self._beside_the_whole(model, self._measuring.processes[0])

    def _beside_the_whole(self, model: OnnxModel, processes: int) -> float:
        """Measure both in turns: the machine may have changed since the last trial."""
        times = self._times({"unpruned": self.whole, f"trial {len(self.made)}": model}, processes)
        whole, narrow = map(self._cost, times.values())
        return narrow / whole if self.goal.share else narrow

    @property
    def _measuring(self) -> MeasureSettings:
        return self.run.recipe.measure or MeasureSettings()

    def _cost(self, times: Quantiles) -> float:
        if self.goal.figure == "latency_ms.p50":
            return times.p50
        assert self.profile is not None
        limits = self.profile.budget.latency_ms.model_dump(exclude_none=True)
        shares: list[float] = [getattr(times, name) / limit for name, limit in limits.items()]
        return max(shares)

    def _times(self, models: Mapping[str, OnnxModel], processes: int) -> Mapping[str, Quantiles]:
        """Return the times on the device: measured where it is, or predicted from here."""
        run, profile, settings = self.run, self.profile, self._measuring
        one = run.task.validation.take(slice(0, 1)).inputs
        inputs = {name: np.repeat(array, settings.batch, axis=0) for name, array in one.items()}
        core = profile.device.core if profile else ""
        found = measure(
            models,
            dict.fromkeys(models, inputs),
            settings,
            profile.runtime.threads if profile else 1,
            processes,
            progress=lambda text: run.tick(text, 0, 0),
            machine=machine_of(run.options.target, core),
        )
        if profile is None or run.options.target != HOST:
            return {label: self.goal.times(cost) for label, cost in found.items()}
        work = read_features(models, dict.fromkeys(models, inputs))

        def there(label: str, here: Measurement) -> Quantiles:
            predicted = predict(here, profile, work[label])
            return predicted.latency_ms if predicted else self.goal.times(here)

        return {label: there(label, here) for label, here in found.items()}


def aimed(
    run: Run,
    student: Network,
    losses: tuple[LossBatch, ...],
    profile: Profile | None,
    folder: Path,
) -> tuple[Pruned | None, PruningSearch]:
    """Return the network pruned to the recipe's target, and how its widths were found.

    None in place of a network where no channel has to go, or nothing that was tried costs less.
    """
    settings = run.recipe.prune
    assert settings is not None
    goal = goal_of(settings, profile)
    found = survey(
        student.module, tensors(run.task.example_inputs(2)), settings, losses, run.recipe.seed
    )
    trials = Trials(run, student, settings, losses, profile, goal, folder)
    start = trials.start()
    confirm = trials.confirm if goal.timed else None  # counts are exact
    landing = land(_course(run, found, goal), goal.limit, start, trials, confirm)
    landing = replace(landing, trials=trials.scored(landing))
    searched = _searched(goal, start, landing, first_sight(run, student.module))
    step = landing.step if searched.gained else None
    return (trials.pruned(step) if step else None), searched


def _course(run: Run, found: Survey, goal: Goal) -> Course:
    """Return what the search goes by: times from this machine's curves, or exact counts."""
    if goal.timed:
        curves = kept_curves(progress=lambda text: run.tick(text, 0, 0))
        return Course(
            found, {g.path: grid(curves, g.width, g.unit) for g in found.groups}, time_by(curves)
        )
    count = macs_of if goal.figure == "macs" else bytes_of
    return Course(found, {g.path: even_grid(g.width, g.unit) for g in found.groups}, count)


def _searched(goal: Goal, start: float, landing: Landing, score: Metric) -> PruningSearch:
    noise = GUARD if goal.timed else 0.0
    gained = landing.step is not None and landing.value < start * (1 - noise)
    asked = f"asked for {goal.limit:.4g} {'of the unpruned ' if goal.share else ''}{goal.figure}"
    tried = f"in {len(landing.trials)} exported trial{'s' if len(landing.trials) != 1 else ''}"
    if landing.step is None:
        words = "the network is there already" if landing.reached else "no channels can go"
    elif not gained:
        words = f"nothing tried beats the unpruned network by more than the noise, {tried}"
    elif landing.reached:
        words = f"got {landing.value:.4g} {tried}"
    else:
        words = f"got no nearer than {landing.value:.4g} {tried}"
    reason = f"pruning: {asked}, {words}"
    return PruningSearch(
        goal.figure, goal.limit, start, landing.value, landing.reached, gained, landing.trials,
        reason, score,
    )  # fmt: skip
