"""The losses: the distillation rows of the traps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgecompress.distilling.losses import (
    UNLABELLED,
    correlation_loss,
    decoupled_loss,
    distillation_loss,
    hard_loss,
    kd_weight_of,
    logit_loss,
    multi_temperature_loss,
    soft_loss,
    standardized_loss,
    summed_loss,
)
from edgecompress.errors import TrainingError


def test_kl_runs_from_teacher_to_student() -> None:
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64)
    soft_loss(student, teacher, 1.0).backward()
    expected = (student.softmax(-1) - teacher.softmax(-1)) / 5
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-5, atol=1e-7)


@given(st.integers(2, 40), st.floats(0.5, 20), st.integers(0, 10_000))
def test_the_soft_loss_is_a_divergence(classes: int, temperature: float, seed: int) -> None:
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed)) * 5
    other = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed + 1)) * 5
    assert float(soft_loss(logits, other, temperature)) > 0
    assert float(soft_loss(logits, logits + 3.0, temperature)) == pytest.approx(0.0, abs=1e-3)


def test_the_soft_loss_averages_over_samples_and_not_over_classes() -> None:
    student, teacher = torch.randn(1, 10), torch.randn(1, 10)
    expected = sum(
        p * (math.log(p) - math.log(q))
        for p, q in zip(
            teacher.softmax(-1)[0].tolist(), student.softmax(-1)[0].tolist(), strict=True
        )
    )
    assert float(soft_loss(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-4)
    eight = soft_loss(student.repeat(8, 1), teacher.repeat(8, 1), 1.0)
    assert float(eight) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kd_weight", [0.5, 1.0])
def test_the_gradient_keeps_its_size_as_the_temperature_rises(kd_weight: float) -> None:
    norms = []
    for temperature in (5.0, 20.0):
        student = (torch.randn(8, 10, generator=torch.Generator().manual_seed(0))).requires_grad_()
        teacher = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
        loss = distillation_loss(
            student, teacher, torch.zeros(8, dtype=torch.long), temperature, kd_weight
        )
        hard = (1 - kd_weight) * hard_loss(student, torch.zeros(8, dtype=torch.long))
        (loss - hard).backward()
        assert student.grad is not None
        norms.append(float(student.grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def test_losses_are_finite_on_extreme_logits() -> None:
    extreme = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 200.0]], requires_grad=True)
    loss = distillation_loss(extreme, extreme.detach().flip(0), torch.tensor([0, 1]), 1.0, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert extreme.grad is not None
    assert bool(torch.isfinite(extreme.grad).all())


@pytest.mark.parametrize("columns", [1, 5])
def test_logits_of_different_shapes_are_refused(columns: int) -> None:
    with pytest.raises(TrainingError, match=r"shape \(4, 3\), the teacher's \(4, \d\); expected"):
        soft_loss(torch.zeros(4, 3), torch.zeros(4, columns), 2.0)


def test_unlabelled_samples_carry_no_hard_loss() -> None:
    logits = torch.randn(4, 3)
    labels = torch.tensor([1, -1, 2, -1])
    assert hard_loss(logits, labels) == pytest.approx(
        float(hard_loss(logits[[0, 2]], labels[[0, 2]]))
    )
    assert float(hard_loss(logits, torch.full((4,), -1))) == 0.0


# --- the other losses ---------------------------------------------------------------------------


def _drawn(classes: int = 7, samples: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Return a student's logits that want a gradient, a teacher's, and labels, all in float64."""
    random = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, samples, classes, generator=random, dtype=torch.float64) * 3
    labels = torch.randint(0, classes, (samples,), generator=random)
    return student.requires_grad_(), teacher, labels


def _slope(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kd_weight", [0.1, 0.5, 0.9])
def test_the_summed_form_teaches_the_same_when_a_is_w_times_t_squared_over_one_minus_w(
    kd_weight: float, temperature: float
) -> None:
    student, teacher, labels = _drawn()
    a = kd_weight * temperature**2 / (1 - kd_weight)
    assert kd_weight_of(a, temperature) == pytest.approx(kd_weight)
    ours = distillation_loss(student, teacher, labels, temperature, kd_weight)
    summed = summed_loss(student, teacher, labels, a, temperature)
    torch.testing.assert_close(
        _slope(ours, student), (1 - kd_weight) * _slope(summed, student), rtol=1e-12, atol=0
    )
    p = (teacher / temperature).softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()  # of the teacher: no student changes it
    constant = kd_weight * temperature**2 * entropy
    torch.testing.assert_close(ours, (1 - kd_weight) * summed - constant, rtol=1e-12, atol=0)


def test_decoupled_parts_weighted_as_in_plain_distillation_are_plain_distillation() -> None:
    """KL = TCKD + (1 - p_label) · NCKD (Zhao et al. 2022, equation 6), here for one sample."""
    student, teacher, labels = _drawn(samples=1)
    rest = 1 - float((teacher / 2.0).softmax(-1)[0, labels[0]])
    whole = decoupled_loss(student, teacher, labels, 2.0, alpha=1.0, beta=rest)
    torch.testing.assert_close(whole, soft_loss(student, teacher, 2.0), rtol=1e-12, atol=0)


def test_decoupled_losses_are_finite_where_probabilities_vanish() -> None:
    extreme = torch.tensor([[200.0, -200.0, -200.0], [-200.0, 200.0, 200.0]], requires_grad=True)
    for temperature in (0.5, 1.0, 4.0):
        loss = decoupled_loss(extreme, extreme.detach().flip(0), torch.tensor([0, 0]), temperature)
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(_slope(loss, extreme)).all())


def test_decoupled_losses_need_labels() -> None:
    student, teacher, labels = _drawn()
    labels[2] = UNLABELLED
    with pytest.raises(
        TrainingError, match=r"'dkd' sets the label's class apart.*take loss = \"kd"
    ):
        decoupled_loss(student, teacher, labels, 4.0)


def test_correlation_forgives_another_scale_and_wants_the_same_order() -> None:
    student, teacher, _ = _drawn()
    same = correlation_loss(teacher + 5.0, teacher, 1.0)
    assert float(same) == pytest.approx(0.0, abs=1e-12)
    assert float(correlation_loss(-teacher, teacher, 1.0)) > 1.0
    apart = correlation_loss(student, teacher, 1.0, beta=1.0, gamma=0.0) + correlation_loss(
        student, teacher, 1.0, beta=0.0, gamma=1.0
    )
    torch.testing.assert_close(correlation_loss(student, teacher, 1.0), apart)


def test_correlation_of_what_does_not_vary_is_finite() -> None:
    flat = torch.zeros(4, 3, requires_grad=True)
    loss = correlation_loss(flat, torch.zeros(4, 3), 1.0)
    assert float(loss.detach()) == 2.0
    assert bool((_slope(loss, flat) == 0).all())


@pytest.mark.parametrize("classes", [1, 2])
def test_standardized_logits_of_two_classes_are_refused_with_a_reason(classes: int) -> None:
    with pytest.raises(TrainingError, match=rf"three classes or more, given {classes}: two stan"):
        standardized_loss(torch.randn(4, classes), torch.randn(4, classes), 2.0)


def test_standardized_logits_forgive_the_teacher_its_range() -> None:
    _, teacher, _ = _drawn()
    assert float(standardized_loss(0.1 * teacher - 4, 7 * teacher + 2, 2.0)) == pytest.approx(
        0.0, abs=1e-6
    )
    flat = torch.zeros(4, 3, requires_grad=True)
    assert bool(torch.isfinite(_slope(standardized_loss(flat, torch.randn(4, 3), 2.0), flat)).all())


def test_the_soft_loss_of_centred_logits_tends_to_the_logit_loss() -> None:
    student, teacher, _ = _drawn()
    ours, theirs = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    torch.testing.assert_close(
        _slope(soft_loss(ours, theirs, 1e5), student),
        _slope(logit_loss(ours, theirs), student),
        rtol=1e-3,
        atol=1e-6,
    )


def test_several_temperatures_are_averaged() -> None:
    student, teacher, _ = _drawn()
    both = (soft_loss(student, teacher, 2.0) + soft_loss(student, teacher, 5.0)) / 2
    torch.testing.assert_close(multi_temperature_loss(student, teacher, (2.0, 5.0)), both)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: summed_loss(s, t, torch.zeros(4, dtype=torch.long), 1.0),
        lambda s, t: decoupled_loss(s, t, torch.zeros(4, dtype=torch.long), 1.0),
        lambda s, t: correlation_loss(s, t, 1.0),
        lambda s, t: standardized_loss(s, t, 1.0),
        lambda s, t: logit_loss(s, t),
        lambda s, t: multi_temperature_loss(s, t, (1.0,)),
    ],
)
def test_no_loss_broadcasts_a_teacher_of_another_width(loss) -> None:
    with pytest.raises(TrainingError, match=r"shape \(4, 3\), the teacher's \(4, 1\)"):
        loss(torch.zeros(4, 3), torch.zeros(4, 1))
