"""Every loss of every kind of task and its gradient against references of their own.

The classes of single-label classification are those of `test_loss_values`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import kind_references as kinds
import loss_references as ref
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.distilling.kind_losses import labels_soft_loss
from edgecompress.distilling.kinds import (
    Aim,
    answers_as_labels,
    hard_part,
    labelled,
    soft_part,
    to_labels,
    unlabelled_rows,
)
from edgecompress.errors import TrainingError
from edgecompress.recipe import DistillSettings
from edgecompress.records import Kind

RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-5}
FLOOR = {torch.float64: 1e-12, torch.float32: 2e-6}
SPREAD = np.array([0.25, 4.0, 1e6])
ALL: tuple[Kind, ...] = (
    "classification", "binary", "multilabel", "regression", "embedding", "tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Hold one drawn case; logits of shape (samples, columns), for tokens with an axis more."""

    student: NDArray[np.float64]
    teacher: NDArray[np.float64]
    labels: NDArray[Any]
    temperature: float


def soft(kind: Kind, how: str, aim: Aim | None = None) -> Callable[..., Tensor]:
    chosen = DistillSettings(loss=how)
    return lambda s, t, y, at: soft_part(aim or Aim(kind), chosen, s, t, y, at)


def hard(kind: Kind, aim: Aim | None = None, smoothing: float = 0.0) -> Callable[..., Tensor]:
    return lambda s, t, y, at: hard_part(aim or Aim(kind), s, y, smoothing)


SCALED = Aim("regression", torch.from_numpy(SPREAD))
LENGTHS = Aim("embedding", torch.tensor([2.5], dtype=torch.float64), angles=False)
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
PAIRS: dict[str, tuple[Kind, Callable[..., Tensor], Callable[..., complex]]] = {
    "binary hard": ("binary", hard("binary"), lambda s, t, y, at: kinds.labels_nll(s, y[:, None])),
    "binary kd": ("binary", soft("binary", "kd"), lambda s, t, y, at: kinds.labels_kd(s, t, at)),
    "labels hard": (
        "multilabel", hard("multilabel", smoothing=0.1),
        lambda s, t, y, at: kinds.labels_nll(s, y, 0.1),
    ),
    "labels kd": (
        "multilabel", soft("multilabel", "auto"), lambda s, t, y, at: kinds.labels_kd(s, t, at),
    ),
    "labels multi": (
        "multilabel", soft("multilabel", "multi"),
        lambda s, t, y, at: kinds.labels_multi(s, t, TEMPERATURES),
    ),
    "labels mse": (
        "multilabel", soft("multilabel", "mse"), lambda s, t, y, at: ref.mse(s, t),
    ),
    "numbers hard": (
        "regression", hard("regression", SCALED), lambda s, t, y, at: kinds.squared(s, y, SPREAD),
    ),
    "numbers soft": (
        "regression", soft("regression", "mse", SCALED),
        lambda s, t, y, at: kinds.squared(s, t, SPREAD),
    ),
    "angles hard": ("embedding", hard("embedding"), lambda s, t, y, at: kinds.cosine(s, y)),
    "angles soft": (
        "embedding", soft("embedding", "auto"), lambda s, t, y, at: kinds.cosine(s, t),
    ),
    "vectors hard": (
        "embedding", hard("embedding", LENGTHS),
        lambda s, t, y, at: kinds.squared(s, y, np.array([2.5])),
    ),
    "vectors soft": (
        "embedding", soft("embedding", "mse", LENGTHS),
        lambda s, t, y, at: kinds.squared(s, t, np.array([2.5])),
    ),
    "tokens hard": (
        "tokens", hard("tokens", smoothing=0.1), lambda s, t, y, at: kinds.tokens_nll(s, y, 0.1),
    ),
    **{
        f"tokens {how}": (
            "tokens", soft("tokens", how),
            lambda s, t, y, at, how=how: kinds.tokens_soft(s, t, y, how, at),
        )
        for how in ("kd", "standardized", "mse", "multi")
    },
}  # fmt: skip


def drawn_labels(kind: Kind, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    match kind:
        case "binary":
            return rng.integers(0, 2, shape[0]).astype(float)
        case "multilabel":
            return rng.integers(0, 2, shape).astype(float)
        case "tokens":
            found = rng.integers(0, shape[1], (shape[0], *shape[2:]))
            found[rng.random(found.shape) < 0.3] = -100
            found[:, 0] = 1
            return found
        case _:
            return rng.normal(0, 5, shape)


@st.composite
def cases(draw: st.DrawFn, kind: Kind, extreme: bool) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples = draw(st.integers(2, 5))
    columns = {"binary": 1, "regression": 3}.get(kind) or draw(st.sampled_from([3, 10, 100]))
    shape: tuple[int, ...] = (samples, columns)
    if kind == "tokens":
        shape = (samples, min(columns, 10), 4)
    if extreme:
        logits = rng.choice([-200.0, -1.0, 3.0, 200.0], (2, *shape))
    else:
        logits = rng.normal(size=(2, *shape)) * draw(st.sampled_from([0.3, 1.0, 10.0]))
    temperature = draw(st.sampled_from([0.7, 1.0, 2.0, 4.0, 10.0]))
    return Case(logits[0], logits[1], drawn_labels(kind, shape, rng), temperature)


def compare(name: str, case: Case, dtype: torch.dtype) -> None:
    """Hold a loss and its gradient against the reference, both on the same rounded numbers."""
    kind, ours, theirs = PAIRS[name]
    student = torch.tensor(case.student, dtype=dtype, requires_grad=True)
    teacher, labels = torch.tensor(case.teacher, dtype=dtype), torch.tensor(case.labels)
    labels = labels if kind == "tokens" else labels.to(dtype)
    loss = ours(student, teacher, labels, case.temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == gradient.dtype == dtype
    assert bool(torch.isfinite(gradient).all())

    plain, told = student.detach().double().numpy(), labels.numpy()
    taught = teacher.double().numpy().astype(complex)
    told = told if kind == "tokens" else told.astype(float)
    rng = np.random.default_rng(0)
    places = [tuple(int(rng.integers(n)) for n in plain.shape) for _ in range(20)]

    def value(z: ref.Array) -> complex:
        return theirs(z, taught, told, case.temperature)

    expected, slopes = value(plain.astype(complex)).real, ref.derivatives(value, plain, places)
    hottest = max(1.0, 6.0 if "multi" in name else case.temperature)
    unit = FLOOR[dtype] * hottest
    assert abs(float(loss.detach()) - expected) <= RELATIVE[dtype] * abs(expected) + unit * hottest
    found = gradient.double().numpy()[tuple(zip(*places, strict=True))]
    assert np.abs(found - slopes).max() <= RELATIVE[dtype] * np.abs(slopes).max() + unit / len(
        plain
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_loss_and_gradient_are_those_of_the_formula(
    name: str, extreme: bool, dtype: torch.dtype, data: st.DataObject
) -> None:
    compare(name, data.draw(cases(PAIRS[name][0], extreme)), dtype)


def test_labels_are_taught_by_a_divergence_whose_gradient_is_the_difference() -> None:
    student = torch.tensor([[0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    loss = labels_soft_loss(student, teacher, 1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, student.sigmoid() - teacher.sigmoid())
    assert float(loss.detach()) > 0
    assert float(labels_soft_loss(teacher, teacher, 4.0)) == 0.0


def test_two_classes_and_one_logit_teach_alike() -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 1, generator=draws, dtype=torch.float64) * 3
    pairs = [torch.cat([torch.zeros_like(z), z], dim=1) for z in (student, teacher)]
    labels = torch.tensor([0, 1] * 4)
    whole, one = Aim("classification"), Aim("binary")
    chosen = DistillSettings(loss="kd")
    torch.testing.assert_close(
        soft_part(one, chosen, student, teacher, labels.double(), 3.0),
        soft_part(whole, chosen, *pairs, labels, 3.0),
    )
    torch.testing.assert_close(
        hard_part(one, student, labels.double()), hard_part(whole, pairs[0], labels)
    )


@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_the_unit_of_numbers_changes_no_loss(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    labels, answers = torch.from_numpy(rng.normal(3, 2, (2, 64, 2)))

    def loss(unit: float) -> Tensor:
        variance = (unit * labels).var(dim=0, correction=0)
        return hard_part(Aim(kind, variance, angles=False), unit * answers, unit * labels)

    torch.testing.assert_close(loss(1.0), loss(1000.0))
    mean = labels.mean(dim=0).expand(64, 2)
    variance = labels.var(dim=0, correction=0)
    assert float(hard_part(Aim(kind, variance, angles=False), mean, labels)) == pytest.approx(1.0)


def sample_labels(kind: Kind) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    match kind:
        case "classification" | "binary":
            return rng.integers(0, 2, 6)
        case "multilabel":
            return rng.integers(0, 2, (6, 3))
        case "tokens":
            return rng.integers(0, 3, (6, 4))
        case _:
            return rng.normal(size=(6, 3))


def sample_answers(kind: Kind) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    shape = {"classification": (6, 2), "binary": (6, 1), "tokens": (6, 3, 4)}.get(kind, (6, 3))
    return torch.randn(shape, generator=draws)


@pytest.mark.parametrize("kind", ALL)
def test_unlabelled_samples_carry_no_hard_loss(kind: Kind) -> None:
    labels, answers = to_labels(kind, sample_labels(kind)), sample_answers(kind)
    aim = Aim(kind, torch.ones(1))
    mixed = torch.cat([labels[:2], unlabelled_rows(kind, 2, labels), labels[4:]])
    assert labelled(kind, labels).all()
    assert labelled(kind, mixed).tolist() == [True, True, False, False, True, True]
    keep = torch.tensor([0, 1, 4, 5])
    answers.requires_grad_()
    loss = hard_part(aim, answers, mixed)
    torch.testing.assert_close(loss, hard_part(aim, answers[keep], labels[keep]))
    (gradient,) = torch.autograd.grad(loss, answers)
    assert bool((gradient[2:4] == 0).all())
    assert bool(torch.isfinite(gradient).all())
    nothing = unlabelled_rows(kind, 6, labels)
    assert float(hard_part(aim, answers, nothing).detach()) == 0.0


@pytest.mark.parametrize("kind", ALL)
def test_parts_of_a_batch_add_up_to_the_whole(kind: Kind) -> None:
    labels, answers = to_labels(kind, sample_labels(kind)), sample_answers(kind)
    if kind == "tokens":  # samples of different length
        labels[0, 1:], labels[3, 2:] = -100, -100
    labels[1] = unlabelled_rows(kind, 1, labels)[0]
    aim, teacher = Aim(kind, torch.ones(1)), sample_answers(kind).flip(0)
    chosen = DistillSettings()
    share = float(labelled(kind, labels).float().mean())
    hard_sum, soft_sum = 0.0, 0.0
    for part in (slice(0, 2), slice(2, 6)):
        size = len(labels[part]) / 6
        count = share * len(labels[part])
        hard_sum += size * hard_part(aim, answers[part], labels[part], 0.0, count)
        soft_sum += size * soft_part(aim, chosen, answers[part], teacher[part], labels[part], 2.0)
    torch.testing.assert_close(hard_sum, hard_part(aim, answers, labels))
    torch.testing.assert_close(soft_sum, soft_part(aim, chosen, answers, teacher, labels, 2.0))


def test_mixed_classes_are_probabilities_and_a_row_of_zeros_is_no_label() -> None:
    answers = sample_answers("classification")
    known = torch.tensor([0, 1, -1, 1, 0, -1])
    shares = torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 1], [1, 0], [0, 0]])
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            hard_part(Aim(), answers, shares, smoothing),
            hard_part(Aim(), answers, known, smoothing),
        )
    assert torch.equal(labelled("classification", shares), labelled("classification", known))
    with pytest.raises(TrainingError, match='or more than one; take loss = "kd"'):
        soft_part(Aim(), DistillSettings(loss="dkd"), answers, answers, shares, 2.0)


@pytest.mark.parametrize(
    ("kind", "answers", "labels", "words"),
    [
        ("classification", (6,), (6,), "expected logits (batch, classes)"),
        ("binary", (6,), (6,), "shape (6,) for labels of shape (6,); expected one logit for each"),
        ("multilabel", (6, 2), (6, 3), "expected one logit for each label, (batch, labels)"),
        ("regression", (6,), (6, 1), "expected one number for each value, (batch, values)"),
        ("embedding", (6, 4), (6, 8), "expected vectors as wide as the labels, (batch, width)"),
        ("tokens", (6, 5, 3), (6, 5), "expected logits with the classes on the second axis, (ba"),
    ],
)
def test_answers_that_would_broadcast_are_refused(
    kind: Kind, answers: tuple[int, ...], labels: tuple[int, ...], words: str
) -> None:
    told = to_labels(kind, np.zeros(labels))
    with pytest.raises(TrainingError) as refusal:
        hard_part(Aim(kind, torch.ones(1)), torch.zeros(answers), told)
    assert words in str(refusal.value)
    if kind not in ("classification", "tokens"):
        with pytest.raises(TrainingError, match="expected one shape of both"):
            soft_part(Aim(kind), DistillSettings(), torch.zeros(6, 2), torch.zeros(6, 3), told, 1.0)


@pytest.mark.parametrize("kind", ALL)
def test_answers_become_labels_that_they_answer_rightly(kind: Kind) -> None:
    answers = sample_answers(kind)
    labels = answers_as_labels(kind, answers.numpy())
    assert labels.dtype == to_labels(kind, sample_labels(kind)).dtype
    assert torch.equal(labels, answers_as_labels(kind, (2 * answers).numpy())) == (
        kind not in ("regression", "embedding")
    )
    if kind in ("regression", "embedding"):
        assert float(hard_part(Aim(kind, torch.ones(1)), answers, labels)) == pytest.approx(
            0, abs=1e-6
        )
