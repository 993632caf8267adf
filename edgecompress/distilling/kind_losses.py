"""Losses for answers that are no choice of one class: labels side by side, numbers, vectors.

Pure functions as in `losses`: each returns a scalar, in float64 for float64 answers and in float32
for all others. Hard losses average over the samples that have labels: NaN says that one has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecompress.distilling.losses import precise

# A vector shorter than this points nowhere: its cosine with any other is 0.
SMALLEST_LENGTH = 1e-8


def labels_soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · sum over labels of KL(Bern(teacher) ‖ Bern(student)), averaged over samples.

    Each logit is a yes-or-no of its own, softened by T (Yang, Xie, Zong, Feng, Niu, Sugiyama,
    Huang 2023, "Multi-Label Knowledge Distillation", equation 3; T² as in Hinton's).

    >>> logits = torch.tensor([[200.0, -200.0]])
    >>> float(labels_soft_loss(logits, logits, 1.0))
    0.0
    """
    s, t = precise(student) / temperature, precise(teacher) / temperature
    t = t.to(s)
    yes, no = F.logsigmoid(t), F.logsigmoid(-t)
    each = yes.exp() * (yes - F.logsigmoid(s)) + no.exp() * (no - F.logsigmoid(-s))
    return each.sum(dim=1).mean() * temperature**2


def labels_multi_loss(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Return the mean of `labels_soft_loss` at several temperatures."""
    return torch.stack([labels_soft_loss(student, teacher, t) for t in temperatures]).mean()


def labels_hard_loss(
    student: Tensor, labels: Tensor, label_smoothing: float = 0.0, count: float | None = None
) -> Tensor:
    """Return the cross-entropy with labels in 0..1, summed over them, averaged over samples.

    `label_smoothing` moves each label that share of the way to one half.
    """
    z, labelled = precise(student), ~labels.isnan().any(dim=1)
    target = labels.nan_to_num().to(z) * (1.0 - label_smoothing) + 0.5 * label_smoothing
    each = F.binary_cross_entropy_with_logits(z, target, reduction="none").sum(dim=1)
    return averaged(each, labelled, count)


def squared_loss(
    student: Tensor, wanted: Tensor, variance: Tensor, count: float | None = None
) -> Tensor:
    """Return the squared error over `variance`, averaged over values and samples that have them.

    So the loss of answering the mean is 1, whatever the unit. `variance` is one number for each
    value, or one for all.
    """
    ours, labelled = precise(student), ~wanted.isnan().any(dim=1)
    errors = (ours - wanted.nan_to_num().to(ours)).square() / variance.to(ours)
    return averaged(errors.mean(dim=1), labelled, count)


def cosine_loss(student: Tensor, wanted: Tensor, count: float | None = None) -> Tensor:
    """Return 1 less the cosine between vectors, averaged over samples that have them."""
    ours, labelled = precise(student), ~wanted.isnan().any(dim=1)
    cosines = F.cosine_similarity(ours, wanted.nan_to_num().to(ours), dim=1, eps=SMALLEST_LENGTH)
    return averaged(1.0 - cosines, labelled, count)


def averaged(each: Tensor, labelled: Tensor, count: float | None = None) -> Tensor:
    """Return the mean over the samples marked `labelled`, 0 of none; `count` divides instead."""
    return (each * labelled).sum() / (labelled.sum().clamp(min=1) if count is None else count)
