"""The metrics of every kind of task: each sample earns its score, so that models can be paired.

Scores that belong to a whole set only (micro and macro F1, RMSE) have no place here: their paired
difference has no sample to stand on. Each of them has a neighbour below that has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Kind
from edgecompress.tasks.task import ACCURACY, IGNORED, Metric

NEAREST = 10
MOST_CANDIDATES = 4096
ROWS_AT_ONCE = 256

Floats = NDArray[np.float64]


def _right_side(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    return np.asarray((_rows(outputs)[:, 0] > 0) == labels, dtype=np.float64)


def _labels_right(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    right: Floats = ((outputs > 0) == labels).mean(axis=1, dtype=np.float64)
    return right


def _sample_f1(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return 2 |said and true| / (|said| + |true|); one where nothing is said of nothing."""
    said, true = outputs > 0, labels > 0
    both, total = (said & true).sum(axis=1), said.sum(axis=1) + true.sum(axis=1)
    return np.where(total > 0, 2.0 * both / np.maximum(total, 1), 1.0)


def _ranking_precision(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return, over a sample's true labels, the mean share of true ones among those ranked as high.

    Label ranking average precision (Tsoumakas, Katakis, Vlahavas 2010, "Mining Multi-label Data",
    section 34.7.2); a sample without true labels, or with all, is ranked right.
    """
    true, shares = labels > 0, np.zeros(outputs.shape)
    for label in range(outputs.shape[1]):
        as_high = outputs >= outputs[:, label : label + 1]
        shares[:, label] = (as_high & true).sum(axis=1) / as_high.sum(axis=1)
    counts = true.sum(axis=1)
    mean = (shares * true).sum(axis=1) / np.maximum(counts, 1)
    return np.where(counts > 0, mean, 1.0)


def _absolute_error(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    error: Floats = np.abs(_rows(outputs) - _rows(labels)).mean(axis=1)
    return error


def _squared_error(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    error: Floats = np.square(_rows(outputs) - _rows(labels)).mean(axis=1)
    return error


def _explained(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return 1 - squared error / variance of the labels, whose mean over samples is R squared.

    Of several values, the mean over them. A value that never varies counts as its error does,
    against a variance of one.
    """
    wide = _rows(labels)
    variance = wide.var(axis=0)
    variance = np.where(variance > 0, variance, 1.0)
    kept: Floats = 1 - (np.square(_rows(outputs) - wide) / variance).mean(axis=1)
    return kept


def _cosine(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    one, other = _rows(outputs), _rows(labels)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: Floats = (one * other).sum(axis=1) / np.maximum(lengths, 1e-12)
    return cosines


def _neighbours_kept(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return the share of each sample's nearest by label that are nearest by output too.

    Nearest by cosine, ten or as many as there are, among the samples scored: beyond 4,096, among
    at most so many of them, evenly spread. The widths may differ, for each side is compared with
    itself alone.
    """
    ours, theirs = _directions(outputs), _directions(labels)
    among = np.arange(0, len(ours), -(-len(ours) // MOST_CANDIDATES))
    count = min(NEAREST, len(among) - 1)
    if not count:
        return np.ones(len(ours))
    kept = np.empty(len(ours))
    for start in range(0, len(ours), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(ours)))
        near = [_nearest(side, rows, among, count) for side in (ours, theirs)]
        kept[rows] = (near[0] & near[1]).sum(axis=1) / count
    return kept


def _nearest(
    directions: Floats, rows: NDArray[np.intp], among: NDArray[np.intp], count: int
) -> NDArray[np.bool_]:
    """Return which of some samples are the nearest to those of some rows, (rows, among)."""
    alike = directions[rows] @ directions[among].T
    alike[rows[:, None] == among] = -np.inf
    near = np.zeros(alike.shape, dtype=bool)
    np.put_along_axis(near, np.argpartition(-alike, count - 1, axis=1)[:, :count], True, axis=1)
    return near


def _directions(vectors: NDArray[Any]) -> Floats:
    rows = _rows(vectors)
    lengths: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def _tokens_right(outputs: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return the share of a sample's counting tokens that are right."""
    count = (labels != IGNORED).reshape(len(labels), -1)
    right = (outputs.argmax(axis=1) == labels).reshape(len(labels), -1) & count
    shares: Floats = right.sum(axis=1) / np.maximum(count.sum(axis=1), 1)
    return shares


def _rows(values: NDArray[Any]) -> Floats:
    """Return values as rows of double precision, one a sample."""
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


BINARY_ACCURACY = Metric("accuracy", _right_side)
SAMPLE_F1 = Metric("sample F1", _sample_f1)
LABEL_ACCURACY = Metric("label accuracy", _labels_right)
RANKING_PRECISION = Metric("ranking precision", _ranking_precision)
R2 = Metric("R2", _explained)
ABSOLUTE_ERROR = Metric("absolute error", _absolute_error, higher_is_better=False)
SQUARED_ERROR = Metric("squared error", _squared_error, higher_is_better=False)
NEIGHBOURS = Metric("neighbours kept", _neighbours_kept)
COSINE = Metric("cosine", _cosine)
TOKEN_ACCURACY = Metric("token accuracy", _tokens_right)

METRICS: Mapping[Kind, tuple[Metric, ...]] = {
    "classification": (ACCURACY,),
    "binary": (BINARY_ACCURACY,),
    "multilabel": (SAMPLE_F1, LABEL_ACCURACY, RANKING_PRECISION),
    "regression": (R2, ABSOLUTE_ERROR, SQUARED_ERROR),
    "embedding": (COSINE, SQUARED_ERROR, NEIGHBOURS),
    "tokens": (TOKEN_ACCURACY,),
}
"""Which metrics suit which kind of task; the first is the one to begin with."""


def default_metric(kind: Kind) -> Metric:
    """Return the metric to begin with.

    >>> default_metric("regression").name
    'R2'
    """
    return METRICS[kind][0]
