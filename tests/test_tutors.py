"""Whom a pruned network learns from: the teacher, itself as it was, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import blobs
import numpy as np
import pytest
import torch
from kind_tasks import task

from edgecompress.distilling.rules import settled
from edgecompress.errors import RecipeError
from edgecompress.lessons import FeatureSettings, RedistillSettings
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import Run, RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.pipeline.tutors import tutor
from edgecompress.recipe import load_recipe
from edgecompress.teachers.adapters import predict_logits


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(blobs.RECIPE)
    (folder / "blobs.py").write_text(Path(blobs.__file__).read_text())
    return folder


@pytest.fixture
def chain(folder: Path) -> Iterator[tuple[Run, Network, TeacherInHand]]:
    """Open a run with a student and its teacher, both trained; finished once for all tests."""
    with open_run(load_recipe(folder / "recipe.toml"), folder / "out", RunOptions()) as run:
        teacher = obtain_teacher(run)
        yield run, train_student(run, teacher), teacher


def probabilities(tutors: TeacherInHand, run: Run) -> np.ndarray:
    logits = predict_logits(tutors.teacher, run.task.validation.inputs)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_both_teach_with_the_mean_of_their_calibrated_probabilities(
    chain: tuple[Run, Network, TeacherInHand],
) -> None:
    run, student, teacher = chain
    settings = RedistillSettings(teachers="both", calibrate_teacher=True)
    both = tutor(run, student, teacher, settings)
    alone = tutor(run, student, teacher, RedistillSettings(teachers="student"))
    parts = [probabilities(one.calibrated(settings), run) for one in (teacher, alone)]
    np.testing.assert_allclose(probabilities(both, run), np.mean(parts, axis=0), atol=1e-5)
    assert both.calibrated(settings) is both  # they were
    assert len({both.digest, alone.digest, teacher.digest}) == 3
    plain = tutor(
        run, student, teacher, RedistillSettings(teachers="both", calibrate_teacher=False)
    )
    assert plain.digest != both.digest


def test_the_teacher_alone_is_handed_on(chain: tuple[Run, Network, TeacherInHand]) -> None:
    run, student, teacher = chain
    assert tutor(run, student, teacher, RedistillSettings()) is teacher


def test_a_run_teaches_as_the_recipe_says_and_finds_it_again(folder: Path) -> None:
    digests = []
    for teachers in ("both", "teacher", "student", "both"):
        said: list[str] = []
        recipe = load_recipe(folder / "recipe.toml", [f"redistill.teachers={teachers}"])
        with open_run(recipe, folder / "out", RunOptions(say=said.append)) as run:
            teacher = obtain_teacher(run)
            student = train_student(run, teacher)
            pruned = prune_student(run, student, teacher)
            assert pruned is not None
            assert pruned.training is not None
            arms = {arm.name: arm.weights.sha256 for arm in pruned.training.arms}
            digests.append(arms["distilled"])
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]
    assert "redistill distilled: reused" in said


def test_a_teacher_that_was_pruned_itself_is_the_only_one(
    chain: tuple[Run, Network, TeacherInHand],
) -> None:
    run, student, teacher = chain
    run = replace(run, recipe=run.recipe.model_copy(update={"distill": None}))
    assert tutor(run, student, teacher, RedistillSettings(teachers="both")) is teacher


def test_layers_teach_from_one_network() -> None:
    layers = FeatureSettings(layers=(("stem", "stem"),))
    assert RedistillSettings(features=layers).teachers == "teacher"
    with pytest.raises(ValueError, match='given features with teachers = "both", but layers are'):
        RedistillSettings(features=layers, teachers="both")


def test_embeddings_are_left_to_the_teacher() -> None:
    vectors = task("embedding")
    assert settled(vectors, RedistillSettings(), "redistill").teachers == "teacher"
    with pytest.raises(RecipeError) as caught:
        settled(vectors, RedistillSettings(teachers="both"), "redistill")
    assert str(caught.value) == (
        "recipe: redistill.teachers: given \"both\", but kind 'embedding' learns the teacher's own "
        "vectors; remove it"
    )
