"""Outputs are scored: metrics with their intervals, and how far to trust a teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import DataError, InputError, TaskError
from edgecompress.tasks.metrics import evaluate, log_softmax, teacher_quality
from edgecompress.tasks.task import ACCURACY, Metric

LABELS = np.array([0, 1, 2, 0])
OUTPUTS = np.eye(3)[[0, 1, 2, 1]]


def test_accuracy_has_a_wilson_interval_and_a_score_a_sample() -> None:
    result = evaluate(ACCURACY, OUTPUTS, LABELS, "validation")
    assert result.metric.name == "accuracy"
    assert result.metric.split == "validation"
    assert result.metric.value == 0.75
    assert result.scores == (1.0, 1.0, 1.0, 0.0)
    assert result.metric.low == pytest.approx(0.3006, abs=1e-4)
    assert result.metric.high == pytest.approx(0.9544, abs=1e-4)


def test_score_says_which_way_is_better() -> None:
    error = Metric("error", lambda o, y: (o.argmax(1) != y).astype(float), higher_is_better=False)
    assert not evaluate(error, OUTPUTS, LABELS, "test").metric.higher_is_better
    assert evaluate(ACCURACY, OUTPUTS, LABELS, "test").metric.higher_is_better


def test_scores_keep_six_digits() -> None:
    thirds = Metric("thirds", lambda outputs, labels: np.full(len(labels), 1 / 3))
    assert set(evaluate(thirds, OUTPUTS, LABELS, "test").scores) == {0.333333}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_interval_holds_the_value(values: list[float]) -> None:
    own = Metric("own", lambda outputs, labels: np.array(values))
    metric = evaluate(own, np.zeros(len(values)), np.zeros(len(values)), "test").metric
    assert metric.low <= metric.value <= metric.high


def scoring(value: object) -> Metric:
    return Metric("own", lambda outputs, labels: value)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("metric", "outputs", "kind", "words"),
    [
        (
            ACCURACY,
            OUTPUTS[:3],
            DataError,
            "test: 3 outputs for 4 labels; a score needs one output",
        ),
        (
            ACCURACY,
            np.where(np.arange(4)[:, None] > 1, np.nan, OUTPUTS),
            DataError,
            "test: the model's output for sample 2 is not finite ([nan nan nan]); check the sample",
        ),
        (
            scoring(0.5),
            OUTPUTS,
            TaskError,
            "metric 'own': returned shape () for 4 samples; expected",
        ),
        (
            scoring([1.0] * 3),
            OUTPUTS,
            TaskError,
            "returned shape (3,) for 4 samples; expected (4,)",
        ),
        (
            scoring([1, 2, math.inf, 4]),
            OUTPUTS,
            TaskError,
            "the score of sample 2 is inf; expected",
        ),
        (
            scoring("good"),
            OUTPUTS,
            TaskError,
            "failed on outputs (4, 3) and labels (4,): ValueError",
        ),
        (scoring(None), OUTPUTS, TaskError, "metric 'own': "),
    ],
)
def test_scores_that_cannot_be_trusted_are_refused(
    metric: Metric, outputs: np.ndarray, kind: type[InputError], words: str
) -> None:
    with pytest.raises(kind) as refusal:
        evaluate(metric, outputs, LABELS, "test")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_no_samples_are_no_score() -> None:
    with pytest.raises(DataError, match="0 outputs for 0 labels"):
        evaluate(ACCURACY, OUTPUTS[:0], LABELS[:0], "test")


def test_quality_of_a_calibrated_teacher() -> None:
    draws = np.random.default_rng(0)
    probabilities = draws.dirichlet(np.ones(4), 20_000)
    labels = (probabilities.cumsum(1) < draws.random((20_000, 1))).sum(1)
    quality = teacher_quality(np.log(probabilities), labels)
    assert quality.ece < 0.01
    overconfident = teacher_quality(4 * np.log(probabilities), labels)
    assert overconfident.accuracy == quality.accuracy
    assert overconfident.ece > 0.1
    assert overconfident.nll > quality.nll


def test_quality_is_finite_on_extreme_logits() -> None:
    quality = teacher_quality(np.array([[200.0, -200.0], [200.0, -200.0]]), np.array([0, 1]))
    assert quality.accuracy == 0.5
    assert quality.nll == pytest.approx(200)
    assert quality.ece == pytest.approx(0.5)


@given(st.lists(st.floats(-300, 300), min_size=2, max_size=8))
def test_log_softmax_sums_to_one(logits: list[float]) -> None:
    assert np.exp(log_softmax(np.array(logits))).sum() == pytest.approx(1)
