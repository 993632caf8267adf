"""The scikit-learn estimator passes scikit-learn's own suite, and is the student it says it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from edgecompress import DistilledClassifier
from edgecompress.runtime import run

# Name of a check -> why it cannot pass. There is none.
EXPECTED_FAILURES: dict[str, str] = {}
QUICK = DistilledClassifier(DecisionTreeClassifier(max_depth=3), cv=2, epochs=30)
X, y = load_iris(return_X_y=True)


@parametrize_with_checks([QUICK], expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_suite(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [DistilledClassifier()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES
)
def test_scikit_learns_suite_with_the_defaults(estimator, check):
    check(estimator)


def quick(**changed):
    return clone(QUICK).set_params(**{"random_state": 0, "epochs": 15, **changed})


def test_same_seed_same_predictions():
    first, again, other = (quick(random_state=s).fit(X, y).predict_proba(X) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_forest_gets_the_seed_too():
    ours = quick(teacher=RandomForestClassifier(5))
    np.testing.assert_array_equal(*(clone(ours).fit(X, y).predict_proba(X) for _ in range(2)))
    piped = quick(teacher=make_pipeline(StandardScaler(), RandomForestClassifier(5)))
    assert piped.fit(X, y).teacher_[-1].random_state is not None
    assert piped.teacher[-1].random_state is None


def test_callers_draws_stay_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quick().fit(X, y)
    assert torch.equal(torch.rand(3), expected)


def test_in_a_pipeline_and_a_search():
    pipeline = make_pipeline(StandardScaler(), quick(epochs=60))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.9
    search = GridSearchCV(quick(), {"kd_weight": np.linspace(0, 1, 2), "hidden": [(8,)]}, cv=2)
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert sum(p.numel() for p in search.best_estimator_.module_.parameters()) == 4 * 8 + 8 + 27


def test_the_student_agrees_with_its_teacher():
    digits = load_digits()
    rows, held_out = digits.data[:1200], digits.data[1200:]
    ours = DistilledClassifier(RandomForestClassifier(50), cv=3, epochs=25, random_state=0)
    ours.fit(rows, digits.target[:1200])
    taught = ours.classes_[ours.teacher_.predict(held_out)]
    assert (ours.predict(held_out) == taught).mean() > 0.9
    assert ours.score(held_out, digits.target[1200:]) > 0.9
    assert [arm.name for arm in ours.arms_] == ["distilled", "control"]
    assert ours.shipped_ in ("distilled", "control")
    assert "student goes on" in ours.reason_


def test_predictions_are_the_classes_names():
    names = np.array(["setosa", "versicolor", "virginica"])
    ours = quick().fit(X, names[y])
    assert set(ours.predict(X)) <= set(names)
    np.testing.assert_array_equal(ours.classes_, names)


def test_a_fitted_teacher_stays_as_it_is():
    fitted = LogisticRegression(max_iter=500).fit(X, y)
    ours = quick(teacher=FrozenEstimator(fitted), cv=None).fit(X, y)
    np.testing.assert_array_equal(ours.teacher_.predict_proba(X), fitted.predict_proba(X))


def test_without_folds_the_teacher_answers_from_memory():
    deep = quick(teacher=DecisionTreeClassifier(), kd_weight=1.0, temperature=1.0)
    from_memory = clone(deep).set_params(cv=None).fit(X, y).arms_[0]
    out_of_fold = clone(deep).set_params(cv=5).fit(X, y).arms_[0]
    assert from_memory.curve[-1].loss != out_of_fold.curve[-1].loss


def test_too_few_rows_to_choose_by():
    lonely = np.append(y[:100], 2)
    ours = quick().fit(X[:101], lonely)
    assert ours.reason_ == "no rows were held out to choose by"
    assert [arm.name for arm in ours.arms_] == ["distilled"]
    assert quick(validation_fraction=0).fit(X, y).shipped_ == "distilled"


def test_the_onnx_file_says_what_the_estimator_says(tmp_path):
    scaled = X * np.array([1e4, 1e-4, 1, 1])
    ours = quick().fit(scaled, y)
    rows = {"x": scaled.astype(np.float32)}
    answer = run(ours.to_onnx(tmp_path / "student.onnx"), rows)
    np.testing.assert_allclose(answer, ours.predict_proba(scaled), atol=1e-5)
    logits = run(ours.to_onnx(tmp_path / "logits.onnx", softmax=False), rows)
    softmaxed = torch.softmax(torch.from_numpy(logits), dim=1)
    np.testing.assert_allclose(softmaxed, ours.predict_proba(scaled), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"kd_weight": 1.5},
            r"DistilledClassifier: kd_weight: given 1\.5, expected .*less than or equal to 1",
        ),
        ({"epochs": 0}, r"DistilledClassifier: epochs: given 0, expected"),
        ({"validation_fraction": 1}, r"validation_fraction: given 1, expected 0 or more and less"),
        ({"hidden": (0,)}, r"widths is 0, expected >= 1"),
        ({"cv": 1}, r"DistilledClassifier: cv: given 1, expected 2 or more folds, or None"),
        ({"teacher": LinearRegression()}, r"DistilledClassifier: teacher: LinearRegression predi"),
        ({"learning_rate": 1e9}, r"DistilledClassifier: training: the loss is not finite in epoch"),
    ],
)
def test_parameters_that_teach_nobody(changed, message):
    with pytest.raises(ValueError, match=message):
        quick(**changed).fit(X, y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"y has one class \(.*0.*\) in 50 samples; expected at"):
        quick().fit(X[:50], y[:50])


def test_an_unsure_teacher_is_made_as_sure_as_it_should_be():
    """Mere certainty is no knowledge: a teacher whose answers were halved teaches the same."""
    digits = load_digits()
    rows, labels = digits.data[:500] / 16, digits.target[:500]
    ours = quick(teacher=_Halved(), epochs=2, kd_weight=1.0, temperature=1.0)
    halved, whole = (
        clone(ours).set_params(teacher=t).fit(rows, labels).arms_[0].curve[-1].loss
        for t in (_Halved(), _Halved(power=1.0))
    )
    assert halved == pytest.approx(whole, rel=1e-3)


class _Halved(LogisticRegression):
    """Answer with probabilities whose logarithms were multiplied by `power`."""

    def __init__(self, power=0.5):
        super().__init__(max_iter=1000, C=0.1)
        self.power = power

    def predict_proba(self, rows):
        raised = super().predict_proba(rows) ** self.power
        return raised / raised.sum(axis=1, keepdims=True)
