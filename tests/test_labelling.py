"""Tasks without any ground truth: the teacher's answers are the labels, and the report says so."""

from dataclasses import replace
from pathlib import Path

import kind_tasks
import numpy as np
import pytest
import torch
from tiny_lessons import CLASSES, blobs, dense

from edgecompress.distilling.certainty import certainty_of
from edgecompress.distilling.distill import distill
from edgecompress.distilling.labelling import labelled_by
from edgecompress.errors import DataError, RecipeError
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher
from edgecompress.recipe import DistillSettings, Recipe, TrainSettings
from edgecompress.records import Kind
from edgecompress.tasks.checks import check_task
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import as_teacher, predict_logits

QUICK = DistillSettings(epochs=8, batch_size=16, learning_rate=1e-2, precision="fp32")


def bare(task: Task, *names: str) -> Task:
    return replace(task, **{n: replace(getattr(task, n), labels=None) for n in names})  # type: ignore[arg-type]


def knowing() -> torch.nn.Module:
    linear = torch.nn.Linear(4, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.eye(CLASSES, 4))
        linear.bias.zero_()
    return linear


def test_a_student_learns_from_the_teacher_alone() -> None:
    task = bare(blobs(), "train", "validation", "test")
    result = distill(dense(1, 8), knowing(), task, QUICK)
    assert result.arms[0].evaluation.metric.value > 0.85  # agreement with the teacher
    assert result.reason.endswith(
        "task 'blobs': train, validation and test have no labels, so the teacher's answers stand "
        "in for them; accuracy there is agreement with the teacher, not with any truth"
    )


def test_labels_that_are_there_stay() -> None:
    task = blobs()
    there, note = labelled_by(knowing(), bare(task, "train"))
    assert "train has no labels" in note[0]
    assert there.validation is task.validation
    expected = task.train.inputs["x"][:, :CLASSES].argmax(axis=1)
    np.testing.assert_array_equal(there.train.labels, expected)
    assert labelled_by(object(), task) == (task, ())  # the teacher is not even looked at


def test_a_split_that_was_labelled_so_is_told_by_its_arrays() -> None:
    task = blobs()
    files = replace(task, train=Split(task.train.inputs, None, (Path("x.npz"),)))
    assert labelled_by(knowing(), files)[0].train.files == ()


def test_a_teacher_that_errs_nowhere_is_not_calibrated() -> None:
    task, _ = labelled_by(knowing(), bare(blobs(), "validation"))
    outputs = predict_logits(as_teacher(knowing(), task.class_names), task.validation.inputs)
    certainty = certainty_of(task, outputs)
    assert certainty is not None
    assert [certainty.temperature(wish) for wish in ("auto", True, False)] == [1.0] * 3
    assert certainty.note("auto").endswith("so nothing tells how sure it should be")


@pytest.mark.parametrize("kind", kind_tasks.KINDS)
def test_every_kind_of_label_can_be_the_teachers(kind: Kind) -> None:
    task = kind_tasks.task(kind)
    there, _ = labelled_by(kind_tasks.knowing(kind), bare(task, "train", "validation", "test"))
    check_task(there)
    for name in ("train", "validation", "test"):
        theirs, own = getattr(there, name).labels, getattr(task, name).labels
        assert theirs.shape == own.shape
        assert theirs.dtype.kind == own.dtype.kind


def test_a_run_without_labels_says_so(tmp_path: Path) -> None:
    task = bare(blobs(), "train", "validation", "test")
    task = replace(task, teacher=knowing)
    with open_run(Recipe(), tmp_path, RunOptions(), task) as run:
        assert "the teacher's answers stand in for them" in run.notes[0]
        assert obtain_teacher(run).certainty.temperature("auto") == 1.0  # type: ignore[union-attr]


def test_the_teacher_that_labels_is_the_one_that_teaches(tmp_path: Path) -> None:
    made: list[torch.nn.Module] = []

    def teacher() -> torch.nn.Module:
        made.append(knowing())
        return made[-1]

    task = replace(bare(blobs(), "train", "validation", "test"), teacher=teacher)
    with open_run(Recipe(distill=QUICK), tmp_path, RunOptions(), task) as run:
        found = obtain_teacher(run)
    assert found.network is not None
    assert [found.network.module] == made


def test_a_teacher_still_to_be_trained_cannot_label(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"teacher": TrainSettings().model_dump()})
    with (
        pytest.raises(RecipeError, match=r"\[teacher\] trains .* 'blobs' has none in train, test;"),
        open_run(recipe, tmp_path, RunOptions(), bare(blobs(), "train", "test")),
    ):
        pass


def test_bad_samples_are_refused_before_the_teacher_sees_them() -> None:
    task = bare(blobs(), "train")
    task.train.inputs["x"][3, 0] = np.nan  # type: ignore[index]
    with pytest.raises(DataError, match="train, input 'x': sample 3 holds a value that is not fin"):
        distill(dense(1, 8), knowing(), task, QUICK)
