"""The losses: the distillation rows of the traps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.distilling.losses import distillation_loss, hard_loss, soft_loss
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
