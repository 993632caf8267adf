"""Figures beside the score: losses, calibration, agreement, and what losses give away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from edgecompress.records import Kind
from edgecompress.statistics import auc_interval
from edgecompress.tasks.inspection import (
    agreement,
    calibration_error,
    negative_log_likelihood,
    sample_losses,
)
from edgecompress.tasks.task import IGNORED

DRAWS = np.random.default_rng(0)
LOGITS = DRAWS.normal(0, 3, (200, 4))
CLASSES = DRAWS.integers(0, 4, 200)
BITS = DRAWS.integers(0, 2, (200, 4))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# --- losses and likelihood --------------------------------------------------------------------


def test_likelihood_is_scikit_learns() -> None:
    found = negative_log_likelihood("classification", LOGITS, CLASSES)
    assert found == pytest.approx(log_loss(CLASSES, softmax(LOGITS), labels=range(4)))
    one = negative_log_likelihood("binary", LOGITS[:, :1], BITS[:, 0])
    assert one == pytest.approx(log_loss(BITS[:, 0], 1 / (1 + np.exp(-LOGITS[:, 0]))))
    each = [log_loss(BITS[:, i], 1 / (1 + np.exp(-LOGITS[:, i]))) for i in range(4)]
    assert negative_log_likelihood("multilabel", LOGITS, BITS) == pytest.approx(np.mean(each))


def test_tokens_that_do_not_count_have_no_part() -> None:
    logits = DRAWS.normal(0, 2, (5, 3, 7))
    labels = DRAWS.integers(0, 3, (5, 7))
    labels[:, 4:] = IGNORED
    shown = logits[:, :, :4].transpose(0, 2, 1).reshape(-1, 3)
    nats = sample_losses("classification", shown, labels[:, :4].ravel()).reshape(5, 4)
    np.testing.assert_allclose(sample_losses("tokens", logits, labels), nats.mean(axis=1))
    wild = logits.copy()
    wild[:, :, 4:] = 100.0
    for figure in (negative_log_likelihood, calibration_error):
        assert figure("tokens", wild, labels) == figure("tokens", logits, labels)
    assert agreement("tokens", wild, logits, labels) == 1.0


@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_numbers_have_losses_but_no_likelihood(kind: Kind) -> None:
    outputs = DRAWS.normal(size=(20, 3))
    assert sample_losses(kind, outputs, outputs) == pytest.approx(np.zeros(20), abs=1e-12)
    assert (sample_losses(kind, outputs, -outputs) > 0).all()
    assert negative_log_likelihood(kind, outputs, outputs) is None
    assert calibration_error(kind, outputs, outputs) is None


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[200.0, -200.0], [-200.0, 200.0]])
    assert sample_losses("classification", logits, np.array([1, 1])).tolist() == [400.0, 0.0]
    found = sample_losses("multilabel", logits, np.array([[0, 0], [0, 1]]))
    np.testing.assert_allclose(found, [100.0, 0.0], atol=1e-12)


# --- calibration and agreement ----------------------------------------------------------------


def test_honest_answers_are_calibrated_and_boasting_ones_are_not() -> None:
    logits = DRAWS.normal(0, 1.5, (40_000, 3))
    drawn = (softmax(logits).cumsum(axis=1) < DRAWS.random((40_000, 1))).sum(axis=1)
    honest = calibration_error("classification", logits, drawn)
    boasting = calibration_error("classification", 5 * logits, drawn)
    assert honest is not None
    assert boasting is not None
    assert honest < 0.01
    assert boasting > 0.15


def test_one_logit_is_as_calibrated_as_the_two_it_stands_for() -> None:
    one = LOGITS[:, :1]
    two = np.concatenate([np.zeros_like(one), one], axis=1)
    told = BITS[:, 0]
    assert calibration_error("binary", one, told) == pytest.approx(
        calibration_error("classification", two, told)
    )
    assert negative_log_likelihood("binary", one, told) == pytest.approx(
        negative_log_likelihood("classification", two, told)
    )


def test_agreement_counts_answers_that_are_the_same() -> None:
    other = LOGITS.copy()
    other[:50] = -other[:50]
    same = (LOGITS.argmax(axis=1) == other.argmax(axis=1)).mean()
    assert agreement("classification", LOGITS, other, CLASSES) == same < 1
    assert agreement("multilabel", LOGITS, other, BITS) == 0.75
    assert agreement("binary", LOGITS[:, :1], other[:, :1], BITS[:, 0]) == 0.75


def test_agreement_of_numbers_is_scikit_learns_r2_against_the_teacher() -> None:
    noisy = LOGITS + DRAWS.normal(0, 0.5, LOGITS.shape)
    assert agreement("regression", noisy, LOGITS, BITS) == pytest.approx(r2_score(LOGITS, noisy))
    steady = np.ones((5, 2))
    assert agreement("regression", steady, steady, steady) == 0.0


# --- membership -------------------------------------------------------------------------------

LOSSES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30)


@given(LOSSES, LOSSES)
def test_the_area_is_scikit_learns(members: list[float], others: list[float]) -> None:
    area, low, high = auc_interval(members, others)
    is_member = [1] * len(members) + [0] * len(others)
    expected = roc_auc_score(is_member, [-x for x in (*members, *others)])
    assert area == pytest.approx(expected)
    assert 0 <= low <= area <= high <= 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1)
    truth = 0.638  # P(N(0,1) < N(0.5,1)) = Phi(0.5 / sqrt 2)
    found = [auc_interval(draws.normal(0, 1, 80), draws.normal(0.5, 1, 60)) for _ in range(600)]
    held = np.mean([low <= truth <= high for _, low, high in found])
    assert 0.92 <= held <= 0.98
