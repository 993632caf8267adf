"""What labels and outputs look like in each kind of task, and refusals of what does not.

Each refusal is one line that names the split and the sample, and says what to do.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError, TaskError
from edgecompress.records import Kind
from edgecompress.settings import did_you_mean
from edgecompress.tasks.metrics import first_non_finite
from edgecompress.tasks.scores import METRICS, default_metric
from edgecompress.tasks.task import IGNORED, Split, Task


def class_count(task: Task) -> int:
    """Return the number of classes or labels: of the names, or else as training shows them."""
    labels = labels_of(task.train)
    match task.kind:
        case "binary":
            return 2
        case "multilabel":
            return int(labels.shape[1])
        case _:
            return len(task.class_names) or int(labels.max()) + 1


def output_shape_of(task: Task, samples: int) -> tuple[int, ...]:
    """Return the shape of what a network must return for so many samples."""
    labels = labels_of(task.train)
    match task.kind:
        case "classification":
            return (samples, class_count(task))
        case "tokens":
            return (samples, class_count(task), *labels.shape[1:])
        case _:
            return (samples, int(labels.shape[1]) if labels.ndim > 1 else 1)


def one_output_for_each(task: Task) -> str:
    """Return in words what a network's outputs are."""
    count = output_shape_of(task, 1)[1]
    match task.kind:
        case "classification":
            return f"one logit for each of the {count} classes"
        case "binary":
            return "one logit, that of label 1"
        case "multilabel":
            return f"one logit for each of the {count} labels"
        case "tokens":
            return f"one logit for each of the {count} classes, on the second axis"
        case _:
            return f"one number for each of the {count} values"


def check_kind(task: Task) -> None:
    """Refuse a kind that there is not, and accuracy as the metric of a task without classes."""
    kinds = get_args(Kind)
    if task.kind not in kinds:
        near = did_you_mean(str(task.kind), kinds)
        raise TaskError(
            f"task {task.name!r}: kind is {task.kind!r}; expected one of {', '.join(kinds)}{near}"
        )
    foreign = {metric for known in METRICS.values() for metric in known} - {*METRICS[task.kind]}
    if task.metric in foreign:
        name = default_metric(task.kind).name
        raise TaskError(
            f"task {task.name!r}: metric {task.metric.name!r} is not for kind {task.kind!r}; give "
            f"metric = edgecompress.tasks.scores.default_metric({task.kind!r}), which is {name!r}"
        )
    names = len(task.class_names)
    if task.kind in ("regression", "embedding") and names:
        raise TaskError(
            f"task {task.name!r}: has {names} class_names, but kind {task.kind!r} has no classes; "
            "leave them out"
        )
    if task.kind == "binary" and names not in (0, 2):
        raise TaskError(
            f"task {task.name!r}: has {names} class_names; expected two for kind 'binary', those "
            "of label 0 and label 1"
        )


def check_labels(where: str, split: Split, task: Task) -> None:
    """Check the labels of one split against the task's kind; raise DataError."""
    labels = split.labels
    if labels is None:
        raise DataError(f"{where}: has no labels; samples without labels belong in `unlabelled`")
    if not isinstance(labels, np.ndarray):
        what = "numbers" if task.kind in ("regression", "embedding") else "integers"
        raise DataError(
            f"{where}: labels are a {type(labels).__name__}; expected a numpy array of {what}"
        )
    match task.kind:
        case "classification":
            _check_classes(where, labels, task.class_names)
        case "binary":
            _check_classes(where, labels, task.class_names or ("0", "1"))
        case "multilabel":
            _check_multilabel(where, labels, task)
        case "tokens":
            _check_tokens(where, labels, task)
        case _:
            _check_numbers(where, labels, task)


def _check_classes(where: str, labels: NDArray[Any], class_names: tuple[str, ...]) -> None:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"{where}: labels have shape {labels.shape}, as if one-hot; expected class indices of "
            f"shape ({len(labels)},), e.g. labels.argmax(axis=1)"
        )
    if labels.ndim != 1:
        raise DataError(
            f"{where}: labels have shape {labels.shape}; expected ({len(labels)},), "
            "e.g. labels.reshape(-1)"
        )
    if labels.dtype.kind not in "iu":
        remedy = (
            "encode each class as its index in class_names"
            if labels.dtype.kind in "OSU"
            else "convert with .astype(np.int64)"
        )
        raise DataError(f"{where}: labels are {labels.dtype}; expected integers; {remedy}")
    _check_label_range(where, labels, class_names)


def _check_multilabel(where: str, labels: NDArray[Any], task: Task) -> None:
    width = len(task.class_names) or (labels.shape[1] if labels.ndim == 2 else 0)
    if labels.ndim != 2 or labels.shape[1] != width or not width:
        expected = f"({len(labels)}, {width or 'labels'})"
        raise DataError(
            f"{where}: labels have shape {labels.shape}; expected {expected}, a column of 0 and 1 "
            "for each label"
        )
    odd = ~np.isin(labels, (0, 1)).all(axis=1)
    if odd.any() or labels.dtype.kind not in "iubf":
        sample = int(np.argmax(odd))
        raise DataError(
            f"{where}: labels of sample {sample} are {labels[sample][:6].tolist()}; expected 0 or "
            "1 in each column"
        )


def _check_tokens(where: str, labels: NDArray[Any], task: Task) -> None:
    if labels.ndim < 2 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels are {labels.dtype} of shape {labels.shape}; expected integers with "
            "an axis of tokens, or of rows and columns of pixels, after that of samples"
        )
    counting = labels != IGNORED
    empty = ~counting.reshape(len(labels), -1).any(axis=1)
    if empty.any():
        raise DataError(
            f"{where}: every label of sample {int(np.argmax(empty))} is {IGNORED}, so nothing of "
            "it counts; leave it out, or put it in `unlabelled`"
        )
    rows = np.where(counting, labels, 0).reshape(len(labels), -1)
    worst = np.where((rows < 0).any(axis=1), rows.min(axis=1), rows.max(axis=1))
    _check_label_range(where, worst, task.class_names)


def _check_numbers(where: str, labels: NDArray[Any], task: Task) -> None:
    if labels.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: labels are {labels.dtype}; expected numbers; convert with "
            ".astype(np.float32)"
        )
    axes = (2,) if task.kind == "embedding" else (1, 2)
    if labels.ndim not in axes or labels.shape[1:] != labels_of(task.train).shape[1:]:
        form = "(samples, width)" if task.kind == "embedding" else "(samples,) or (samples, values)"
        raise DataError(
            f"{where}: labels have shape {labels.shape}; expected {form}, alike in every split"
        )
    bad = first_non_finite(labels)
    if bad is not None:
        raise DataError(
            f"{where}: the label of sample {bad} is not finite; remove the sample or correct it"
        )


def _check_label_range(where: str, labels: NDArray[Any], class_names: tuple[str, ...]) -> None:
    classes = len(class_names)
    outside = (labels < 0) | ((labels >= classes) if classes else False)
    if not outside.any():
        return
    bad = int(np.argmax(outside))
    expected = f"0..{classes - 1}, the indices of the {classes} class_names" if classes else ">= 0"
    remedy = (
        "labels that count from 1 need `labels - 1`"
        if labels.min() == 1 and labels.max() == classes
        else "samples without a label belong in `unlabelled`"
        if labels[bad] < 0
        else "add the missing names or correct the labels"
    )
    raise DataError(f"{where}: label {labels[bad]} of sample {bad}; expected {expected}; {remedy}")


def missing_classes(task: Task, name: str, split: Split) -> list[str]:
    """Refuse a class that nothing teaches; return lines on those that are never asked for."""
    if task.kind in ("regression", "embedding"):
        return []
    present = np.bincount(_said(task, split), minlength=class_count(task)) > 0
    missing = [class_label(task, int(i)) for i in np.flatnonzero(~present)]
    if not missing:
        return []
    line = f"task {task.name!r}, {name}: no sample of class {', '.join(missing[:5])}"
    line += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    if name == "train":
        raise DataError(
            f"{line}; what is never shown is never learned: add samples or drop it from class_names"
        )
    return [f"{line}; its score says nothing about {'it' if len(missing) == 1 else 'them'}"]


def _said(task: Task, split: Split) -> NDArray[np.intp]:
    """Return all class indices that the labels hold, of all samples together."""
    labels = labels_of(split)
    match task.kind:
        case "multilabel":
            return np.nonzero(labels)[1]
        case "tokens":
            return np.asarray(labels[labels != IGNORED], dtype=np.intp)
        case _:
            return np.asarray(labels, dtype=np.intp)


def class_label(task: Task, index: int) -> str:
    """Return a class's number, and its name where there is one."""
    return f"{index} {task.class_names[index]!r}" if task.class_names else str(index)


def labels_of(split: Split) -> NDArray[Any]:
    """Return the labels of a split that must have some."""
    if split.labels is None:
        raise DataError("a split without labels cannot be scored; expected labels")
    return split.labels
