"""One run: the recipe, the profile, the task and the folder it all happens in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgecompress.builtin import digits_task
from edgecompress.distilling.labelling import labelled_by
from edgecompress.distilling.loop import crew_of_launch
from edgecompress.distilling.rules import settled_recipe
from edgecompress.distilling.views import mixed_seed
from edgecompress.errors import OutOfTimeError, RecipeError
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.recipe import BUILT_IN_TASK, Recipe
from edgecompress.store import Crew, Store, open_store
from edgecompress.tasks.checks import check_samples, check_task, unlabelled_splits
from edgecompress.tasks.load import load_task, task_fingerprint
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import built


def _say_nothing(text: str) -> None:
    """Tell nobody."""


def _no_tick(text: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class RunOptions:
    """Hold how a run behaves towards its user, and where finalists are measured.

    `target` is the profile's device, or this host; `require_measured` lets no budget pass that is
    met only by prediction. `say` hears one line a stage and every warning, `tick(text, done,
    total)` progress inside a stage. `max_time_s` stops the run with what is finished kept.
    """

    max_time_s: float | None = None
    trust_code: bool = False
    say: Callable[[str], None] = _say_nothing
    tick: Callable[[str, int, int], None] = _no_tick
    target: Target = HOST
    require_measured: bool = False


@dataclass(frozen=True)
class Run:
    """Hold one run's inputs, its store, and the digests that its stages depend on."""

    recipe: Recipe
    task: Task
    store: Store
    options: RunOptions
    fingerprint: Mapping[str, str]
    notes: tuple[str, ...]
    deadline: float | None = None

    def tick(self, text: str, done: int, total: int) -> None:
        """Pass progress on, and stop the run when its time is used up."""
        check_time(self.deadline, text)
        if self.store.crew.leads:
            self.options.tick(text, done, total)


@contextlib.contextmanager
def open_run(
    recipe: Recipe, out: Path, options: RunOptions, task: Task | None = None
) -> Iterator[Run]:
    """Open the run folder, load the task and check its data before anything is trained.

    `task` takes the place of the one that the recipe names, for callers that have it in hand.
    """
    deadline = None if options.max_time_s is None else time.monotonic() + options.max_time_s
    crew = crew_of_launch()
    with open_store(
        out, _leader_says(options, crew), crew, lambda name: check_time(deadline, name)
    ) as store:
        loaded = task or _task_of(recipe)
        loaded, notes = _labelled(recipe, loaded, options)
        warnings = (*notes, *check_task(loaded))
        for warning in warnings:
            store.say(f"warning: {warning}")
        recipe = settled_recipe(loaded, recipe)
        code = None if task is not None or recipe.task == BUILT_IN_TASK else _file_of(recipe.task)
        fingerprint = task_fingerprint(loaded, code, out / "digests.json")
        yield Run(recipe, loaded, store, options, fingerprint, warnings, deadline)


def _labelled(recipe: Recipe, task: Task, options: RunOptions) -> tuple[Task, tuple[str, ...]]:
    """Return the task with labels throughout, the teacher's where there are none, and a note."""
    missing = unlabelled_splits(task)
    if not missing:
        return task, ()
    check_samples(task)
    if recipe.teacher is not None:
        raise RecipeError(
            f"recipe: [teacher] trains the teacher from labels, but task {task.name!r} has none in "
            f"{', '.join(missing)}; give labels, or a teacher that is trained and no [teacher]"
        )
    torch.manual_seed(mixed_seed(recipe.seed, 1))  # as where the teacher is obtained
    teacher = built(task.teacher())
    labelled, notes = labelled_by(teacher, task, options.trust_code)
    # Made once: a fit that draws without a seed would label as one teacher and teach as another.
    return replace(labelled, teacher=lambda: teacher), notes


def check_time(deadline: float | None, where: str) -> None:
    """Raise OutOfTimeError when the deadline has passed."""
    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTimeError(
            f"--max-time is used up ({where}); every finished stage is kept: run again to go on"
        )


def _leader_says(options: RunOptions, crew: Crew) -> Callable[[str], None]:
    return options.say if crew.leads else _say_nothing


def _task_of(recipe: Recipe) -> Task:
    if recipe.task == BUILT_IN_TASK:
        return digits_task()
    return load_task(recipe.task, Path(), recipe.data)


def _file_of(spec: str) -> Path:
    file, colon, _ = spec.rpartition(":")
    if not colon:
        raise RecipeError(
            f"recipe: task: given {spec!r}; expected 'file.py:function' or '{BUILT_IN_TASK}'"
        )
    return Path(file)
