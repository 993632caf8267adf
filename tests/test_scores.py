"""Every kind of task has metrics whose mean over samples is the known figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.scores import (
    ABSOLUTE_ERROR,
    BINARY_ACCURACY,
    COSINE,
    LABEL_ACCURACY,
    METRICS,
    NEIGHBOURS,
    R2,
    RANKING_PRECISION,
    SAMPLE_F1,
    SQUARED_ERROR,
    TOKEN_ACCURACY,
    default_metric,
)
from edgecompress.tasks.task import Metric

SEEDS = st.integers(0, 10_000)


def value(metric: Metric, outputs: np.ndarray, labels: np.ndarray) -> float:
    return evaluate(metric, outputs, labels, "test").metric.value


@given(SEEDS)
def test_multilabel_scores_are_scikit_learns(seed: int) -> None:
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 2, (30, 5))
    logits = draws.normal(size=(30, 5)).round(1) + labels
    said = logits > 0
    close = {"abs": 1e-5}
    assert value(LABEL_ACCURACY, logits, labels) == pytest.approx((said == labels).mean(), **close)
    expected = sk.f1_score(labels, said, average="samples", zero_division=1.0)
    assert value(SAMPLE_F1, logits, labels) == pytest.approx(expected, **close)
    expected = sk.label_ranking_average_precision_score(labels, logits)
    assert value(RANKING_PRECISION, logits, labels) == pytest.approx(expected, **close)


@given(SEEDS, st.sampled_from([(40,), (40, 1), (40, 3)]))
def test_regression_scores_are_scikit_learns(seed: int, shape: tuple[int, ...]) -> None:
    draws = np.random.default_rng(seed)
    labels = draws.normal(3, 2, shape)
    outputs = (labels + draws.normal(0, 1, shape)).reshape(40, -1)
    wide = labels.reshape(40, -1)
    close = {"rel": 1e-4, "abs": 1e-5}
    assert value(R2, outputs, labels) == pytest.approx(sk.r2_score(wide, outputs), **close)
    expected = sk.mean_absolute_error(wide, outputs)
    assert value(ABSOLUTE_ERROR, outputs, labels) == pytest.approx(expected, **close)
    expected = sk.mean_squared_error(wide, outputs)
    assert value(SQUARED_ERROR, outputs, labels) == pytest.approx(expected, **close)


def test_binary_accuracy_has_a_wilson_interval() -> None:
    metric = evaluate(
        BINARY_ACCURACY, np.array([[2.0], [-1], [3], [-2]]), np.array([1, 0, 0, 0]), "test"
    ).metric
    assert (metric.name, metric.value) == ("accuracy", 0.75)
    assert metric.low == pytest.approx(0.3006, abs=1e-4)


def test_cosine_forgets_length() -> None:
    labels = np.array([[1.0, 0], [0, 2], [1, 1]])
    assert value(COSINE, 7 * labels, labels) == pytest.approx(1)
    assert value(COSINE, -labels, labels) == pytest.approx(-1)
    assert value(COSINE, np.zeros((3, 2)), labels) == 0


def test_tokens_that_are_ignored_count_nowhere() -> None:
    labels = np.array([[0, 1, -100, -100], [2, 2, 2, 0]])
    answers = np.array([[0, 0, 0, 0], [2, 2, 2, 2]])
    logits = np.moveaxis(np.eye(3)[answers], -1, 1)
    result = evaluate(TOKEN_ACCURACY, logits, labels, "test")
    assert result.scores == (0.5, 0.75)
    pixels = evaluate(TOKEN_ACCURACY, logits.reshape(2, 3, 2, 2), labels.reshape(2, 2, 2), "test")
    assert pixels.scores == (0.5, 0.75)


def test_every_kind_has_a_metric_to_begin_with() -> None:
    for kind, known in METRICS.items():
        assert default_metric(kind) is known[0]
    assert not ABSOLUTE_ERROR.higher_is_better
    assert R2.higher_is_better


@pytest.mark.parametrize("samples", [1, 2, 7, 40])
def test_neighbours_of_many_samples_are_sought_among_some(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.tasks.scores.MOST_CANDIDATES", 20)
    monkeypatch.setattr("edgecompress.tasks.scores.ROWS_AT_ONCE", 16)
    draws = np.random.default_rng(samples)
    ours, theirs = (draws.normal(size=(samples, width)) for width in (3, 5))
    among = range(0, samples, 2 if samples > 20 else 1)

    def nearest(vectors: np.ndarray, row: int) -> set[int]:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        others = [other for other in among if other != row]
        return set(sorted(others, key=lambda other: -unit[row] @ unit[other])[:count])

    count = min(10, len(among) - 1)
    expected = [
        len(nearest(ours, row) & nearest(theirs, row)) / count if count else 1.0
        for row in range(samples)
    ]
    np.testing.assert_allclose(NEIGHBOURS.per_sample(ours, theirs), expected)
