"""Losses as pure functions of logits, always in log-space."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from edgecompress.errors import TrainingError

UNLABELLED = -1
"""The label of a sample that has none: it takes part in the soft loss only."""


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) of the softened distributions, averaged over samples.

    Both are logits of shape (batch, classes). T² keeps the gradient's size about constant in T
    (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2).
    Raises TrainingError where the shapes differ, for torch would broadcast them in silence.

    >>> import torch
    >>> logits = torch.tensor([[200.0, -200.0, 0.0]])
    >>> float(soft_loss(logits, logits, 1.0))
    0.0
    """
    if student.shape != teacher.shape:
        raise TrainingError(
            f"student: its logits have shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; expected one logit for each class from both"
        )
    soft = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    divergence = F.kl_div(log_q, soft, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def hard_loss(student: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy averaged over the labelled samples; zero when there are none."""
    labelled = (labels != UNLABELLED).sum().clamp(min=1)
    total = F.cross_entropy(
        student.float(),
        labels,
        ignore_index=UNLABELLED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / labelled


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    kd_weight: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `kd_weight` · soft loss + (1 - `kd_weight`) · hard loss."""
    soft = soft_loss(student, teacher, temperature)
    return kd_weight * soft + (1.0 - kd_weight) * hard_loss(student, labels, label_smoothing)
