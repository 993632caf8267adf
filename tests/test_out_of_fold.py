"""Out-of-fold soft targets: no answer on a training row comes from a copy that saw it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from tiny_lessons import CLASSES, blobs, dense, split

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.certainty import certainty_as_taught, certainty_of
from edgecompress.distilling.choice import DISTILLED, PSEUDO
from edgecompress.errors import TeacherError
from edgecompress.recipe import DistillSettings
from edgecompress.store import row_digests
from edgecompress.teachers.adapters import as_teacher, fingerprint, predict_logits
from edgecompress.teachers.mixtures import Ensemble
from edgecompress.teachers.out_of_fold import OutOfFold, deal

NAMES = ("a", "b", "c")
TRAIN, OTHER = split(60, 0), split(40, 1)


class Rote:
    """Know by heart the rows it was fitted on, and guess class 0 elsewhere."""

    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        self.known = {row.tobytes(): label for row, label in zip(rows, labels, strict=True)}
        return self

    def predict_proba(self, rows):
        return np.eye(CLASSES)[[self.known.get(row.tobytes(), 0) for row in rows]]


def source(estimator, folds=5, seed=0):
    return OutOfFold(estimator, TRAIN.inputs, TRAIN.labels, folds, seed)


def test_what_was_learned_by_heart_is_not_told():
    by_heart = as_teacher(Rote().fit(TRAIN.inputs["x"], TRAIN.labels), NAMES)
    assert (predict_logits(by_heart, TRAIN.inputs).argmax(1) == TRAIN.labels).all()
    held_out = as_teacher(source(Rote()), NAMES)
    assert (predict_logits(held_out, TRAIN.inputs).argmax(1) == 0).all()


def test_an_answer_belongs_to_a_row_wherever_it_stands():
    teacher = as_teacher(source(KNeighborsClassifier(7)), NAMES)
    whole = as_teacher(KNeighborsClassifier(7).fit(TRAIN.inputs["x"], TRAIN.labels), NAMES)
    order = np.random.default_rng(0).permutation(60)
    straight = predict_logits(teacher, TRAIN.inputs)
    np.testing.assert_array_equal(
        predict_logits(teacher, TRAIN.take(order).inputs), straight[order]
    )
    mixed = {"x": np.concatenate([OTHER.inputs["x"], TRAIN.inputs["x"]])}
    answer = predict_logits(teacher, mixed)
    np.testing.assert_array_equal(answer[40:], straight)
    np.testing.assert_array_equal(answer[:40], predict_logits(whole, OTHER.inputs))


def test_each_fold_is_answered_by_the_fit_on_the_others():
    teacher = as_teacher(source(KNeighborsClassifier(7), folds=3, seed=4), NAMES)
    answer = predict_logits(teacher, TRAIN.inputs)
    fold = deal(list(row_digests(TRAIN.inputs)), TRAIN.labels, 3, 4)
    x = TRAIN.inputs["x"]
    for part in range(3):
        copy = KNeighborsClassifier(7).fit(x[fold != part], TRAIN.labels[fold != part])
        expected = predict_logits(as_teacher(copy, NAMES), {"x": x[fold == part]})
        np.testing.assert_array_equal(answer[fold == part], expected)


def test_the_estimator_given_stays_unfitted():
    forest = RandomForestClassifier(5)
    as_teacher(source(forest, folds=2), NAMES)
    assert not hasattr(forest, "classes_")


def test_a_forests_targets_become_soft():
    """In sample a forest is far surer of training rows than of others; out of fold just as sure."""
    data = load_digits()
    x, y = data.data.astype(np.float32), data.target
    forest = RandomForestClassifier(30, random_state=0)
    names = tuple(map(str, range(10)))

    def certainty(teacher, rows):
        logits = torch.from_numpy(predict_logits(teacher, {"x": rows}))
        return float(torch.softmax(logits, 1).amax(1).mean())

    in_sample = as_teacher(forest.fit(x[:900], y[:900]), names)
    out_of_fold = as_teacher(OutOfFold(forest, {"x": x[:900]}, y[:900]), names)
    unseen = certainty(in_sample, x[900:])
    assert certainty(in_sample, x[:900]) > unseen + 0.1
    assert abs(certainty(out_of_fold, x[:900]) - unseen) < 0.05
    assert certainty(out_of_fold, x[900:]) == unseen


def test_certainty_is_judged_by_what_the_student_hears():
    task = replace(blobs(), train=TRAIN, validation=OTHER)
    teacher = as_teacher(source(KNeighborsClassifier(7)), NAMES)
    outputs = predict_logits(teacher, OTHER.inputs)
    heard = predict_logits(teacher, TRAIN.inputs)
    note = certainty_as_taught(task, teacher, outputs).note(True)
    assert note.startswith("the teacher on training samples, out of fold: accuracy")
    on_those = certainty_of(replace(task, validation=TRAIN), heard).note(True)
    assert note.partition(":")[2] == on_those.partition(":")[2]
    on_validation = certainty_of(task, outputs).note(True)
    for other in (replace(task, train=OTHER), replace(task, train=split(90, 7))):
        assert certainty_as_taught(other, teacher, outputs).note(True) == on_validation
    whole = as_teacher(KNeighborsClassifier(7).fit(TRAIN.inputs["x"], TRAIN.labels), NAMES)
    assert certainty_as_taught(task, whole, outputs).note(True) == on_validation


@pytest.mark.parametrize("wrapped", [False, True])
def test_samples_that_are_changed_have_no_fold(wrapped):
    task = replace(blobs(), train=TRAIN, unlabelled=OTHER)
    held_out = source(KNeighborsClassifier(7))
    teacher = as_teacher(Ensemble([held_out]) if wrapped else held_out, NAMES)
    quick = DistillSettings(epochs=1, precision="fp32")
    train_arm(DISTILLED, dense(1, 8), task, quick, teacher=teacher)
    augmented = replace(task, augment=lambda batch, generator: {"x": batch["x"] + 0.1})
    mixing = quick.model_copy(update={"mixing": "munge"})
    for given_task, settings in ((augmented, quick), (task, mixing)):
        with pytest.raises(TeacherError, match="would be answered by the fit that saw them; leave"):
            train_arm(DISTILLED, dense(1, 8), given_task, settings, teacher=teacher)
        train_arm(PSEUDO, dense(1, 8), given_task, settings, teacher=teacher)


def test_other_folds_are_another_teacher():
    prints = {fingerprint(as_teacher(source(KNeighborsClassifier(7), 5, s), NAMES)) for s in (0, 1)}
    assert len(prints) == 2
    again = {fingerprint(as_teacher(source(KNeighborsClassifier(7)), NAMES)) for _ in range(2)}
    assert len(again) == 1


rows_and_labels = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=40)


@given(rows_and_labels, st.integers(2, 6), st.integers(0, 5))
def test_rows_are_dealt_out(rows, folds, seed):
    keys, labels = [bytes([key]) for key, _ in rows], np.array([label for _, label in rows])
    fold = deal(keys, labels, folds, seed)
    assert fold.min() >= -1
    assert fold.max() < folds
    np.testing.assert_array_equal(fold, deal(keys, labels, folds, seed))
    for part in range(folds):
        held = fold == part
        if held.any():  # whoever answers for them knows every class, and none of the rows by heart
            assert set(labels[held]) <= set(labels[~held])
            twins = {key for key, is_held in zip(keys, held, strict=True) if is_held}
            others = {key for key, f in zip(keys, fold, strict=True) if f not in (part, -1)}
            assert not twins & others


@given(st.integers(2, 6), st.lists(st.integers(2, 30), min_size=1, max_size=4))
def test_each_class_is_spread_over_the_folds(folds, sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    fold = deal([bytes([i]) for i in range(len(labels))], labels, folds, 0)
    for value, size in enumerate(sizes):
        counts = np.bincount(fold[labels == value], minlength=folds)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == size


def test_numbers_are_dealt_out_too():
    fold = deal([bytes([i]) for i in range(10)], np.linspace(0, 1, 10), 5, 0)
    np.testing.assert_array_equal(np.bincount(fold), [2] * 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (OutOfFold(object(), TRAIN.inputs, TRAIN.labels), r"object, which has no method fit"),
        (source(Rote(), folds=1), r"folds = 1; expected 2 or more"),
        (
            OutOfFold(Rote(), TRAIN.inputs, TRAIN.labels[:9]),
            r"60 samples and 9 labels; expected the inputs and labels of one split",
        ),
        (
            source(KNeighborsClassifier(-1)),
            r"KNeighborsClassifier\.fit failed on 60 rows of 4 numbers: InvalidParameterError",
        ),
    ],
)  # fmt: skip
def test_refusals(spec, message):
    with pytest.raises(TeacherError, match=message):
        as_teacher(spec, NAMES)
