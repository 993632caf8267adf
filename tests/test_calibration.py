"""A teacher's certainty is made honest by one temperature, where held-out data gains by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from edgecompress.tasks.metrics import teacher_quality
from edgecompress.teachers.adapters import as_teacher
from edgecompress.teachers.calibration import (
    calibrate,
    fit_temperature,
    negative_log_likelihood,
)


def honest(samples: int, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose probabilities are true, and labels drawn from them."""
    draws = np.random.default_rng(seed)
    probabilities = draws.dirichlet(np.full(classes, 0.5), samples)
    labels = (probabilities.cumsum(1) < draws.random((samples, 1))).sum(1)
    return np.log(probabilities + 1e-9), labels.clip(max=classes - 1)


@given(st.integers(0, 1000), st.floats(0.2, 8))
def test_temperature_is_the_likeliest(seed: int, scale: float) -> None:
    logits, labels = honest(200, seed=seed)
    found = fit_temperature(scale * logits, labels)
    best = minimize_scalar(
        lambda t: negative_log_likelihood(scale * logits / np.exp(t), labels).mean(),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(np.exp(best.x), rel=1e-3)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_wrong_certainty_is_repaired(scale: float) -> None:
    logits, labels = honest(3000)
    found = calibrate(scale * logits, labels)
    assert found.helps
    assert found.temperature == pytest.approx(scale, rel=0.1)
    before, after = (teacher_quality(x, labels) for x in (scale * logits, found.held_out))
    assert after.accuracy == before.accuracy
    assert after.ece < 0.03 < before.ece
    assert before.nll - after.nll == pytest.approx(found.gain)
    assert found.low < found.gain < found.high


def test_honest_teachers_are_left_alone() -> None:
    kept = [calibrate(*honest(400, seed=seed)).helps for seed in range(40)]
    assert sum(kept) <= 4


def test_few_samples_prove_nothing() -> None:
    logits, labels = honest(8)
    assert not calibrate(1.2 * logits, labels).helps


def test_teacher_without_a_mistake_is_left_alone() -> None:
    logits = 2 * np.eye(4)[np.arange(400) % 4]
    found = calibrate(logits, np.arange(400) % 4)
    assert found.low > 0
    assert found.mistakes == 0
    assert not found.helps


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[200.0, -200.0]] * 9 + [[-200.0, 200.0]])
    found = calibrate(logits, np.zeros(10, int))
    assert np.isfinite([found.temperature, found.gain, found.low, found.high]).all()
    assert not found.helps  # one mistake in ten says too little
    sure = fit_temperature(logits[:9], np.zeros(9, int))
    assert negative_log_likelihood(logits[:9] / sure, np.zeros(9, int)).max() < 1e-9
    assert fit_temperature(logits[:9], np.ones(9, int)) == pytest.approx(100, rel=1e-6)


def test_classes_alone_get_their_error_rate() -> None:
    """A certain answer that is wrong in one of ten gives the other classes a tenth together."""

    class Hard:
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.arange(len(rows)) % 5

    labels = np.arange(1000) % 5
    labels[::10] = (labels[::10] + 1) % 5
    inputs = {"x": torch.zeros(1000, 1)}
    teacher = as_teacher(Hard(), tuple("abcde"))
    found = calibrate(teacher.logits(inputs).numpy(), labels)
    assert found.helps
    calibrated = replace(teacher, temperature=found.temperature).logits(inputs)
    probabilities = torch.softmax(calibrated.double(), 1)
    assert float(probabilities.max(1).values.mean()) == pytest.approx(0.9, abs=1e-3)
    assert float(probabilities.min(1).values.mean()) == pytest.approx(0.025, abs=1e-3)
