"""Whom a pruned network learns from: the teacher, itself as it was before pruning, or both."""

from __future__ import annotations

from edgecompress.distilling.certainty import certainty_as_taught
from edgecompress.distilling.kinds import form_of
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import Run
from edgecompress.recipe import RedistillSettings
from edgecompress.store import digest_of
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits
from edgecompress.teachers.mixtures import EnsembleTeacher


def tutor(
    run: Run, student: Network, teacher: TeacherInHand, settings: RedistillSettings
) -> TeacherInHand:
    """Return whom the pruned `student` learns from, as the settings say.

    Both together teach with the mean of their probabilities, each calibrated before, and are not
    calibrated again. Where the teacher itself was pruned, it is the only one.
    """
    if run.recipe.distill is None or settings.teachers == "teacher":
        return teacher
    unpruned = _in_hand(run, student)
    if settings.teachers == "student":
        return unpruned
    pair = (teacher.calibrated(settings), unpruned.calibrated(settings))
    both = EnsembleTeacher(tuple(one.teacher for one in pair), (0.5, 0.5), run.task.kind)
    digest = digest_of(["both", *(one.digest for one in pair)])
    return TeacherInHand(CheckedTeacher(both, form_of(run.task)), digest)


def _in_hand(run: Run, student: Network) -> TeacherInHand:
    """Return a network of this run as a teacher."""
    source = as_teacher(student.module, form_of(run.task))
    answers = predict_logits(source, run.task.validation.inputs)
    certainty = certainty_as_taught(run.task, source, answers)
    return TeacherInHand(source, student.digest, student, None, certainty)
