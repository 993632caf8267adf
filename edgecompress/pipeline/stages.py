"""A run that stops early: the same stages in the same store, so that a full run goes on from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecompress.errors import RecipeError
from edgecompress.pipeline.candidates import export_network
from edgecompress.pipeline.narrowing import narrowed
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.students import find_student
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.profiles import Profile
from edgecompress.recipe import Recipe
from edgecompress.records import Candidate, PruningOutcome, TrainedNetwork

StageName = Literal["distill", "prune", "export"]


@dataclass(frozen=True)
class Unfinished:
    """Hold what the stages up to one have made."""

    stage: StageName
    trainings: tuple[TrainedNetwork, ...]
    prunings: tuple[PruningOutcome, ...]
    exports: tuple[Candidate, ...]


def run_until(
    stage: StageName,
    recipe: Recipe,
    out: Path,
    options: RunOptions,
    profile: Profile | None = None,
) -> Unfinished:
    """Run the recipe's stages up to and with `stage`, and return what they made.

    `profile` is needed where the recipe leaves a student or a target to its budget.
    Raises RecipeError when the recipe has no such section, else what a run raises.
    """
    if stage != "export" and getattr(recipe, stage) is None:
        raise RecipeError(f"recipe: has no [{stage}] section, nothing to do; add one")
    with open_run(recipe, out, options) as run:
        run, teacher = narrowed(run, obtain_teacher(run))
        found = find_student(run, profile, teacher)
        student = train_student(run, teacher, found)
        pruned = prune_student(run, student, teacher, profile) if stage != "distill" else None
        made = [network for network in (student, pruned) if network]
        trained = [n.training for n in (teacher.network, *made) if n and n.training]
        return Unfinished(
            stage,
            tuple(dict.fromkeys(trained)),  # the teacher's comes twice when it is the student
            tuple(network.pruning for network in made if network.pruning),
            tuple(export_network(run, n, f"{n.label}-fp32") for n in made)
            if stage == "export"
            else (),
        )
