"""The product's sentence: a teacher, data and a budget in; the best ONNX model that fits out."""

from __future__ import annotations

from pathlib import Path

from edgecompress.pipeline.answer import prove, settle
from edgecompress.pipeline.candidates import teacher_candidate
from edgecompress.pipeline.delivery import deliver
from edgecompress.pipeline.folding import check_export
from edgecompress.pipeline.forms import forms_of
from edgecompress.pipeline.narrowing import narrowed
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.students import find_student
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.profiles import Profile
from edgecompress.recipe import Recipe
from edgecompress.records import Report
from edgecompress.tasks.task import Task


def compress(
    recipe: Recipe,
    profile: Profile,
    out: Path | str = "edgecompress-run",
    options: RunOptions = RunOptions(),
    task: Task | None = None,
) -> Report:
    """Return the best ONNX model for the profile, the proof of it, or the reason why none fits.

    Everything that is finished is kept in `out` and found again by the next call. `task` takes
    the place of the one that the recipe names. Raises the errors of `edgecompress.errors`.
    """
    with open_run(recipe, Path(out), options, task) as run:
        check_export(run, profile)
        run, teacher = narrowed(run, obtain_teacher(run))
        found = find_student(run, profile, teacher)
        student = train_student(run, teacher, found)
        pruned = prune_student(run, student, teacher, profile)
        networks = tuple(network for network in (student, pruned) if network is not None)
        candidates = forms_of(run, profile, teacher, networks)
        reference = teacher_candidate(run, teacher)

        choice = settle(run, profile, candidates, reference, teacher)
        report = prove(run, profile, choice, networks, teacher, found)
        deliver(run, report)
        return report
