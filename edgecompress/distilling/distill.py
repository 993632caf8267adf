"""Distillation: a student learns from its teacher, beside controls that have only hard labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from edgecompress.distilling.arms import (
    TrainedArm,
    check_beginning,
    contest,
    settings_of,
    train_arm,
)
from edgecompress.distilling.beginnings import Student, begun, born_again, check_answers
from edgecompress.distilling.certainty import calibrated, certainty_as_taught
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.inspecting import (
    figures_of,
    network_answers,
    teacher_answers,
    teacher_score,
)
from edgecompress.distilling.kinds import form_of
from edgecompress.distilling.labelling import labelled_by
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.losses import Loss
from edgecompress.distilling.narrowing import reduced
from edgecompress.distilling.rules import settled
from edgecompress.distilling.scoring import forward
from edgecompress.distilling.views import content_digest
from edgecompress.errors import RecipeError, TaskError
from edgecompress.recipe import DistillSettings
from edgecompress.records import Evaluation, TeacherScore, Trial
from edgecompress.store import digest_of
from edgecompress.tasks.checks import (
    check_samples,
    check_task,
    check_teacher_outputs,
    unlabelled_splits,
)
from edgecompress.tasks.targets import labels_of
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits


@dataclass(frozen=True)
class Distilled:
    """Hold all arms of a distillation, which of them goes on (`shipped`, of `seed`) and why.

    `teacher` is how the teacher stands beside them.
    """

    arms: tuple[TrainedArm, ...]
    shipped: str
    reason: str
    trials: tuple[Trial, ...] = ()
    seed: int = 0
    teacher: TeacherScore | None = None

    @property
    def module(self) -> nn.Module:
        """Return the network that goes on."""
        return next(a.module for a in self.arms if (a.name, a.seed) == (self.shipped, self.seed))


def distill(
    student: Student | None,
    teacher: object,
    task: Task,
    settings: DistillSettings = DistillSettings(),
    bench: Bench = Bench(),
    loss: Loss | None = None,
) -> Distilled:
    """Train `student` from `teacher`, and its controls, and keep the best on validation.

    `student` is a module, whose weights every arm begins with, or a function that returns one: its
    weights are then drawn with each seed. It is None for `student = "teacher"` in the settings.
    `teacher` is whatever `as_teacher` takes: a torch module, an estimator, an ONNX file; it is
    calibrated as the settings say. All arms see the same number of samples in the same order,
    augmented alike. The arguments are left as they were. Data and teacher are checked first, as
    `check_task` and `check_teacher_outputs` do; where there are no labels, the teacher's answers
    take their place. `loss` takes the place of the recipe's losses: any
    function (student_logits, teacher_logits, labels) -> a scalar. With `settings.tune`, short
    trials choose temperature and weight first. Each training has a checkpoint that is named after
    its arm, seed and settings, first weights, labels and teacher, but no loss of your own.
    """
    bench = bench if loss is None else replace(bench, loss=loss)
    if bench.loss is not None and settings.tune:
        raise RecipeError(
            f"distill: given tune = {settings.tune} with a loss of your own, which reads neither "
            "temperature nor kd_weight; leave tune out"
        )
    if unlabelled_splits(task):
        check_samples(task)
    task, notes = labelled_by(teacher, task)
    check_task(task)
    settings = settled(task, settings)
    asked = as_teacher(teacher, form_of(task))
    outputs = predict_logits(asked, task.validation.inputs)
    check_teacher_outputs(task, outputs)
    asked = calibrated(asked, certainty_as_taught(task, asked, outputs), settings)
    start = _start(student, asked, settings)
    check_beginning(start, settings, bench.seed)
    if settings.narrow_by == "pca":
        width = forward(begun(start, bench.seed), task.example_inputs()).shape[-1]
        task, asked = reduced(task, asked, width)
    warning = check_answers(task, begun(start, bench.seed))

    known = content_digest({"labels": labels_of(task.train), "teacher": outputs})

    def train(name: str, lesson: DistillSettings, seed: int) -> TrainedArm:
        first = weights_digest(begun(start, seed))
        mark = digest_of([first, settings_of(name, lesson), asked.temperature, known])
        place = replace(bench, seed=seed).keeping(f"{name}-{seed}-{mark[:8]}")
        return train_arm(name, start, task, lesson, place, asked)

    def trial(short: DistillSettings, seed: int) -> Evaluation:
        return train(DISTILLED, short, seed).evaluation

    found = contest(task, settings, bench.seed, train, trial)
    said = teacher_answers(asked, task)
    arms = tuple(
        replace(arm, figures=figures_of(task, network_answers(arm.module, task), said))
        for arm in found.arms
    )
    winner, score = found.winner, teacher_score(task, said, trained_here=False)
    reason = "; ".join((found.reason, *notes, *filter(None, [warning])))
    return Distilled(arms, winner.name, reason, found.trials, winner.seed, score)


def _start(student: Student | None, teacher: CheckedTeacher, settings: DistillSettings) -> Student:
    if (student is None) != (settings.student == "teacher"):
        raise TaskError(
            f'distill: student is {type(student).__name__} and settings.student "'
            f'{settings.student}"; expected a module or a function that returns one, or None '
            'with "teacher"'
        )
    return born_again(teacher) if student is None else student
