"""Losses between what layers inside the student and inside the teacher answer.

Features are tensors with a leading batch axis; channels, where there are any, are axis 1. Every
loss returns a scalar, in float64 for float64 features and in float32 for all others.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecompress.distilling.losses import finest, precise

SMALLEST = 1e-24


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the mean squared difference of two layers' features, of one width.

    (FitNets: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3.) The larger of
    two maps is averaged down to the size of the smaller.
    """
    ours, theirs = _of_one_size(precise(student), precise(teacher))
    return F.mse_loss(ours, theirs.to(ours.dtype)) / 2


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two attention maps of length 1.

    A map is the mean square over the channels, (batch, channels, *places) to (batch, *places), so
    the two may have different numbers of them (Zagoruyko, Komodakis 2017, "Paying More Attention to
    Attention", equation 2, squared; its weight of 1000 belongs to this mean).
    """
    ours, theirs = _of_one_size(
        precise(student).square().mean(dim=1, keepdim=True),
        precise(teacher).square().mean(dim=1, keepdim=True),
    )
    ours, theirs = (F.normalize(attention.flatten(1)) for attention in (ours, theirs))
    return F.mse_loss(ours, theirs.to(ours.dtype))


def relational_loss(
    student: Tensor, teacher: Tensor, distance: float = 1.0, angle: float = 2.0
) -> Tensor:
    """Return `distance` · the distances' difference + `angle` · the angles', over the batch.

    Distances of all pairs are taken over their mean, angles are cosines at the middle of all
    triples; both are compared with Huber's loss and averaged (RKD: Park et al. 2019, "Relational
    Knowledge Distillation", equations 5 to 9). Memory grows with batch³. A batch of less than
    three samples has no angles, one sample no distances.
    """
    kind, loss = precise(student).dtype, precise(student).sum() * 0.0
    ours, theirs = _Relations(student), _Relations(teacher)
    if len(student) > 1:
        loss = loss + distance * F.smooth_l1_loss(ours.distances(), theirs.distances()).to(kind)
    if len(student) > 2:
        triples = len(student) * (len(student) - 1) * (len(student) - 2)
        summed = F.smooth_l1_loss(ours.angles(), theirs.angles(), reduction="sum")
        loss = loss + angle * (summed / triples).to(kind)
    return loss


class _Relations:
    """Hold how a batch's samples lie to one another, by their products alone.

    So a wide layer costs one matrix product. Samples nearer than a millionth of the usual length
    count as equal: there is no direction between them.
    """

    def __init__(self, features: Tensor) -> None:
        flat = finest(features).flatten(1)
        flat = flat - flat.mean(dim=0)
        self.products = flat @ flat.T
        self.lengths = self.products.diagonal()
        self.apart = ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
        squares = self.lengths[:, None] + self.lengths - 2 * self.products
        least = 1e-12 * float(self.lengths.detach().mean()) + SMALLEST
        self.between = squares.clamp(min=least).sqrt()

    def distances(self) -> Tensor:
        """Return the distances of all pairs over their mean."""
        distances = self.between[self.apart]
        return distances / distances.mean()

    def angles(self) -> Tensor:
        """Return the cosines at j between i and k by [j, i, k], 0 where two are one sample."""
        at = self.products[:, :, None]  # [j, i]: (i - j)(k - j) = ik - ij - jk + jj
        along = self.products - at - self.products[:, None, :] + self.lengths[:, None, None]
        cosines = along / (self.between[:, :, None] * self.between[:, None, :])
        different = self.apart[:, :, None] & self.apart[:, None, :] & self.apart
        return cosines * different


def _of_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps averaged down to the smaller size along every axis after the channels."""
    ours, theirs = student.shape[2:], teacher.shape[2:]
    if ours == theirs:
        return student, teacher
    if len(ours) == 1:
        length = min(*ours, *theirs)
        return F.adaptive_avg_pool1d(student, length), F.adaptive_avg_pool1d(teacher, length)
    size = min(ours[0], theirs[0]), min(ours[1], theirs[1])
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
