"""What a kind of task means for training: what labels are, and what is lost by a wrong answer.

On its way through training a label is

- `classification`: int64 (batch,), -1 for none; or float (batch, classes), probabilities where
  samples were mixed, a row of zeros for none;
- `binary`: float (batch,); `multilabel`: float (batch, labels); `regression` and `embedding`: float
  (batch, values); NaN in a row for none;
- `tokens`: int64 (batch, ...), -100 where none counts; all of them -100 for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgecompress.distilling.kind_losses import (
    averaged,
    cosine_loss,
    labels_hard_loss,
    labels_multi_loss,
    labels_soft_loss,
    squared_loss,
)
from edgecompress.distilling.losses import (
    UNLABELLED,
    correlation_loss,
    decoupled_loss,
    hard_loss,
    logit_loss,
    multi_temperature_loss,
    precise,
    soft_loss,
    standardized_loss,
)
from edgecompress.errors import TrainingError
from edgecompress.recipe import DistillSettings
from edgecompress.records import Kind
from edgecompress.tasks.scores import SQUARED_ERROR
from edgecompress.tasks.targets import output_shape_of
from edgecompress.tasks.task import IGNORED, Task
from edgecompress.teachers.forms import Form


@dataclass(frozen=True)
class Aim:
    """Say what answers are held against: labels of a kind, and what an error in them weighs.

    Squared errors are divided by `variance`, that of the training labels: for each value of a
    regression, over all values of an embedding. `angles`: an embedding is right when it points the
    right way, whatever its length.
    """

    kind: Kind = "classification"
    variance: Tensor | None = None
    angles: bool = True


def aim_of(task: Task) -> Aim:
    """Return what the networks of a task aim at. Embeddings: angles, unless the metric is squared.

    A value that never varies counts against a variance of one, as in the metric R2.
    """
    if task.kind not in ("regression", "embedding"):
        return Aim(task.kind)
    labels = np.asarray(task.train.labels, dtype=np.float64)
    variance = np.atleast_1d(labels.reshape(len(labels), -1).var(axis=0))
    if task.kind == "embedding":
        variance = variance.mean(keepdims=True)
    variance = np.where(variance > 0, variance, 1.0)
    return Aim(task.kind, torch.from_numpy(variance), task.metric is not SQUARED_ERROR)


def form_of(task: Task) -> Form:
    """Return what a teacher of a task must answer; without labels, as far as the names tell."""
    if task.train.labels is None:
        classes = 1 if task.kind == "binary" else len(task.class_names)
        told = classes > 0 and task.kind in ("classification", "binary", "multilabel")
        return Form(task.kind, task.class_names, (classes,) if told else ())
    return Form(task.kind, task.class_names, output_shape_of(task, 1)[1:])


def to_labels(kind: Kind, labels: NDArray[Any]) -> Tensor:
    """Return a split's labels as training takes them."""
    match kind:
        case "classification" | "tokens":
            return torch.from_numpy(np.array(labels, dtype=np.int64))
        case "binary" | "multilabel":
            return torch.from_numpy(np.array(labels, dtype=np.float32))
        case "regression" | "embedding":
            return torch.from_numpy(np.array(labels, dtype=np.float32).reshape(len(labels), -1))


def unlabelled_rows(kind: Kind, count: int, like: Tensor) -> Tensor:
    """Return labels that say that `count` samples have none, shaped as those in `like`."""
    match kind:
        case "classification":
            nothing = 0.0 if like.is_floating_point() else UNLABELLED
        case "tokens":
            nothing = IGNORED
        case _:
            nothing = float("nan")
    return torch.full((count, *like.shape[1:]), nothing, dtype=like.dtype)


def labelled(kind: Kind, labels: Tensor) -> Tensor:
    """Return which samples have a label, as booleans (batch,).

    >>> labelled("binary", torch.tensor([1.0, float("nan")])).tolist()
    [True, False]
    >>> labelled("tokens", torch.tensor([[2, -100], [-100, -100]])).tolist()
    [True, False]
    """
    match kind:
        case "classification":
            return labels.any(dim=1) if labels.is_floating_point() else labels != UNLABELLED
        case "tokens":
            return (labels != IGNORED).flatten(1).any(dim=1)
        case _:
            return ~labels.reshape(len(labels), -1).isnan().any(dim=1)


def answers_as_labels(kind: Kind, outputs: NDArray[Any]) -> Tensor:
    """Return what a network answers outright, as labels: classes, 0 and 1, or its numbers.

    >>> answers_as_labels("multilabel", np.array([[2.0, -1.0]])).tolist()
    [[1.0, 0.0]]
    """
    match kind:
        case "classification" | "tokens":
            return to_labels(kind, outputs.argmax(axis=1))
        case "binary":
            return to_labels(kind, outputs[:, 0] > 0)
        case "multilabel":
            return to_labels(kind, outputs > 0)
        case "regression" | "embedding":
            return to_labels(kind, outputs)


def hard_part(
    aim: Aim,
    student: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    count: float | None = None,
) -> Tensor:
    """Return what the labels say of the student's answers, averaged over the labelled samples.

    `count` divides the sum where it is not their number: for a part of a larger batch. Raises
    TrainingError where answers and labels have shapes that do not belong together.
    """
    _require_answers(aim.kind, student, labels)
    match aim.kind:
        case "classification":
            return hard_loss(student, labels, label_smoothing, count)
        case "binary":
            return labels_hard_loss(student, labels[:, None], label_smoothing, count)
        case "multilabel":
            return labels_hard_loss(student, labels, label_smoothing, count)
        case "tokens":
            return _tokens_hard(student, labels, label_smoothing, count)
        case "embedding" if aim.angles:
            return cosine_loss(student, labels, count)
        case "regression" | "embedding":
            assert aim.variance is not None
            return squared_loss(student, labels, aim.variance, count)


def soft_part(
    aim: Aim,
    settings: DistillSettings,
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
) -> Tensor:
    """Return the soft loss that the recipe names, of a kind of task that has it."""
    match aim.kind:
        case "classification":
            return _classes_soft(settings, student, teacher, labels, temperature)
        case "tokens":
            return _tokens_soft(settings, student, teacher, labels, temperature)
        case "binary" | "multilabel":
            return _labels_soft(settings, student, teacher, temperature)
        case "regression" | "embedding":
            _require_one_shape(student, teacher)
            angles = aim.kind == "embedding" and aim.angles
            if settings.loss == "cosine" or (settings.loss == "auto" and angles):
                return cosine_loss(student, teacher)
            assert aim.variance is not None
            return squared_loss(student, teacher, aim.variance)


def _classes_soft(
    settings: DistillSettings, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    match settings.loss:
        case "dkd":
            return decoupled_loss(
                student, teacher, labels, temperature, settings.dkd_alpha, settings.dkd_beta
            )
        case "dist":
            return correlation_loss(
                student, teacher, temperature, settings.dist_beta, settings.dist_gamma
            )
        case _:
            return _averaging(settings, student, teacher, temperature)


def _averaging(
    settings: DistillSettings,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return one of the losses that are an average over samples, whose shares may differ."""
    match settings.loss:
        case "kd" | "auto":
            return soft_loss(student, teacher, temperature, weights)
        case "standardized":
            return standardized_loss(student, teacher, temperature, weights)
        case "mse":
            return logit_loss(student, teacher, weights)
        case "multi":
            return multi_temperature_loss(student, teacher, settings.temperatures, weights)
        case other:
            raise TrainingError(f"distill.loss: {other!r} is not for this kind of task")


def _labels_soft(
    settings: DistillSettings, student: Tensor, teacher: Tensor, temperature: float
) -> Tensor:
    _require_one_shape(student, teacher)
    match settings.loss:
        case "kd" | "auto":
            return labels_soft_loss(student, teacher, temperature)
        case "multi":
            return labels_multi_loss(student, teacher, settings.temperatures)
        case "mse":
            return logit_loss(student, teacher)
        case other:
            raise TrainingError(f"distill.loss: {other!r} is not for this kind of task")


def _tokens_hard(
    student: Tensor, labels: Tensor, label_smoothing: float, count: float | None
) -> Tensor:
    """Return the cross-entropy averaged over each sample's counting tokens, then over samples."""
    counting = (labels != IGNORED).flatten(1).sum(dim=1)
    each = F.cross_entropy(
        precise(student),
        labels,
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    means = each.flatten(1).sum(dim=1) / counting.clamp(min=1)
    return averaged(means, counting > 0, count)


def _tokens_soft(
    settings: DistillSettings, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Return a soft loss averaged over each sample's counting tokens, then over samples.

    By samples first, as the metric counts them: so parts of a batch, and processes, whose samples
    are of different length add up to the whole. Of a sample without labels every token counts.
    """
    _require_one_shape(student, teacher)
    counts = (labels != IGNORED).flatten(1)
    counts = counts | ~counts.any(dim=1, keepdim=True)
    weights = counts / (counts.sum(dim=1, keepdim=True) * len(counts))
    ours, theirs = (z.flatten(2).movedim(1, -1)[counts] for z in (student, teacher))
    return _averaging(settings, ours, theirs, temperature, weights[counts])


def _require_answers(kind: Kind, student: Tensor, labels: Tensor) -> None:
    """Refuse answers that torch would broadcast against the labels in silence."""
    given, told = tuple(student.shape), tuple(labels.shape)
    match kind:
        case "classification":
            fits = student.ndim == 2 and told in (given[:1], given)
        case "binary":
            fits = given == (*told, 1)
        case "tokens":
            fits = student.ndim > 2 and (given[0], *given[2:]) == told
        case _:
            fits = given == told
    if not fits:
        raise TrainingError(
            f"network: it returned shape {given} for labels of shape {told}; expected "
            f"{_FORMS[kind]}"
        )


_FORMS: Mapping[Kind, str] = {
    "classification": "logits (batch, classes)",
    "binary": "one logit for each sample, (batch, 1)",
    "multilabel": "one logit for each label, (batch, labels)",
    "regression": "one number for each value, (batch, values)",
    "embedding": "vectors as wide as the labels, (batch, width)",
    "tokens": "logits with the classes on the second axis, (batch, classes, ...)",
}


def _require_one_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise TrainingError(
            f"student: its answers have shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; expected one shape of both"
        )
