"""What is refused before any training starts, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgecompress.errors import DataError, InputError, TaskError, TeacherError
from edgecompress.tasks.checks import check_network, check_task, check_teacher_outputs
from edgecompress.tasks.task import Metric, Normalization, Split, Task

NAMES = ("cat", "dog", "owl")


def split(rows: int, seed: int) -> Split:
    draws = np.random.default_rng(seed)
    image = draws.normal(size=(rows, 1, 4, 4)).astype(np.float32)
    return Split({"image": image}, np.arange(rows) % len(NAMES))


def task() -> Task:
    return Task(
        name="pets",
        train=split(90, 1),
        validation=split(60, 2),
        test=split(60, 3),
        teacher=lambda: None,
        student=lambda: None,  # type: ignore[arg-type, return-value]
        class_names=NAMES,
    )


def with_labels(part: str, labels: object) -> Task:
    good = task()
    return replace(good, **{part: replace(getattr(good, part), labels=labels)})


def with_image(part: str, image: object) -> Task:
    good = task()
    return replace(good, **{part: replace(getattr(good, part), inputs={"image": image})})


def changed(values: np.ndarray, at: object, value: object) -> np.ndarray:
    copy = values.copy()
    copy[at] = value
    return copy


IMAGE, LABELS = split(60, 2).inputs["image"], np.arange(60) % 3

BAD: dict[str, tuple[Callable[[], Task], type[InputError], str]] = {
    "a metric by name": (
        lambda: replace(task(), metric="accuracy"),
        TaskError,
        "task 'pets': metric is 'accuracy'; expected a Metric, e.g. Metric(\"top 2\", per_sample), "
        "or leave it out for accuracy",
    ),
    "an estimator for its maker": (
        lambda: replace(task(), teacher=object()),
        TaskError,
        "teacher has type object; expected a function that takes nothing and returns it, e.g. lam",
    ),
    "a path for its maker": (
        lambda: replace(task(), teacher="teacher.onnx"),
        TaskError,
        "teacher has type str; expected a function that takes nothing and returns it",
    ),
    "a module for its maker": (
        lambda: replace(task(), student=nn.Linear(1, 1)),
        TaskError,
        "student has type Linear; expected a function that takes nothing and returns it",
    ),
    "normalization of nothing": (
        lambda: replace(task(), normalization={"imgae": Normalization()}),
        TaskError,
        "normalization of 'imgae'; the inputs are image; did you mean 'image'?",
    ),
    "no split": (
        lambda: replace(task(), test=None),
        TaskError,
        "task 'pets', test: is a NoneType; expected a Split(inputs={name: array}, labels=array)",
    ),
    "a tuple for a split": (
        lambda: replace(task(), train=(IMAGE, LABELS)),
        TaskError,
        "task 'pets', train: is a tuple; expected a Split",
    ),
    "no inputs": (
        lambda: replace(task(), validation=Split({}, LABELS)),
        DataError,
        "task 'pets', validation: has no inputs; expected a dict of at least one named array",
    ),
    "an empty split": (
        lambda: replace(task(), test=task().test.take(slice(0, 0))),
        DataError,
        "task 'pets', test: is empty; expected at least one sample",
    ),
    "a list for an array": (
        lambda: with_image("validation", IMAGE.tolist()),
        DataError,
        "validation, input 'image': is a list; expected a numpy array, e.g. np.asarray(...)",
    ),
    "a single number": (
        lambda: with_image("test", np.float32(1.0) * np.ones(())),
        DataError,
        "test, input 'image': is a float64; expected a numpy array",
    ),
    "no sample axis": (
        lambda: with_image("test", np.array(1.0, dtype=np.float32)),
        DataError,
        "test, input 'image': is a single number; expected an array with one row a sample",
    ),
    "double precision": (
        lambda: with_image("validation", IMAGE.astype(np.float64)),
        DataError,
        "input 'image': dtype float64 is not supported (expected one of float32, int8, int16, "
        "int32, int64, uint8, bool); convert with .astype(np.float32), in which the networks",
    ),
    "texts": (
        lambda: with_image("validation", np.full((60, 1), "grey")),
        DataError,
        "input 'image': dtype <U4 is not supported",
    ),
    "objects": (
        lambda: with_image("validation", np.full((60, 1), None)),
        DataError,
        "turn each value into a number",
    ),
    "complex numbers": (
        lambda: with_image("validation", IMAGE.astype(np.complex64)),
        DataError,
        "dtype complex64 is not supported",
    ),
    "more labels than samples": (
        lambda: with_labels("validation", np.arange(61) % 3),
        DataError,
        "validation: arrays hold different numbers of samples (image 60, labels 61); expected",
    ),
    "inputs of different length": (
        lambda: replace(
            task(),
            test=Split({"image": IMAGE, "age": np.zeros((59, 1), np.float32)}, LABELS),
        ),
        DataError,
        "test: arrays hold different numbers of samples (image 60, age 59, labels 60)",
    ),
    "a NaN": (
        lambda: with_image("validation", changed(IMAGE, (7, 0, 1, 1), np.nan)),
        DataError,
        "validation, input 'image': sample 7 holds a value that is not finite (NaN or infinity); "
        "remove the sample or fill the value in",
    ),
    "an infinity": (
        lambda: with_image("test", changed(split(60, 3).inputs["image"], (59, 0, 3, 3), np.inf)),
        DataError,
        "test, input 'image': sample 59 holds a value that is not finite",
    ),
    "other input names": (
        lambda: replace(task(), test=Split({"picture": IMAGE}, LABELS)),
        DataError,
        "test: inputs ['picture'] differ from train's ['image']; expected the same names in the",
    ),
    "another shape": (
        lambda: with_image("test", np.zeros((60, 1, 5, 4), np.float32)),
        DataError,
        "test, input 'image': samples are float32 (1, 5, 4) but train's are float32 (1, 4, 4); "
        "prepare all splits alike",
    ),
    "another dtype": (
        lambda: with_image("validation", np.zeros((60, 1, 4, 4), np.uint8)),
        DataError,
        "samples are uint8 (1, 4, 4) but train's are float32 (1, 4, 4)",
    ),
    "no labels": (
        lambda: with_labels("test", None),
        DataError,
        "test: has no labels; samples without labels belong in `unlabelled`",
    ),
    "a list of labels": (
        lambda: with_labels("test", LABELS.tolist()),
        DataError,
        "test: labels are a list; expected a numpy array of integers",
    ),
    "one-hot labels": (
        lambda: with_labels("validation", np.eye(3)[LABELS]),
        DataError,
        "validation: labels have shape (60, 3), as if one-hot; expected class indices of shape "
        "(60,), e.g. labels.argmax(axis=1)",
    ),
    "a column of labels": (
        lambda: with_labels("validation", LABELS[:, None]),
        DataError,
        "validation: labels have shape (60, 1); expected (60,), e.g. labels.reshape(-1)",
    ),
    "float labels": (
        lambda: with_labels("validation", LABELS.astype(np.float32)),
        DataError,
        "labels are float32; expected integers; convert with .astype(np.int64)",
    ),
    "labels as texts": (
        lambda: with_labels("validation", np.array(NAMES)[LABELS]),
        DataError,
        "labels are <U3; expected integers; encode each class as its index in class_names",
    ),
    "label -100": (
        lambda: with_labels("validation", changed(LABELS, 5, -100)),
        DataError,
        "validation: label -100 of sample 5; expected 0..2, the indices of the 3 class_names; "
        "samples without a label belong in `unlabelled`",
    ),
    "a label too high": (
        lambda: with_labels("test", changed(LABELS, 9, 3)),
        DataError,
        "test: label 3 of sample 9; expected 0..2, the indices of the 3 class_names; add the",
    ),
    "labels from one": (
        lambda: with_labels("train", np.arange(90) % 3 + 1),
        DataError,
        "expected 0..2, the indices of the 3 class_names; labels that count from 1 need `labels",
    ),
    "a negative label without names": (
        lambda: replace(with_labels("test", changed(LABELS, 9, -1)), class_names=()),
        DataError,
        "test: label -1 of sample 9; expected >= 0; samples without a label belong in",
    ),
    "a class nobody teaches": (
        lambda: with_labels("train", np.arange(90) % 2),
        DataError,
        "train: no sample of class 2 'owl'; what is never shown is never learned: add samples or",
    ),
    "one class": (
        lambda: replace(task(), class_names=("cat",)),
        TaskError,
        "class_names has one name ('cat'); expected at least two",
    ),
    "a name twice": (
        lambda: replace(task(), class_names=("cat", "dog", "cat")),
        TaskError,
        "class_names has 'cat' twice; expected one name a class",
    ),
    "numbers for names": (
        lambda: replace(task(), class_names=(0, 1, 2)),
        TaskError,
        "class_names must be a tuple of texts, one a class",
    ),
    "one text for the names": (
        lambda: replace(task(), class_names="abc"),
        TaskError,
        "class_names must be a tuple of texts, one a class",
    ),
    "test inside train": (
        lambda: replace(task(), test=task().train.take(slice(5, 65))),
        DataError,
        "task 'pets': train and test share 60 samples (train[5] is test[0]), 100 % of the",
    ),
    "validation is test": (
        lambda: replace(task(), test=task().validation),
        DataError,
        "validation and test share 60 samples (validation[0] is test[0])",
    ),
    "the pool holds the test": (
        lambda: replace(task(), unlabelled=Split(task().test.inputs)),
        DataError,
        "unlabelled and test share 60 samples (unlabelled[0] is test[0])",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_task_is_refused_in_one_line(name: str) -> None:
    make, kind, words = BAD[name]
    with pytest.raises(kind) as refusal:
        check_task(make())
    message = str(refusal.value)
    assert words in message
    assert message.startswith("task 'pets'")
    assert "\n" not in message


def test_good_task_passes_without_warnings() -> None:
    assert check_task(task()) == ()
    assert check_task(replace(task(), class_names=())) == ()
    assert check_task(replace(task(), unlabelled=Split(split(30, 4).inputs))) == ()


def test_class_may_make_a_network() -> None:
    assert check_task(replace(task(), teacher=nn.Identity, student=nn.Identity)) == ()


def test_pool_may_hold_training_samples() -> None:
    assert check_task(replace(task(), unlabelled=Split(task().train.inputs))) == ()


def test_class_missing_from_the_test_is_a_warning() -> None:
    (warning,) = check_task(with_labels("test", np.arange(60) % 2))
    assert warning == (
        "task 'pets', test: no sample of class 2 'owl'; its score says nothing about it"
    )


def test_single_shared_sample_is_a_warning() -> None:
    image = task().test.inputs["image"].copy()
    image[4] = task().train.inputs["image"][11]
    (warning,) = check_task(with_image("test", image))
    assert warning == (
        "task 'pets': train and test share 1 sample (train[11] is test[4]), 1.67 % of the "
        "smaller split; few enough to go on"
    )


def test_overlap_is_seen_over_all_inputs_together() -> None:
    def two(seed: int) -> Split:
        part = split(60, seed)
        return Split({**part.inputs, "kind": np.zeros((60, 1), np.int64)}, part.labels)

    assert check_task(replace(task(), train=two(1), validation=two(2), test=two(3))) == ()


def logits_of(answers: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[answers] * 4


def test_good_teacher_passes() -> None:
    check_teacher_outputs(task(), logits_of(LABELS))


def test_swapped_classes_are_named() -> None:
    with pytest.raises(TeacherError) as refusal:
        check_teacher_outputs(task(), logits_of(np.array([1, 0, 2])[LABELS]))
    assert str(refusal.value) == (
        "task 'pets', teacher: its classes come in another order than class_names: "
        "column 0 means 1 'dog', 1 means 0 'cat'; reorder its outputs"
    )


@given(st.permutations(range(6)), st.integers(0, 1000))
def test_every_other_order_is_refused(order: list[int], seed: int) -> None:
    labels = np.arange(120) % 6
    noisy = np.where(np.random.default_rng(seed).random(120) < 0.1, 0, labels)
    six = replace(
        task(),
        validation=Split({"x": np.zeros((120, 1), np.float32)}, labels),
        class_names=tuple("abcdef"),
    )
    logits = logits_of(np.array(order)[noisy], 6)
    if order == sorted(order):
        check_teacher_outputs(six, logits)
    else:
        with pytest.raises(TeacherError, match="another order"):
            check_teacher_outputs(six, logits)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.zeros((60, 1)), "output shape (60, 1) for 60 samples; expected (60, 3), one logit for"),
        (np.zeros((59, 3)), "output shape (59, 3) for 60 samples"),
        (np.zeros(60), "output shape (60,) for 60 samples"),
        (
            changed(logits_of(LABELS), (8, 2), np.nan),
            "its logits for validation sample 8 are not finite",
        ),
        (np.full((60, 3), 1 / 3), "its outputs are probabilities (every row sums to 1); expected"),
        (logits_of(np.zeros(60, int)), "its mean recall on validation is 33.3% where guessing"),
        (np.random.default_rng(0).normal(size=(60, 3)), "it has nothing to teach: train it"),
    ],
)
def test_bad_teacher_outputs_are_refused(logits: np.ndarray, words: str) -> None:
    with pytest.raises(TeacherError) as refusal:
        check_teacher_outputs(task(), logits)
    assert words in str(refusal.value)


def test_own_metric_judges_a_teacher_that_never_answers_a_rare_class() -> None:
    own = Metric("auc", lambda outputs, labels: np.ones(len(labels)))
    check_teacher_outputs(replace(task(), metric=own), logits_of(np.zeros(60, int)))


def test_student_with_too_few_outputs_is_refused() -> None:
    check_network(task(), "student", (4, 3), 4)
    with pytest.raises(TaskError) as refusal:
        check_network(task(), "student", (4, 2), 4)
    assert str(refusal.value) == (
        "task 'pets', student: output shape (4, 2) for 4 samples; "
        "expected (4, 3), one logit for each of the 3 classes"
    )
