"""Losses as pure functions of logits, always in log-space.

Logits are tensors of shape (batch, classes), labels int64 of shape (batch,). Every loss returns a
scalar averaged over the samples, in float64 for float64 logits and in float32 for all others;
`weights`, which sum to one, are each sample's share of the average where they are not alike.
TrainingError where the two shapes differ, for torch would broadcast them in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecompress.errors import TrainingError

UNLABELLED = -1
"""The label of a sample that has none: it takes part in the soft loss only."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What a user may bring: (student_logits, teacher_logits, labels) -> a scalar to be lowered."""

# Below these, a correlation and a standardized logit are those of a constant: nothing.
SMALLEST_NORM = 1e-8
SMALLEST_VARIANCE = 1e-6


def hard_loss(
    student: Tensor, labels: Tensor, label_smoothing: float = 0.0, count: float | None = None
) -> Tensor:
    """Return the cross-entropy averaged over the labelled samples; zero when there are none.

    `labels` may be the probabilities of each class, (batch, classes), where samples were mixed; a
    row of zeros has no label. `label_smoothing` spreads that share of each label evenly over all
    classes (Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision",
    section 7). `count` divides the sum where it is not the number of labelled samples: for a part
    of a larger batch.
    """
    mixed = labels.is_floating_point()
    labelled = labels.any(dim=1) if mixed else labels != UNLABELLED
    each = F.cross_entropy(
        precise(student),
        labels.to(precise(student)) if mixed else labels,
        ignore_index=UNLABELLED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return (each * labelled).sum() / (labelled.sum().clamp(min=1) if count is None else count)


def soft_loss(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return T² · KL(teacher ‖ student) of the softened distributions, averaged over samples.

    T² keeps the gradient's size about constant in T (Hinton, Vinyals, Dean 2015, "Distilling the
    Knowledge in a Neural Network", section 2).

    >>> logits = torch.tensor([[200.0, -200.0, 0.0]])
    >>> float(soft_loss(logits, logits, 1.0))
    0.0
    """
    _require_one_shape(student, teacher)
    ours, theirs = _softened(student, temperature), _softened(teacher, temperature)
    return _divergence(ours, theirs, weights) * temperature**2


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


def summed_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, a: float, temperature: float = 1.0
) -> Tensor:
    """Return NLL + a · H(teacher, student), the hard loss plus a cross-entropy to the teacher.

    The other common way to write Hinton's loss. With `kd_weight_of(a, T)` its gradient is that of
    `distillation_loss` divided by (1 - kd_weight); the losses themselves differ by the teacher's
    entropy besides, which no student can change.
    """
    _require_one_shape(student, teacher)
    p = _softened(teacher, temperature).softmax(dim=-1)
    log_q = F.log_softmax(_softened(student, temperature), dim=-1)
    return hard_loss(student, labels) - a * (p * log_q).sum(dim=-1).mean()


def kd_weight_of(a: float, temperature: float = 1.0) -> float:
    """Return the `kd_weight` that teaches as `summed_loss` does: a = w·T² / (1 - w), solved for w.

    >>> kd_weight_of(1.0), kd_weight_of(4.0, temperature=2.0)
    (0.5, 0.5)
    """
    return a / (a + temperature**2)


def decoupled_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Return T² · (alpha · TCKD + beta · NCKD): the label's class apart from the other classes.

    TCKD is the divergence of (label's class, all others together), NCKD that among the others
    alone (Zhao et al. 2022, "Decoupled Knowledge Distillation", equation 7; beta is 8 there on
    CIFAR-100). With two classes NCKD is zero. Raises TrainingError for unlabelled samples.
    """
    _require_one_shape(student, teacher)
    if labels.is_floating_point() or bool((labels == UNLABELLED).any()):
        raise TrainingError(
            "distill.loss: 'dkd' sets the label's class apart, but some samples have no label, or "
            'more than one; take loss = "kd" for an unlabelled pool and for mixed samples'
        )
    ours = _around_label(_softened(student, temperature), labels)
    theirs = _around_label(_softened(teacher, temperature), labels)
    target, others = (_divergence(s, t) for s, t in zip(ours, theirs, strict=True))
    return (alpha * target + beta * others) * temperature**2


def correlation_loss(
    student: Tensor, teacher: Tensor, temperature: float, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """Return T² · (beta · inter + gamma · intra), each one less a mean Pearson correlation.

    `inter` correlates the two softened distributions of each sample, `intra` the batch's
    probabilities of each class (DIST: Huang et al. 2022, "Knowledge Distillation from A Stronger
    Teacher", equations 9 and 10). The intra part belongs to a batch: it needs two samples or more,
    and the parts of an accumulated batch are not quite the whole.
    """
    _require_one_shape(student, teacher)
    q = _softened(finest(student), temperature).softmax(dim=-1)
    p = _softened(finest(teacher), temperature).softmax(dim=-1)
    inter = 1.0 - _correlation(q, p, dim=1).mean()
    intra = 1.0 - _correlation(q, p, dim=0).mean()
    return ((beta * inter + gamma * intra) * temperature**2).to(precise(student).dtype)


def standardized_loss(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return the soft loss of logits brought to mean 0 and standard deviation 1, sample by sample.

    So the student need not match the teacher's range (Sun et al. 2024, "Logit Standardization in
    Knowledge Distillation", algorithm 1; the base temperature is 2 there). Raises TrainingError
    for fewer than three classes.
    """
    classes = student.shape[-1]
    if classes <= 2:
        raise TrainingError(
            f"distill.loss: 'standardized' needs three classes or more, given {classes}: two "
            'standardized logits are 1 and -1, whatever the network says; take loss = "kd"'
        )
    return soft_loss(_standardized(student), _standardized(teacher), temperature, weights)


def logit_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return half the mean squared difference of the logits themselves.

    (Ba, Caruana 2014, "Do Deep Nets Really Need to be Deep?", equation 1.) The mean over classes
    makes it what the soft loss of centred logits tends to as T grows.
    """
    _require_one_shape(student, teacher)
    ours = precise(student)
    return _average((ours - teacher.to(ours)).square().mean(dim=-1), weights) / 2


def multi_temperature_loss(
    student: Tensor,
    teacher: Tensor,
    temperatures: Sequence[float],
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean of the soft losses at several temperatures.

    (Jin, Wang, Lin 2023, "Multi-level Logit Distillation": the instance level of its prediction
    augmentation; temperatures 2 to 6 there.)
    """
    return torch.stack([soft_loss(student, teacher, t, weights) for t in temperatures]).mean()


def precise(logits: Tensor) -> Tensor:
    """Return float64 as it is and everything else as float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def finest(logits: Tensor) -> Tensor:
    """Return float64 wherever the device has it, for what differs in late digits."""
    return logits.float() if logits.device.type == "mps" else logits.double()


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """Return the logits over T, shifted so that the largest is 0.

    The shift changes no softmax. It comes first because of rounding: of 200 / T, float32 keeps too
    few digits behind the point for probabilities good to 1e-5.
    """
    logits = precise(logits)
    return (logits - logits.detach().amax(dim=-1, keepdim=True)) / temperature


def _divergence(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return KL(teacher ‖ student) of two sets of logits, averaged over samples."""
    log_q = F.log_softmax(student, dim=-1)
    log_p = F.log_softmax(teacher, dim=-1).to(log_q.dtype)
    if weights is None and log_q.ndim == 2:  # what a small student's step would notice
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    divergences = F.kl_div(log_q, log_p, reduction="none", log_target=True)
    return _average(divergences.sum(dim=-1), weights)


def _average(each: Tensor, weights: Tensor | None) -> Tensor:
    return each.mean() if weights is None else (each * weights.to(each)).sum()


def _around_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of label against rest (batch, 2), and of the rest (batch, classes - 1)."""
    at = labels[:, None]
    places = torch.arange(logits.shape[-1] - 1, device=logits.device)
    rest = logits.gather(1, places + (places >= at))
    return torch.cat([logits.gather(1, at), rest.logsumexp(dim=1, keepdim=True)], dim=1), rest


def _correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along `dim`; 0 where one of the two hardly varies."""
    return (_centred_unit(a, dim) * _centred_unit(b.to(a.dtype), dim)).sum(dim=dim)


def _centred_unit(values: Tensor, dim: int) -> Tensor:
    centred = values - values.mean(dim=dim, keepdim=True)
    norm: Tensor = centred.norm(dim=dim, keepdim=True)
    return centred / norm.clamp(min=SMALLEST_NORM)


def _standardized(logits: Tensor) -> Tensor:
    # Shifted first, so that equal logits are equal to their mean to the last digit.
    return F.layer_norm(_softened(logits, 1.0), logits.shape[-1:], eps=SMALLEST_VARIANCE)


def _require_one_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise TrainingError(
            f"student: its logits have shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; expected one logit for each class from both"
        )
