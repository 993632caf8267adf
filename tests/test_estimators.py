"""Estimators teach: with probabilities, margins or classes, in the order of the class names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import Tensor

from edgecompress.errors import TeacherError
from edgecompress.teachers.adapters import as_teacher

NAMES = ("cat", "dog", "owl")
ROWS = np.random.default_rng(0).normal(size=(90, 2, 3)).astype(np.float32)
LABELS = np.arange(90) % 3
ROWS[:, 0, 0] += 3 * LABELS
FLAT = ROWS.reshape(90, 6)


def tensors(rows: int = 90) -> dict[str, Tensor]:
    return {"x": torch.from_numpy(ROWS[:rows])}


@pytest.mark.parametrize("estimator", [LogisticRegression(), RandomForestClassifier(9)])
def test_probabilities_survive_the_softmax(estimator: object) -> None:
    estimator.fit(FLAT, LABELS)
    logits = as_teacher(estimator, NAMES).logits(tensors())
    expected = estimator.predict_proba(FLAT)
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected, atol=1e-6)


def test_one_hot_teacher_stays_certain() -> None:
    class Sure:
        def predict_proba(self, rows: np.ndarray) -> np.ndarray:
            return np.eye(3)[np.zeros(len(rows), int)]

    logits = as_teacher(Sure(), NAMES).logits(tensors(2))
    assert torch.softmax(logits, 1)[:, 0].min() > 0.999999


@pytest.mark.parametrize("estimator", [RidgeClassifier(), LinearSVC(), Perceptron()])
def test_decision_values_are_logits(estimator: object) -> None:
    estimator.fit(FLAT, LABELS)
    logits = as_teacher(estimator, NAMES).logits(tensors())
    np.testing.assert_allclose(logits.numpy(), estimator.decision_function(FLAT), rtol=1e-5)


def test_binary_margin_becomes_two_logits() -> None:
    estimator = LinearSVC().fit(FLAT, LABELS > 0)
    logits = as_teacher(estimator, ("cat", "other")).logits(tensors())
    assert logits.shape == (90, 2)
    assert np.array_equal(logits.argmax(1).numpy(), estimator.predict(FLAT).astype(int))


def test_classes_known_by_name_are_put_in_the_task_order() -> None:
    names = ("owl", "cat", "dog")
    estimator = LogisticRegression().fit(FLAT, np.array(names)[LABELS])
    assert list(estimator.classes_) == ["cat", "dog", "owl"]
    logits = as_teacher(estimator, names).logits(tensors())
    assert (logits.argmax(1).numpy() == LABELS).mean() > 0.9


def test_whole_numbers_are_indices_even_where_names_are_digits() -> None:
    estimator = LogisticRegression().fit(FLAT, LABELS.astype(float))
    logits = as_teacher(estimator, ("2", "1", "0")).logits(tensors())
    assert (logits.argmax(1).numpy() == LABELS).mean() > 0.9


def test_estimator_fitted_with_column_names_does_not_warn() -> None:
    estimator = LogisticRegression().fit(FLAT, LABELS)
    estimator.feature_names_in_ = np.array(list("abcdef"), dtype=object)
    assert as_teacher(estimator, NAMES).logits(tensors()).shape == (90, 3)


def test_estimator_that_never_saw_a_class_is_refused() -> None:
    estimator = LogisticRegression().fit(FLAT, LABELS % 2)
    with pytest.raises(TeacherError) as refusal:
        as_teacher(estimator, NAMES)
    assert str(refusal.value) == (
        "teacher: LogisticRegression was fitted on 2 classes (0, 1); expected the 3 class names "
        "(cat, dog, owl) or their indices 0..2; a teacher of some of the classes stands in "
        "ClassSubsets"
    )


def test_estimator_on_other_inputs_is_refused() -> None:
    estimator = LogisticRegression().fit(FLAT[:, :5], LABELS)
    with pytest.raises(
        TeacherError, match=r"failed on x \(90, 2, 3\) float32: ValueError: X has 6"
    ):
        as_teacher(estimator, NAMES).logits(tensors())


def test_pairwise_margins_are_refused() -> None:
    bad = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovo")).fit(FLAT, LABELS)
    with pytest.raises(TeacherError, match="whose values compare pairs of classes; give it 'ovr'"):
        as_teacher(bad, NAMES)
    good = make_pipeline(StandardScaler(), SVC()).fit(FLAT, LABELS)
    logits = as_teacher(good, NAMES).logits(tensors())
    assert np.array_equal(logits.argmax(1).numpy(), good.predict(FLAT))


class Hard:
    """Answer with classes alone, as a rule or a search index does."""

    def __init__(self, answers: object) -> None:
        self.answers = answers

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.answers)[: len(rows)]


@pytest.mark.parametrize(
    "answers", [LABELS, LABELS.astype(float), np.array(NAMES)[LABELS], LABELS[:, None]]
)
def test_classes_alone_become_certain_answers(answers: np.ndarray) -> None:
    logits = as_teacher(Hard(answers), NAMES).logits(tensors())
    np.testing.assert_allclose(torch.softmax(logits, 1), np.eye(3)[LABELS], atol=1e-9)


def test_fitted_estimator_without_probabilities_or_margins() -> None:
    class Rule(DummyClassifier):
        predict_proba = None

    rule = Rule(strategy="constant", constant="owl").fit(FLAT, np.array(NAMES)[LABELS])
    assert (as_teacher(rule, NAMES).logits(tensors()).argmax(1) == 2).all()
    assert (as_teacher(rule, ()).logits(tensors()).argmax(1) == 2).all()
    with pytest.raises(TeacherError, match=r"Rule was fitted on 3 classes \(cat, dog, owl\)"):
        as_teacher(rule, ("cat", "dog", "emu"))


def test_predict_that_gives_probabilities_is_taken_at_them() -> None:
    probabilities = LogisticRegression().fit(FLAT, LABELS).predict_proba(FLAT)
    logits = as_teacher(Hard(probabilities), NAMES).logits(tensors())
    np.testing.assert_allclose(torch.softmax(logits, 1), probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (LABELS + 0.5, "Hard.predict answered '0.5'; expected one of the class names (cat, dog, "),
        (np.full(90, "emu"), "Hard.predict answered 'emu'; expected one of the class names"),
        (LABELS + 1, "Hard.predict answered 3; expected one of the class names (cat, dog, owl) or"),
        (np.ones((90, 3)), "Hard.predict returned shape (90, 3), rows that do not sum to 1; "),
    ],
)
def test_answers_that_are_no_classes_are_refused(answers: np.ndarray, words: str) -> None:
    with pytest.raises(TeacherError) as refusal:
        as_teacher(Hard(answers), NAMES).logits(tensors())
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_classes_alone_need_the_class_names() -> None:
    with pytest.raises(TeacherError, match="does not say which there are; give the task class_na"):
        as_teacher(Hard(LABELS), ())


def test_regressor_is_no_teacher_of_classes() -> None:
    with pytest.raises(TeacherError, match="LinearRegression predicts numbers, not classes; exp"):
        as_teacher(LinearRegression().fit(FLAT, LABELS), NAMES)


def test_boosted_trees_teach_their_probabilities() -> None:
    xgboost = pytest.importorskip("xgboost")
    trees = xgboost.XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1).fit(FLAT, LABELS)
    logits = as_teacher(trees, NAMES).logits(tensors())
    np.testing.assert_allclose(torch.softmax(logits, 1), trees.predict_proba(FLAT), atol=1e-6)
    assert (logits.argmax(1).numpy() == LABELS).mean() > 0.95
    two = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(FLAT, LABELS > 0)
    logits = as_teacher(two, ("cat", "other")).logits(tensors())
    np.testing.assert_allclose(torch.softmax(logits, 1), two.predict_proba(FLAT), atol=1e-6)
    regressor = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(FLAT, LABELS)
    with pytest.raises(TeacherError, match="XGBRegressor predicts numbers, not classes"):
        as_teacher(regressor, NAMES)
    with pytest.raises(TeacherError, match=r"failed on x \(90, 2, 3\) float32: TypeError"):
        as_teacher(trees.get_booster(), NAMES).logits(tensors())
