"""Several teachers as one: ensembles, and experts that know some of the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from edgecompress.errors import TeacherError
from edgecompress.teachers.adapters import as_teacher, fingerprint, members
from edgecompress.teachers.mixtures import ClassSubsets, Ensemble, Expert, unify

NAMES = ("cat", "dog", "owl", "yak")
DRAWS = np.random.default_rng(0)
LABELS = np.arange(200) % 4
ROWS = (DRAWS.normal(size=(200, 4)) + 2 * np.eye(4)[LABELS]).astype(np.float32)
INPUTS = {"x": torch.from_numpy(ROWS)}


class Says:
    def __init__(self, answer: object) -> None:
        self.answer = torch.as_tensor(answer, dtype=torch.float32)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.answer[: len(next(iter(inputs.values())))]


def fitted(names: tuple[str, ...], seed: int = 0) -> LogisticRegression:
    """Return a model of some of the classes, fitted to a part of their samples."""
    mine = np.isin(np.array(NAMES)[LABELS], names)
    mine &= np.random.default_rng(seed).random(200) < 0.8
    return LogisticRegression().fit(ROWS[mine], np.array(NAMES)[LABELS[mine]])


def test_ensemble_is_the_weighted_mean_of_probabilities() -> None:
    first, second = fitted(NAMES, 1), fitted(NAMES, 2)
    teacher = as_teacher(Ensemble((first, second), weights=(3, 1)), NAMES)
    expected = 0.75 * first.predict_proba(ROWS) + 0.25 * second.predict_proba(ROWS)
    got = torch.softmax(teacher.logits(INPUTS), 1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(teacher.logits(INPUTS).exp(), expected, atol=1e-6)
    assert len(members(teacher)) == 2
    assert members(as_teacher(first, NAMES)) == ()
    assert fingerprint(teacher) == ""


def test_members_known_by_name_share_the_task_order() -> None:
    names = ("yak", "owl", "dog", "cat")
    one = as_teacher(Ensemble([fitted(NAMES)]), names).logits(INPUTS)
    np.testing.assert_allclose(one, as_teacher(fitted(NAMES), names).logits(INPUTS), atol=1e-6)


def test_certain_members_stay_finite() -> None:
    sure = Says([[500.0, -500, 0, 0]]), Says([[-500.0, 500, 0, 0]])
    logits = as_teacher(Ensemble(sure), NAMES).logits({"x": torch.zeros(1, 4)})
    assert torch.isfinite(logits).all()
    np.testing.assert_allclose(torch.softmax(logits, 1)[0], [0.5, 0.5, 0, 0], atol=1e-9)


def test_experts_of_everything_are_an_ensemble() -> None:
    first, second = fitted(NAMES, 1), fitted(NAMES, 2)
    ensemble = as_teacher(Ensemble((first, second), (3, 1)), NAMES)
    experts = ClassSubsets((Expert(first, NAMES), Expert(second, NAMES)), (3, 1))
    unified = as_teacher(experts, NAMES)
    np.testing.assert_allclose(unified.logits(INPUTS), ensemble.logits(INPUTS), atol=1e-5)


def test_experts_of_halves_teach_the_whole() -> None:
    sets = (("cat", "dog", "owl"), ("owl", "dog", "yak"), ("cat", "yak"))
    teacher = as_teacher(ClassSubsets([Expert(fitted(s), s) for s in sets]), NAMES)
    logits = teacher.logits(INPUTS)
    whole = as_teacher(fitted(NAMES), NAMES).logits(INPUTS)
    assert (logits.argmax(1) == whole.argmax(1)).double().mean() > 0.95


def cost(q: np.ndarray, answers: list, sets: list, weights: list) -> float:
    """Return the sum of weighted cross-entropies that the formula minimises."""
    total = 0.0
    for answer, known, weight in zip(answers, sets, weights, strict=True):
        inside = q[list(known)] / q[list(known)].sum()
        total -= weight * float((answer * np.log(inside)).sum())
    return total


@given(st.integers(0, 10_000))
def test_unified_answer_minimises_its_formula(seed: int) -> None:
    draws = np.random.default_rng(seed)
    sets = [(0, 1, 2), (1, 2, 3), (3, 0)]
    answers = [draws.dirichlet(np.full(len(known), 2.0)) for known in sets]
    weights = draws.uniform(0.2, 3, 3).tolist()
    q = unify([a[None] for a in answers], sets, weights)[0]
    assert q.sum() == pytest.approx(1)
    best = minimize(
        lambda u: cost(np.exp(u - u.max()) / np.exp(u - u.max()).sum(), answers, sets, weights),
        np.log(q) + 0.1,
    )
    assert cost(q, answers, sets, weights) <= best.fun + 1e-6


def test_experts_that_agree_with_a_truth_restore_it() -> None:
    truth = np.array([0.5, 0.3, 0.15, 0.05])
    sets = [(0, 1), (1, 2), (2, 3)]
    answers = [(truth[list(s)] / truth[list(s)].sum())[None] for s in sets]
    np.testing.assert_allclose(unify(answers, sets, (1, 1, 1))[0], truth, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Ensemble(()), "teacher: has no members; expected at least one"),
        (Ensemble((Says(0), Says(0)), (1,)), "1 weights for 2 members; expected one for each"),
        (Ensemble((Says(0), Says(0)), (1, 0)), "its weights are 1.0, 0.0; expected positive numb"),
        (Ensemble((Says(0),), (float("nan"),)), "its weights are nan; expected positive numbers"),
        (Ensemble((3,)), "teacher: its type is int; expected a torch module"),
        (ClassSubsets(()), "no expert knows cat, dog, owl, yak; expected experts that together"),
        (
            ClassSubsets((Expert(Says(0), ("cat", "dog")), Expert(Says(0), ("dog", "owl")))),
            "no expert knows yak",
        ),
        (
            ClassSubsets((Expert(Says(0), ("cat", "emu")),)),
            "an expert of (cat, emu) names class 'emu'; expected some of the task's class names",
        ),
        (
            ClassSubsets((Expert(Says(0), ("cat", "cat")),)),
            "an expert of (cat, cat) names a class twice",
        ),
        (ClassSubsets((Expert(Says(0), ("cat",)),)), "an expert names 1 classes; expected at leas"),
    ],
)
def test_bad_mixtures_are_refused(source: object, words: str) -> None:
    with pytest.raises(TeacherError) as refusal:
        as_teacher(source, NAMES)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_expert_with_other_outputs_is_refused() -> None:
    sets = ClassSubsets((Expert(Says(np.zeros((9, 3))), ("cat", "dog")), Expert(Says(0), NAMES)))
    with pytest.raises(TeacherError, match=r"returned shape \(9, 3\) for 9 samples"):
        as_teacher(sets, NAMES).logits({"x": torch.zeros(9, 4)})
