"""Refuse data that would train in silence and mislead: checked before any training, without torch.

Each refusal is one line that names the split, the input and the sample, and says what to do.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from edgecompress.errors import DataError, TaskError, TeacherError
from edgecompress.settings import did_you_mean
from edgecompress.store import row_digests
from edgecompress.tasks.metrics import first_non_finite
from edgecompress.tasks.scores import NEIGHBOURS
from edgecompress.tasks.skill import check_skill
from edgecompress.tasks.targets import (
    check_kind,
    check_labels,
    class_count,
    class_label,
    labels_of,
    missing_classes,
    one_output_for_each,
    output_shape_of,
)
from edgecompress.tasks.task import ACCURACY, Metric, Split, Task
from edgecompress.tasks.tokenizers import Tokenizer

# What both the training library and ONNX Runtime take as an input without a cast.
INPUT_DTYPES = ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")

# Public data sets often hold a few exact duplicates, also across their official splits: up to this
# share of the smaller split is a warning, more is a leak.
OVERLAP_LIMIT = 0.01

# A teacher must go at least this share of the way from guessing to perfect.
LEAST_SKILL = 0.05


def check_task(task: Task) -> tuple[str, ...]:
    """Check every split of a task and return the warnings, each one line.

    Raises TaskError for what the task declares, DataError for samples and labels.
    """
    check_samples(task)
    splits = dict(_splits(task))
    warnings = []
    for name, split in splits.items():
        if name != "unlabelled":
            check_labels(f"task {task.name!r}, {name}", split, task)
            warnings += missing_classes(task, name, split)
    return (*warnings, *_check_overlaps(task, splits))


def unlabelled_splits(task: Task) -> dict[str, Split]:
    """Return those of train, validation and test that have no labels, by name."""
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    return {k: s for k, s in splits.items() if isinstance(s, Split) and s.labels is None}


def check_samples(task: Task) -> None:
    """Check what a task declares and its samples, whatever their labels; raise as `check_task`."""
    _check_declarations(task)
    splits = dict(_splits(task))
    for name, split in splits.items():
        _check_split(f"task {task.name!r}, {name}", split)
        if name != "train":
            _check_same_inputs(f"task {task.name!r}, {name}", split, task.train)
    _check_class_names(task)
    _check_normalization(task)
    _check_tokenizer(task)


def check_teacher_outputs(task: Task, logits: NDArray[Any]) -> None:
    """Check what a teacher answers to the validation split, shaped as the task's kind says.

    Raises TeacherError when it has another shape, is not finite, holds probabilities in the place
    of logits, or is barely better than guessing (with classes: where the metric is accuracy); and
    for classes in another order.
    """
    labels = labels_of(task.validation)
    check_network(task, "teacher", logits.shape, len(labels))
    bad = first_non_finite(logits)
    if bad is not None:
        raise TeacherError(
            f"task {task.name!r}, teacher: its logits for validation sample {bad} are not finite; "
            "check that sample and the teacher's weights"
        )
    if task.kind != "classification":
        check_skill(task, logits, labels)
        return
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise TeacherError(
            f"task {task.name!r}, teacher: its outputs are probabilities (every row sums to 1); "
            "expected logits, or a temperature flattens them to nothing: take its softmax off"
        )
    classes = class_count(task)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (logits.argmax(axis=1), labels), 1)
    _check_class_order(task, confusion)
    if task.metric is ACCURACY:
        _check_skill(task, confusion)


def check_network(task: Task, network: str, output_shape: tuple[int, ...], samples: int) -> None:
    """Check the shape that a network (`teacher`, `student`) gave for `samples` samples.

    Raises TeacherError or TaskError: one output for each class, label or value, or training would
    broadcast.
    """
    expected = output_shape_of(task, samples)
    if tuple(output_shape) == expected:
        return
    narrower = task.kind == "embedding" and network != "teacher" and len(output_shape) == 2
    narrower = narrower and output_shape[0] == samples and 0 < output_shape[1] < expected[1]
    if narrower and task.metric is NEIGHBOURS:
        return
    error = TeacherError if network == "teacher" else TaskError
    raise error(
        f"task {task.name!r}, {network}: output shape {tuple(output_shape)} for {samples} samples; "
        f"expected {expected}, {one_output_for_each(task)}{_NARROWER if narrower else ''}"
    )


_NARROWER = (
    "; of a narrower student take metric = NEIGHBOURS, which compares vectors of any width, or "
    '[distill] narrow_by = "pca"'
)


def _check_declarations(task: Task) -> None:
    if not isinstance(task.metric, Metric):
        raise TaskError(
            f"task {task.name!r}: metric is {task.metric!r}; expected a Metric, e.g. "
            'Metric("top 2", per_sample), or leave it out for accuracy'
        )
    check_kind(task)
    for name in ("teacher", "student") if task.student is not None else ("teacher",):
        make = inspect.unwrap(getattr(task, name))
        # A torch module can be called too, but to answer, not to be made.
        if not callable(make) or (hasattr(make, "state_dict") and not isinstance(make, type)):
            raise TaskError(
                f"task {task.name!r}: {name} has type {type(make).__name__}; expected a function "
                f"that takes nothing and returns it, e.g. lambda: my_{name}"
            )


def _check_normalization(task: Task) -> None:
    unknown = sorted(set(task.normalization) - set(task.train.inputs))
    if unknown:
        raise TaskError(
            f"task {task.name!r}: normalization of {unknown[0]!r}; the inputs are "
            f"{', '.join(task.train.inputs)}{did_you_mean(unknown[0], task.train.inputs)}"
        )


def _check_tokenizer(task: Task) -> None:
    if task.tokenizer is None:
        return
    if not isinstance(task.tokenizer, Tokenizer):
        raise TaskError(
            f"task {task.name!r}: its tokenizer is a {type(task.tokenizer).__name__}; expected "
            "HashedWords or WordPieces of edgecompress.tasks.tokenizers, which are data"
        )
    name, made = task.tokenizer.name, (task.tokenizer.length,)
    given = task.train.inputs.get(name)
    if given is None or given.shape[1:] != made or given.dtype != np.int64:
        found = "is not among them" if given is None else f"is {given.dtype} {given.shape[1:]}"
        raise TaskError(
            f"task {task.name!r}: its tokenizer makes int64 {made} of the name {name!r}; of the "
            f"inputs {', '.join(task.train.inputs)}, this {found}; encode all splits with it"
        )


def _splits(task: Task) -> Iterator[tuple[str, Split]]:
    parts = {
        "train": task.train,
        "validation": task.validation,
        "test": task.test,
        "unlabelled": task.unlabelled,
    }
    for name, split in parts.items():
        if split is None and name == "unlabelled":
            continue
        if not isinstance(split, Split):
            raise TaskError(
                f"task {task.name!r}, {name}: is a {type(split).__name__}; "
                "expected a Split(inputs={name: array}, labels=array)"
            )
        yield name, split


def _check_split(where: str, split: Split) -> None:
    if not split.inputs:
        raise DataError(f"{where}: has no inputs; expected a dict of at least one named array")
    for name, array in split.inputs.items():
        _check_array(f"{where}, input {name!r}", array)
    sizes = {name: len(array) for name, array in split.inputs.items()}
    if split.labels is not None:
        sizes["labels"] = len(np.atleast_1d(split.labels))
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(
            f"{where}: arrays hold different numbers of samples ({listed}); "
            "expected one row of each for every sample"
        )
    if not next(iter(sizes.values())):
        raise DataError(f"{where}: is empty; expected at least one sample")


def _check_array(where: str, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{where}: is a {type(array).__name__}; expected a numpy array, e.g. np.asarray(...)"
        )
    if array.ndim == 0:
        raise DataError(f"{where}: is a single number; expected an array with one row a sample")
    if array.dtype.name not in INPUT_DTYPES:
        remedy = (
            "convert with .astype(np.float32), in which the networks compute"
            if array.dtype.kind == "f"
            else "turn each value into a number"
            if array.dtype.kind in "OSUMm"
            else "convert to int64 or float32"
        )
        raise DataError(
            f"{where}: dtype {array.dtype} is not supported (expected one of "
            f"{', '.join(INPUT_DTYPES)}); {remedy}"
        )
    bad = first_non_finite(array)
    if bad is not None:
        raise DataError(
            f"{where}: sample {bad} holds a value that is not finite (NaN or infinity); "
            "remove the sample or fill the value in"
        )


def _check_same_inputs(where: str, split: Split, train: Split) -> None:
    if list(split.inputs) != list(train.inputs):
        raise DataError(
            f"{where}: inputs {list(split.inputs)} differ from train's {list(train.inputs)}; "
            "expected the same names in the same order"
        )
    for name, array in split.inputs.items():
        expected = train.inputs[name]
        if array.dtype != expected.dtype or array.shape[1:] != expected.shape[1:]:
            raise DataError(
                f"{where}, input {name!r}: samples are {array.dtype} {array.shape[1:]} but train's "
                f"are {expected.dtype} {expected.shape[1:]}; prepare all splits alike"
            )


def _check_class_names(task: Task) -> None:
    names = task.class_names
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TaskError(f"task {task.name!r}: class_names must be a tuple of texts, one a class")
    if len(names) == 1:
        raise TaskError(
            f"task {task.name!r}: class_names has one name ({names[0]!r}); expected at least two"
        )
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise TaskError(
            f"task {task.name!r}: class_names has {twice[0]!r} twice; expected one name a class"
        )


def _check_overlaps(task: Task, splits: dict[str, Split]) -> list[str]:
    """Refuse splits that share samples, beyond the few that official splits share."""
    first_rows = {name: _first_rows(split) for name, split in splits.items()}
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    if "unlabelled" in splits:
        pairs += [("unlabelled", "validation"), ("unlabelled", "test")]
    warnings = []
    for left, right in pairs:
        shared = first_rows[left].keys() & first_rows[right].keys()
        if not shared:
            continue
        smaller = min(len(splits[left]), len(splits[right]))
        row, other = min((first_rows[right][key], first_rows[left][key]) for key in shared)
        line = (
            f"task {task.name!r}: {left} and {right} share {len(shared)} "
            f"sample{'s' if len(shared) > 1 else ''} ({left}[{other}] is {right}[{row}]), "
            f"{100 * len(shared) / smaller:.3g} % of the smaller split"
        )
        if len(shared) > max(1.0, OVERLAP_LIMIT * smaller):
            raise DataError(
                f"{line}, more than {100 * OVERLAP_LIMIT:g} %: scores would be of samples seen in "
                "training; take them out with edgecompress.tasks.loaders.drop_shared"
            )
        warnings.append(f"{line}; few enough to go on")
    return warnings


def _first_rows(split: Split) -> dict[bytes, int]:
    """Return the first row at which each distinct sample stands."""
    rows: dict[bytes, int] = {}
    for row, digest in enumerate(sample_digests(split)):
        rows.setdefault(digest, row)
    return rows


def sample_digests(split: Split) -> Iterator[bytes]:
    """Yield one digest a sample over all its inputs, in the order of their names."""
    return row_digests(split.inputs)


def _check_class_order(task: Task, confusion: NDArray[np.int64]) -> None:
    """Refuse a teacher that answers well, but under other numbers.

    The assignment of its columns to classes that agrees best with the labels is compared with the
    identity on the classes that it moves; ten samples more must agree, so that noise is no order.
    """
    columns, best = linear_sum_assignment(-confusion)
    moved = [(int(c), int(b)) for c, b in zip(columns, best, strict=True) if c != b]
    samples = sum(int(confusion[:, c].sum()) for c, _ in moved)
    if not samples:
        return
    agreeing = sum(int(confusion[c, b]) for c, b in moved)
    gain = agreeing - sum(int(confusion[c, c]) for c, _ in moved)
    if gain >= 10 and agreeing > samples / 2 and gain > samples / 4:
        listed = ", ".join(f"{c} means {class_label(task, b)}" for c, b in moved[:4])
        raise TeacherError(
            f"task {task.name!r}, teacher: its classes come in another order than class_names: "
            f"column {listed}{', ...' if len(moved) > 4 else ''}; reorder its outputs"
        )


def _check_skill(task: Task, confusion: NDArray[np.int64]) -> None:
    """Refuse a teacher that guesses: mean recall within two standard errors of chance."""
    counts = confusion.sum(axis=0)
    seen = counts > 0
    recall = float((np.diag(confusion)[seen] / counts[seen]).mean())
    chance = 1 / len(counts)
    error = np.sqrt((chance * (1 - chance) / counts[seen]).sum()) / seen.sum()
    least = chance + max(2 * error, LEAST_SKILL * (1 - chance))
    if recall < least:
        raise TeacherError(
            f"task {task.name!r}, teacher: its mean recall on validation is {recall:.1%} where "
            f"guessing gives {chance:.1%}; it has nothing to teach: train it (a [teacher] section "
            "in the recipe does) or check that its inputs are prepared as it expects"
        )
