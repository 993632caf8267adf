"""Embeddings narrower than their teacher's: where the recipe says so, the whole run is reduced."""

from __future__ import annotations

from dataclasses import replace

from edgecompress.distilling.beginnings import begun
from edgecompress.distilling.narrowing import reduced
from edgecompress.distilling.scoring import forward
from edgecompress.errors import RecipeError
from edgecompress.pipeline.networks import TeacherInHand
from edgecompress.pipeline.run import Run
from edgecompress.store import digest_of
from edgecompress.teachers.adapters import fingerprint

PROBE_SAMPLES = 2


def narrowed(run: Run, teacher: TeacherInHand) -> tuple[Run, TeacherInHand]:
    """Return the run and its teacher with vectors of the student's width, by `narrow_by = "pca"`.

    The teacher's own network or file stays what it was: it is measured as it is.
    """
    settings = run.recipe.distill
    if settings is None or settings.narrow_by != "pca":
        return run, teacher
    if settings.student != "task" or run.task.student is None:
        raise RecipeError(
            'recipe: distill.narrow_by = "pca" takes the width from the task\'s own student, but '
            f'distill.student is "{settings.student}"; return a student from the task'
        )
    student = begun(run.task.student, run.recipe.seed)
    width = forward(student, run.task.example_inputs(PROBE_SAMPLES)).shape[-1]
    task, narrow = reduced(run.task, teacher.teacher, width)
    marks = {**run.fingerprint, "reduced to": fingerprint(narrow)}
    digest = digest_of([teacher.digest, fingerprint(narrow)])
    run = replace(run, task=task, fingerprint=marks)
    return run, replace(teacher, teacher=narrow, digest=digest)
