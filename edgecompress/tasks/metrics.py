"""Score outputs: a metric with its 95 % interval, and how far to trust a teacher's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError, TaskError
from edgecompress.records import Evaluation, SplitName
from edgecompress.records import Metric as Score
from edgecompress.statistics import mean_interval
from edgecompress.tasks.task import Metric

ECE_BINS = 15


@dataclass(frozen=True)
class TeacherQuality:
    """Hold how good a teacher's probabilities are; lower `nll` (nats) and `ece` are better."""

    accuracy: float
    nll: float
    ece: float


def first_non_finite(values: NDArray[Any]) -> int | None:
    """Return the first sample (row) that holds a NaN or an infinity, or None.

    >>> first_non_finite(np.array([[0.0, 1.0], [2.0, np.inf]]))
    1
    """
    if not np.issubdtype(values.dtype, np.inexact) or np.isfinite(values).all():
        return None
    return int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))


def evaluate(
    metric: Metric, outputs: NDArray[Any], labels: NDArray[Any], split: SplitName
) -> Evaluation:
    """Score `outputs`, shape (samples, ...), against `labels`, shape (samples,).

    The interval is Wilson's where every sample is either right or wrong, else that of a mean.
    Scores keep six significant digits, so that they are the same wherever they are written.
    Raises DataError for outputs that are not finite, TaskError for a metric that returns
    anything but one finite float a sample.
    """
    if len(outputs) != len(labels) or not len(labels):
        raise DataError(
            f"{split}: {len(outputs)} outputs for {len(labels)} labels; "
            "a score needs one output for each label, and at least one"
        )
    bad = first_non_finite(outputs)
    if bad is not None:
        raise DataError(
            f"{split}: the model's output for sample {bad} is not finite ({_short(outputs[bad])}); "
            "check the sample and the model's weights"
        )
    scores = _six_digits(_per_sample(metric, outputs, labels))
    value, low, high = mean_interval(scores)
    low, high = min(low, value), max(high, value)
    score = Score(metric.name, value, low, high, split, metric.higher_is_better)
    return Evaluation(score, tuple(scores.tolist()))


def teacher_quality(logits: NDArray[Any], labels: NDArray[Any]) -> TeacherQuality:
    """Return accuracy, negative log-likelihood and expected calibration error of `logits`.

    `logits` has shape (samples, classes).
    """
    log_probabilities = log_softmax(logits)
    top = log_probabilities.argmax(axis=1)
    confidence = np.exp(log_probabilities.max(axis=1))
    correct = (top == labels).astype(np.float64)
    return TeacherQuality(
        accuracy=float(correct.mean()),
        nll=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        ece=calibration_gap(confidence, correct),
    )


def calibration_gap(confidence: NDArray[Any], correct: NDArray[Any]) -> float:
    """Return the expected calibration error of answers, from how sure and how right each is.

    15 equal bins of the answer's probability; the gap between the share that is right and the mean
    probability, weighted by the bins' share of answers (Guo, Pleiss, Sun, Weinberger 2017,
    equation 3).

    >>> calibration_gap(np.array([0.9, 0.9]), np.array([1, 0]))
    0.4
    """
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the log-probabilities of logits along the last axis, in double precision.

    >>> np.exp(log_softmax(np.array([[200.0, -200.0]]))).tolist() == [[1.0, np.exp(-400)]]
    True
    """
    wide = np.asarray(logits, dtype=np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _per_sample(metric: Metric, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    try:
        scores = np.asarray(metric.per_sample(outputs, labels), dtype=np.float64)
    except (TypeError, ValueError, IndexError) as error:
        raise TaskError(
            f"metric {metric.name!r}: failed on outputs {outputs.shape} and labels "
            f"{labels.shape}: {type(error).__name__}: {_short(error)}"
        ) from error
    if scores.shape != labels.shape[:1]:
        raise TaskError(
            f"metric {metric.name!r}: returned shape {scores.shape} for {len(labels)} samples; "
            f"expected ({len(labels)},), one float a sample"
        )
    bad = first_non_finite(scores)
    if bad is not None:
        raise TaskError(
            f"metric {metric.name!r}: the score of sample {bad} is {scores[bad]}; "
            "expected a finite float"
        )
    return scores


def _six_digits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([float(f"{score:.6g}") for score in scores])


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
