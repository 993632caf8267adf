"""The product's sentence: a teacher, data and a budget in; the best ONNX model that fits out."""

from __future__ import annotations

from pathlib import Path

from edgecompress.pipeline.answer import prove, settle
from edgecompress.pipeline.aware import aware_candidate
from edgecompress.pipeline.candidates import (
    export_network,
    scored,
    teacher_candidate,
)
from edgecompress.pipeline.controlled import controlled
from edgecompress.pipeline.delivery import deliver
from edgecompress.pipeline.folding import check_export, folded_candidate
from edgecompress.pipeline.narrowing import narrowed
from edgecompress.pipeline.quantized import quantize_candidate
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

        floats = tuple(export_network(run, n, f"{n.label}-fp32") for n in networks)
        int8 = tuple(small for whole in floats for small in quantize_candidate(run, profile, whole))
        int8 += tuple(one for f in floats for one in aware_candidate(run, profile, teacher, f))
        plain = tuple(scored(run, one, "validation") for one in (*floats, *int8))
        plain = controlled(run, profile, plain)
        whole = (folded_candidate(run, profile, one) for one in plain)
        candidates = tuple(scored(run, one, "validation") for one in whole)
        reference = teacher_candidate(run, teacher)

        choice = settle(run, profile, candidates, reference, teacher)
        report = prove(run, profile, choice, networks, teacher, found)
        deliver(run, report)
        return report
