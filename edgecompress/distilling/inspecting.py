"""Inspect trained networks and their teacher beside the score: on validation, and on what leaks.

The membership figure is the loss-threshold attack of Yeom, Giacomelli, Fredrikson, Jha 2018,
"Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting": whoever knows a sample
and its label guesses that it was trained on when the network's loss there is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgecompress.distilling.scoring import forward
from edgecompress.records import Figures, TeacherScore
from edgecompress.statistics import auc_interval
from edgecompress.tasks.inspection import (
    agreement,
    calibration_error,
    negative_log_likelihood,
    sample_losses,
)
from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.targets import labels_of
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import CheckedTeacher, predict_logits

# An attack on so many samples of each side is known to 0.02, whatever the network.
MOST_SAMPLES = 4_000


@dataclass(frozen=True)
class Answers:
    """Hold what a network says of the validation split and of the members: samples trained on."""

    validation: NDArray[Any]
    members: NDArray[Any]


def members_of(task: Task) -> Split:
    """Return the training samples that an attack is tried on, drawn always alike."""
    return task.train.take(_drawn(len(task.train)))


def network_answers(module: nn.Module, task: Task) -> Answers:
    """Return a network's answers."""
    found = (forward(module, s.inputs) for s in (task.validation, members_of(task)))
    return Answers(*found)


def teacher_answers(teacher: CheckedTeacher, task: Task) -> Answers:
    """Return the teacher's answers, as it taught."""
    found = (predict_logits(teacher, s.inputs) for s in (task.validation, members_of(task)))
    return Answers(*found)


def figures_of(task: Task, answers: Answers, teacher: Answers | None = None) -> Figures:
    """Return a network's figures; without `teacher` it is the teacher's own, agreeing with none."""
    kind, outputs, labels = task.kind, answers.validation, labels_of(task.validation)
    members = sample_losses(kind, answers.members, labels_of(members_of(task)))
    others = sample_losses(kind, outputs, labels)[_drawn(len(labels))]
    return Figures(
        negative_log_likelihood(kind, outputs, labels),
        calibration_error(kind, outputs, labels),
        agreement(kind, outputs, teacher.validation, labels) if teacher else None,
        *auc_interval(members, others),
    )


def teacher_score(task: Task, answers: Answers, trained_here: bool) -> TeacherScore:
    """Return how the teacher stands beside its students."""
    labels = labels_of(task.validation)
    evaluation = evaluate(task.metric, answers.validation, labels, "validation")
    return TeacherScore(evaluation, figures_of(task, answers), trained_here)


def _drawn(samples: int) -> NDArray[np.intp]:
    return np.sort(np.random.default_rng(0).permutation(samples)[:MOST_SAMPLES])
