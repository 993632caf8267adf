"""Labels and outputs of every kind of task are checked, and refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgecompress.errors import DataError, InputError, TaskError, TeacherError
from edgecompress.tasks.checks import check_network, check_task, check_teacher_outputs
from edgecompress.tasks.load import task_fingerprint
from edgecompress.tasks.scores import default_metric
from edgecompress.tasks.task import ACCURACY, IGNORED, Split, Task

DRAWS = np.random.default_rng(0)
TAGS = ("red", "round", "soft")


def labels(kind: str, rows: int, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed)
    match kind:
        case "binary":
            return draws.integers(0, 2, rows)
        case "multilabel":
            return draws.integers(0, 2, (rows, 3))
        case "regression":
            return draws.normal(20, 5, rows).astype(np.float32)
        case "embedding":
            return draws.normal(size=(rows, 8)).astype(np.float32)
        case _:
            found = draws.integers(0, 3, (rows, 6))
            found[:, 5] = IGNORED
            return found


def split(kind: str, rows: int, seed: int) -> Split:
    x = np.random.default_rng(100 + seed).normal(size=(rows, 4)).astype(np.float32)
    return Split({"x": x}, labels(kind, rows, seed))


def task(kind: str) -> Task:
    return Task(
        name="fruit",
        train=split(kind, 80, 1),
        validation=split(kind, 60, 2),
        test=split(kind, 60, 3),
        teacher=lambda: None,
        student=lambda: None,  # type: ignore[arg-type, return-value]
        class_names=TAGS if kind in ("multilabel", "tokens") else (),
        metric=default_metric(kind),  # type: ignore[arg-type]
        kind=kind,  # type: ignore[arg-type]
    )


def answers(kind: str) -> np.ndarray:
    """Return what a good teacher answers on validation."""
    known = labels(kind, 60, 2)
    match kind:
        case "binary":
            return (4.0 * known - 2)[:, None]
        case "multilabel":
            return 4.0 * known - 2
        case "regression":
            return known[:, None] + 1
        case "embedding":
            return 3 * known
        case _:
            return np.moveaxis(np.eye(3)[np.where(known < 0, 0, known)], -1, 1)


KINDS = ("binary", "multilabel", "regression", "embedding", "tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_good_tasks_and_teachers_pass(kind: str) -> None:
    assert check_task(task(kind)) == ()
    check_teacher_outputs(task(kind), answers(kind))
    check_network(task(kind), "student", answers(kind).shape, 60)
    assert task_fingerprint(task(kind), None)["kind"] == kind


def train_labels(kind: str, change: Callable[[np.ndarray], object], **also: object) -> Task:
    good = task(kind)
    return replace(good, train=replace(good.train, labels=change(good.train.labels)), **also)


def put(at: object, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(found: np.ndarray) -> np.ndarray:
        found = found.copy()
        found[at] = value
        return found

    return change


BAD: dict[str, tuple[Callable[[], Task], type[InputError], str]] = {
    "no such kind": (
        lambda: replace(task("binary"), kind="multi-label"),
        TaskError,
        "kind is 'multi-label'; expected one of classification, binary, multilabel, regression, "
        "embedding, tokens; did you mean 'multilabel'?",
    ),
    "accuracy of numbers": (
        lambda: replace(task("regression"), metric=ACCURACY),
        TaskError,
        "metric 'accuracy' is not for kind 'regression'; give metric = "
        "edgecompress.tasks.scores.default_metric('regression'), which is 'R2'",
    ),
    "names of numbers": (
        lambda: replace(task("regression"), class_names=TAGS),
        TaskError,
        "has 3 class_names, but kind 'regression' has no classes; leave them out",
    ),
    "three sides": (
        lambda: replace(task("binary"), class_names=TAGS),
        TaskError,
        "has 3 class_names; expected two for kind 'binary', those of label 0 and label 1",
    ),
    "a third side": (
        lambda: train_labels("binary", put(7, 2)),
        DataError,
        "train: label 2 of sample 7; expected 0..1, the indices of the 2 class_names; add the",
    ),
    "one side": (
        lambda: train_labels("binary", lambda y: y * 0),
        DataError,
        "train: no sample of class 1; what is never shown is never learned",
    ),
    "indices for columns": (
        lambda: train_labels("multilabel", lambda y: y[:, 0]),
        DataError,
        "train: labels have shape (80,); expected (80, 3), a column of 0 and 1 for each label",
    ),
    "a half label": (
        lambda: train_labels("multilabel", lambda y: put((4, 1), 0.5)(y.astype(float))),
        DataError,
        "train: labels of sample 4 are [",
    ),
    "a label never true": (
        lambda: train_labels("multilabel", lambda y: y * [1, 1, 0]),
        DataError,
        "train: no sample of class 2 'soft'",
    ),
    "texts for numbers": (
        lambda: train_labels("regression", lambda y: y.astype(str)),
        DataError,
        "expected numbers; convert with .astype(np.float32)",
    ),
    "a list of numbers": (
        lambda: train_labels("regression", lambda y: y.tolist()),
        DataError,
        "train: labels are a list; expected a numpy array of numbers",
    ),
    "no number": (
        lambda: train_labels("regression", put(3, np.nan)),
        DataError,
        "train: the label of sample 3 is not finite; remove the sample or correct it",
    ),
    "numbers of other shape": (
        lambda: train_labels("regression", lambda y: y[:, None]),
        DataError,
        "validation: labels have shape (60,); expected (samples,) or (samples, values), alike in",
    ),
    "a vector of one axis": (
        lambda: train_labels("embedding", lambda y: y[:, 0]),
        DataError,
        "train: labels have shape (80,); expected (samples, width), alike in every split",
    ),
    "tokens without an axis": (
        lambda: train_labels("tokens", lambda y: y[:, 0]),
        DataError,
        "expected integers with an axis of tokens, or of rows and columns of pixels, after that",
    ),
    "nothing counts": (
        lambda: train_labels("tokens", put(9, IGNORED)),
        DataError,
        "train: every label of sample 9 is -100, so nothing of it counts; leave it out, or put it",
    ),
    "a token of no class": (
        lambda: train_labels("tokens", put((5, 2), 3)),
        DataError,
        "train: label 3 of sample 5; expected 0..2, the indices of the 3 class_names",
    ),
    "a token below": (
        lambda: train_labels("tokens", put((5, 2), -1)),
        DataError,
        "train: label -1 of sample 5; expected 0..2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_task_is_refused_in_one_line(name: str) -> None:
    make, kind, words = BAD[name]
    with pytest.raises(kind) as refusal:
        check_task(make())
    message = str(refusal.value)
    assert message.startswith("task 'fruit'")
    assert words in message
    assert "\n" not in message


TEACHERS = {
    "binary": [
        (lambda y: y[:, 0], "output shape (60,) for 60 samples; expected (60, 1), one logit, tha"),
        (lambda y: 1 / (1 + np.exp(-y)), "its outputs are probabilities (all lie in 0..1); exp"),
        (lambda y: -y, "curve is 0.000 where guessing gives 0.5; the signs look turned round; it"),
    ],
    "multilabel": [
        (lambda y: y[:, :2], "expected (60, 3), one logit for each of the 3 labels"),
        (lambda y: DRAWS.permutation(y), "where guessing gives 0.5; it has nothing to teach: tra"),
        (lambda y: put((8, 1), np.inf)(y), "its logits for validation sample 8 are not finite"),
    ],
    "regression": [
        (lambda y: y / 1000, "where the labels' mean gives 0; it has nothing to teach: train it,"),
        (lambda y: y[:, [0, 0]], "expected (60, 1), one number for each of the 1 values"),
    ],
    "embedding": [(lambda y: -y, "its mean cosine with the labels is -1; it has nothing to te")],
    "tokens": [
        (lambda y: -y, "of its tokens are right where always giving the commonest class gives"),
        (lambda y: np.moveaxis(y, 1, -1), "one logit for each of the 3 classes, on the second ax"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "case"), [(k, i) for k, v in TEACHERS.items() for i in range(len(v))]
)
def test_bad_teacher_is_refused(kind: str, case: int) -> None:
    change, words = TEACHERS[kind][case]
    with pytest.raises(TeacherError) as refusal:
        check_teacher_outputs(task(kind), change(answers(kind)))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
