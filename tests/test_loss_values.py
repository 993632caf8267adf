"""Every loss and its gradient against a reference of its own, on plain and on extreme logits."""

from collections.abc import Callable
from dataclasses import dataclass

import loss_references as ref
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.distilling import losses

RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-5}
FLOOR = {torch.float64: 1e-12, torch.float32: 2e-6}
TEMPERATURES = (2.0, 3.0, 6.0)


@dataclass(frozen=True)
class Case:
    """Hold one drawn case: what a network and its teacher say of some samples."""

    student: NDArray[np.float64]
    teacher: NDArray[np.float64]
    labels: NDArray[np.int64]
    temperature: float


Ours = Callable[[Tensor, Tensor, Tensor, float], Tensor]
Theirs = Callable[[ref.Array, ref.Array, NDArray[np.int64], float], complex]
PAIRS: dict[str, tuple[Ours, Theirs]] = {
    "hard": (
        lambda s, t, y, at: losses.hard_loss(s, y, label_smoothing=0.1),
        lambda s, t, y, at: ref.nll(s, y, 0.1),
    ),
    "kd": (lambda s, t, y, at: losses.soft_loss(s, t, at), lambda s, t, y, at: ref.kd(s, t, at)),
    "mixed": (
        lambda s, t, y, at: losses.distillation_loss(s, t, y, at, 0.7, 0.1),
        lambda s, t, y, at: 0.7 * ref.kd(s, t, at) + 0.3 * ref.nll(s, y, 0.1),
    ),
    "summed": (
        lambda s, t, y, at: losses.summed_loss(s, t, y, 2.5, at),
        lambda s, t, y, at: ref.entropy_form(s, t, y, 2.5, at),
    ),
    "dkd": (
        lambda s, t, y, at: losses.decoupled_loss(s, t, y, at, 1.0, 8.0),
        lambda s, t, y, at: ref.dkd(s, t, y, at, 1.0, 8.0),
    ),
    "dist": (
        lambda s, t, y, at: losses.correlation_loss(s, t, at, 1.0, 2.0),
        lambda s, t, y, at: ref.dist(s, t, at, 1.0, 2.0),
    ),
    "standardized": (
        lambda s, t, y, at: losses.standardized_loss(s, t, at),
        lambda s, t, y, at: ref.standardized(s, t, at),
    ),
    "mse": (lambda s, t, y, at: losses.logit_loss(s, t), lambda s, t, y, at: ref.mse(s, t)),
    "multi": (
        lambda s, t, y, at: losses.multi_temperature_loss(s, t, TEMPERATURES),
        lambda s, t, y, at: ref.multi(s, t, TEMPERATURES),
    ),
}


@st.composite
def cases(draw: st.DrawFn, extreme: bool) -> Case:
    classes = draw(st.sampled_from([2, 3, 4, 10, 100, 1000]))
    samples = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (2, samples, classes)
    if extreme:
        logits = rng.choice([-200.0, -1.0, 0.0, 3.0, 200.0], shape)
        logits += draw(st.sampled_from([0.0, 5.0])) * rng.uniform(-1, 0, shape) * np.sign(logits)
    else:
        logits = rng.normal(size=shape) * draw(st.sampled_from([0.3, 1.0, 4.0, 10.0]))
    temperature = draw(st.sampled_from([0.7, 1.0, 2.0, 3.0, 4.0, 10.0]))
    return Case(logits[0], logits[1], rng.integers(0, classes, samples), temperature)


def _compare(name: str, case: Case, dtype: torch.dtype) -> None:
    """Hold a loss and its gradient against the reference, both on the same rounded logits.

    The floor is rounding in what the loss sums up, terms of about 1 times T²: of two distributions
    that agree to the last digit, no arithmetic tells the divergence to a relative 1e-5.
    """
    ours, theirs = PAIRS[name]
    student = torch.tensor(case.student, dtype=dtype, requires_grad=True)
    teacher, labels = torch.tensor(case.teacher, dtype=dtype), torch.tensor(case.labels)
    loss = ours(student, teacher, labels, case.temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == gradient.dtype == dtype

    plain = student.detach().double().numpy(), teacher.double().numpy()
    rng = np.random.default_rng(0)
    places = [(i, int(label)) for i, label in enumerate(case.labels)] + [
        (int(rng.integers(len(plain[0]))), int(rng.integers(plain[0].shape[1]))) for _ in range(20)
    ]

    def value(z: ref.Array) -> complex:
        return theirs(z, plain[1].astype(complex), case.labels, case.temperature)

    hottest = max(case.temperature, *TEMPERATURES) if name == "multi" else case.temperature
    unit = FLOOR[dtype] * max(1.0, hottest)
    expected, slopes = (
        value(plain[0].astype(complex)).real,
        ref.derivatives(value, plain[0], places),
    )
    assert abs(float(loss.detach()) - expected) <= RELATIVE[dtype] * abs(expected) + unit * max(
        1.0, hottest
    )
    error = np.abs(gradient.double().numpy()[tuple(zip(*places, strict=True))] - slopes).max()
    assert error <= RELATIVE[dtype] * np.abs(slopes).max() + unit / len(plain[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_loss_and_gradient_are_those_of_the_paper(
    name: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(cases(extreme=False))
    if name != "standardized" or case.student.shape[1] > 2:
        _compare(name, case, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_extreme_logits_change_nothing(name: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(extreme=True))
    if name != "standardized" or case.student.shape[1] > 2:
        _compare(name, case, dtype)
