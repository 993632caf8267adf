"""What can be said of a network's answers beside its score, by kind of task: pure, on arrays.

`outputs` and `labels` are shaped as `Task` says of its kinds, the first axis being samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Kind
from edgecompress.tasks.metrics import calibration_gap, log_softmax
from edgecompress.tasks.scores import NEIGHBOURS
from edgecompress.tasks.task import IGNORED

Floats = NDArray[np.float64]


def has_classes(kind: Kind) -> bool:
    """Return whether answers of this kind are probabilities once they are through a softmax."""
    return kind not in ("regression", "embedding")


def sample_losses(kind: Kind, outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return each sample's loss, shape (samples,).

    With classes the negative log-likelihood in nats, a mean over a sample's labels or counting
    tokens; for regression the squared error, for embeddings one less the cosine.

    >>> sample_losses("classification", np.zeros((1, 4)), np.array([2])).round(4).tolist()
    [1.3863]
    >>> sample_losses("binary", np.zeros((1, 1)), np.array([1])).round(4).tolist()
    [0.6931]
    """
    match kind:
        case "classification":
            nats: Floats = -log_softmax(outputs)[np.arange(len(labels)), labels]
            return nats
        case "binary" | "multilabel":
            logits, told = _rows(outputs), _rows(labels)
            return _means(np.logaddexp(0.0, np.where(told > 0.5, -logits, logits)))
        case "tokens":
            places, counts = _told(labels)
            each = -np.take_along_axis(_classes_last(outputs), places[..., None], axis=-1)[..., 0]
            nats = (each * counts).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
            return nats
        case "regression":
            return _means(np.square(_rows(outputs) - _rows(labels)))
        case "embedding":
            one, other = _rows(outputs), _rows(labels)
            if one.shape != other.shape:  # a narrower student: of the same neighbours, or not
                return 1.0 - NEIGHBOURS.per_sample(one, other)
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            angles: Floats = 1.0 - (one * other).sum(axis=1) / np.maximum(lengths, 1e-12)
            return angles


def negative_log_likelihood(
    kind: Kind, outputs: NDArray[Any], labels: NDArray[Any]
) -> float | None:
    """Return the mean loss in nats; None without classes."""
    return float(sample_losses(kind, outputs, labels).mean()) if has_classes(kind) else None


def calibration_error(kind: Kind, outputs: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Return the expected calibration error over all answers; None without classes.

    Each label of a sample, and each of its counting tokens, is an answer. Of two classes the one
    held to be likelier is the answer.
    """
    match kind:
        case "regression" | "embedding":
            return None
        case "binary" | "multilabel":
            logits, told = _rows(outputs).ravel(), _rows(labels).ravel()
            sure = np.exp(-np.logaddexp(0.0, -np.abs(logits)))
            return calibration_gap(sure, (logits > 0) == (told > 0.5))
        case "classification":
            found, right = log_softmax(outputs), labels
        case "tokens":
            places, counts = _told(labels)
            found, right = _classes_last(outputs)[counts], places[counts]
    return calibration_gap(np.exp(found.max(axis=-1)), found.argmax(axis=-1) == right)


def agreement(
    kind: Kind, outputs: NDArray[Any], teacher: NDArray[Any], labels: NDArray[Any]
) -> float:
    """Return the share of answers that are the teacher's too; of numbers R2, of vectors the cosine.

    `labels` say which tokens count. An output of the teacher that never varies has no part in R2.

    >>> ours, theirs = np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([[0.1, 0.0], [1.0, 0.0]])
    >>> agreement("classification", ours, theirs, np.array([0, 0]))
    0.5
    >>> agreement("regression", np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]), np.zeros(2))
    0.5
    """
    match kind:
        case "classification":
            return _share(outputs.argmax(axis=1) == teacher.argmax(axis=1))
        case "binary" | "multilabel":
            return _share((_rows(outputs) > 0) == (_rows(teacher) > 0))
        case "tokens":
            return _share((outputs.argmax(axis=1) == teacher.argmax(axis=1))[labels != IGNORED])
        case "embedding":
            return float(1.0 - sample_losses(kind, outputs, teacher).mean())
        case "regression":
            ours, theirs = _rows(outputs), _rows(teacher)
            spread = theirs.var(axis=0)
            varies = spread > 0
            unlike = np.square(ours - theirs).mean(axis=0)[varies] / spread[varies]
            return float(1 - unlike.mean()) if varies.any() else 0.0


def _rows(values: NDArray[Any]) -> Floats:
    """Return values as rows of double precision, one a sample."""
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _means(values: Floats) -> Floats:
    found: Floats = values.mean(axis=1)
    return found


def _told(labels: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return token labels as rows, 0 where none counts, and which count."""
    rows = labels.reshape(len(labels), -1)
    counts: NDArray[np.bool_] = rows != IGNORED
    return np.where(counts, rows, 0), counts


def _classes_last(outputs: NDArray[Any]) -> Floats:
    """Return the log-probabilities of tokens as (samples, tokens, classes)."""
    flat = outputs.reshape(*outputs.shape[:2], -1)
    return log_softmax(np.moveaxis(flat, 1, -1))


def _share(same: NDArray[Any]) -> float:
    return float(np.mean(same)) if same.size else 0.0
