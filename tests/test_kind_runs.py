"""Every kind of task goes through the whole chain: trained, exported, quantized, bundled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kind_tasks
import numpy as np
import pytest
from command_line import document, quick_profile
from kind_tasks import KINDS, OUTPUTS, knowing, network
from torch import nn

from edgecompress.cli.main import main
from edgecompress.distilling.choice import CONTROL, DISTILLED
from edgecompress.distilling.distill import distill
from edgecompress.distilling.rules import settled, settled_recipe
from edgecompress.distilling.scoring import forward
from edgecompress.errors import RecipeError, TaskError
from edgecompress.exporting.card import answer_in_words
from edgecompress.exporting.onnx import export
from edgecompress.pipeline.compress import compress
from edgecompress.profiles import load_profile
from edgecompress.recipe import DistillSettings, Recipe, TrainSettings, load_recipe
from edgecompress.records import Kind, OnnxModel
from edgecompress.runtime import onnx_model, run
from edgecompress.tasks.scores import COSINE, NEIGHBOURS, SQUARED_ERROR
from edgecompress.tasks.task import Task
from edgecompress.teachers.reduced import fit_reduction

RECIPE = """
[teacher]
epochs = 12
batch_size = 32
learning_rate = 1e-2
precision = "fp32"
[distill]
epochs = 12
batch_size = 32
learning_rate = 1e-2
precision = "fp32"
[quantize]
schemes = ["static"]
calibration_samples = 64
[measure]
processes = [2]
screening_processes = 1
seconds_per_process = 0.02
[accept]
max_drop = 0.3
"""
QUICK = DistillSettings(epochs=8, batch_size=32, learning_rate=1e-2, precision="fp32")


def recipe(folder: Path, *also: str) -> Recipe:
    (folder / "recipe.toml").write_text(RECIPE)
    return load_recipe(folder / "recipe.toml", also)


def chain_task(kind: Kind) -> Task:
    """Return a task whose student is wide enough to have something to gain from int8."""
    return replace(kind_tasks.task(kind), student=lambda: network(kind, 256))


@pytest.mark.parametrize(
    "kind",
    [k if k == "regression" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS],
)
def test_every_kind_goes_through_the_whole_chain(kind: Kind, tmp_path: Path) -> None:
    task = chain_task(kind)
    report = compress(recipe(tmp_path), load_profile("cpu-1core"), tmp_path / "out", task=task)
    assert [c.label for c in report.candidates] == ["student-fp32", "student-int8-static"]
    for candidate in report.candidates:
        assert candidate.parity is not None
        assert candidate.parity.passed, candidate.parity.reason
        assert 0.9 <= candidate.parity.agreement <= 1
    assert report.best is not None
    assert report.teacher is not None
    ours, theirs = (c.evaluation("test") for c in (report.best, report.teacher))
    assert ours is not None
    assert theirs is not None
    assert ours.metric.name == task.metric.name
    assert ours.metric.value >= theirs.metric.value - 0.15
    distilled = next(t for t in report.trainings if t.stage == "distill")
    assert {arm.name for arm in distilled.arms} == {DISTILLED, CONTROL}
    for arm in distilled.arms:
        assert arm.figures is not None
        assert arm.figures.agreement is not None
        assert (arm.figures.nll is None) == (kind in ("regression", "embedding"))
    certain = any("the teacher on validation: accuracy" in note for note in report.notes)
    assert certain == (kind not in ("regression", "embedding"))
    model = onnx_model(tmp_path / "out" / "bundle" / "model.onnx")
    assert run(model, task.test.inputs).shape[1] == OUTPUTS[kind]


def test_pruning_weighs_channels_by_the_kinds_own_loss(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    extra = ("prune.importance=taylor", "prune.pruning_ratio=0.5", "prune.round_to=4")
    from edgecompress.pipeline.run import RunOptions, open_run
    from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student

    task = replace(kind_tasks.task("tokens"), teacher=lambda: knowing("tokens"))
    asked = recipe(tmp_path, *extra).model_copy(update={"teacher": None})
    with open_run(asked, tmp_path / "out", RunOptions(), task) as opened:
        teacher = obtain_teacher(opened)
        pruned = prune_student(opened, train_student(opened, teacher), teacher)
    assert pruned is not None
    assert pruned.pruning is not None
    assert pruned.pruning.macs_after < pruned.pruning.macs_before


# --- a narrower student ---------------------------------------------------------------------


def narrow(metric: object = NEIGHBOURS) -> Task:
    return replace(
        kind_tasks.task("embedding", lambda: knowing("embedding")),
        student=lambda: network("embedding", 16, outputs=4),
        metric=metric,  # type: ignore[arg-type]
    )


def test_a_narrower_student_learns_in_front_of_a_projection_that_stays_behind() -> None:
    task = narrow()
    arms = distill(task.student, knowing("embedding"), task, QUICK).arms  # type: ignore[arg-type]
    chance = NEIGHBOURS.per_sample(
        np.random.default_rng(0).normal(size=(96, 4)), task.validation.labels
    ).mean()
    for arm in arms:
        assert forward(arm.module, task.validation.inputs).shape == (96, 4)
        assert not any("projection" in name for name, _ in arm.module.named_parameters())
        assert arm.evaluation.metric.value > 3 * chance


def test_vectors_reduced_by_pca_are_labels_teacher_and_score_alike() -> None:
    task, settings = narrow(COSINE), QUICK.model_copy(update={"narrow_by": "pca"})
    made = distill(task.student, knowing("embedding"), task, settings)  # type: ignore[arg-type]
    assert made.teacher is not None
    assert made.teacher.evaluation.metric.name == "cosine"
    assert made.teacher.evaluation.metric.value > 0.95
    for arm in made.arms:
        assert forward(arm.module, task.validation.inputs).shape == (96, 4)
        assert arm.evaluation.metric.value > 0.8
    taught = next(arm for arm in made.arms if arm.name == DISTILLED)
    assert taught.figures is not None
    assert taught.figures.agreement is not None
    assert taught.figures.agreement > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("by", "metric"), [("projection", NEIGHBOURS), ("pca", COSINE)])
def test_the_recipe_reaches_both_ways_to_narrow(by: str, metric: object, tmp_path: Path) -> None:
    asked = recipe(tmp_path, f"distill.narrow_by={by}").model_copy(update={"teacher": None})
    report = compress(asked, load_profile("cpu-1core"), tmp_path / "out", task=narrow(metric))
    assert report.best is not None
    model: OnnxModel = report.best.model
    assert run(model, narrow().test.inputs).shape == (96, 4)
    assert report.teacher is not None
    whole = run(report.teacher.model, narrow().test.inputs)
    assert whole.shape == (96, 8)  # measured as it is, scored as it taught
    score = report.teacher.evaluation("test")
    assert score is not None
    assert score.metric.value > (0.9 if by == "pca" else 0.5)


def test_pca_keeps_what_varies_most_and_points_the_same_way_everywhere() -> None:
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(200, 6)) * [9, 5, 1, 1, 1, 1] + 3
    found = fit_reduction(vectors, 2)
    reduced = found.of(vectors)
    _, _, rows = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    expected = (vectors - vectors.mean(axis=0)) @ rows[:2].T
    np.testing.assert_allclose(np.abs(reduced), np.abs(expected), atol=1e-4)
    again = fit_reduction(vectors[::-1], 2)
    np.testing.assert_allclose(again.directions, found.directions, atol=1e-9)
    assert found.fingerprint != fit_reduction(vectors[:100], 2).fingerprint


def test_a_narrower_student_needs_one_of_the_two(tmp_path: Path) -> None:
    words = (
        r"student: output shape \(1?\d, 4\).*of a narrower student take metric = NEIGHBOURS, which "
        r'compares vectors of any width, or \[distill\] narrow_by = "pca"'
    )
    asked = recipe(tmp_path).model_copy(update={"teacher": None})
    with pytest.raises(TaskError, match=words):
        compress(asked, load_profile("cpu-1core"), tmp_path / "out", task=narrow(COSINE))
    wide = replace(narrow(COSINE), student=lambda: network("embedding", 16))
    settings = QUICK.model_copy(update={"narrow_by": "pca"})
    with pytest.raises(RecipeError, match="its 8 values are no fewer than the labels' 8; remove"):
        distill(wide.student, knowing("embedding"), wide, settings)  # type: ignore[arg-type]


# --- what a recipe may ask of a kind --------------------------------------------------------

LOSSES = {
    "classification": "kd", "binary": "kd", "multilabel": "kd", "regression": "mse",
    "embedding": "cosine", "tokens": "kd",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_auto_takes_the_kinds_own_loss(kind: Kind) -> None:
    task = kind_tasks.task(kind)
    assert settled(task, DistillSettings()).loss == LOSSES[kind]
    assert settled(task, DistillSettings(loss="mse")).loss == "mse"
    plain = TrainSettings()
    assert settled(task, plain) is plain


def test_auto_follows_the_metric_of_embeddings() -> None:
    task = replace(kind_tasks.task("embedding"), metric=SQUARED_ERROR)
    assert settled(task, DistillSettings()).loss == "mse"


ASKED_IN_VAIN: dict[str, tuple[Kind, list[str], str]] = {
    "dkd of two": (
        "binary", ["distill.loss=dkd"],
        "distill.loss: \"dkd\" is not for kind 'binary', which has kd, multi, mse; take "
        'loss = "kd", or leave it out',
    ),
    "dist of tokens": (
        "tokens", ["distill.loss=dist"],
        "which has kd, standardized, mse, multi; take loss = \"kd\"",
    ),
    "kd of numbers": (
        "regression", ["distill.loss=kd"], 'which has mse; take loss = "mse", or leave it out',
    ),
    "angles of labels": (
        "multilabel", ["distill.loss=cosine"], "\"cosine\" is not for kind 'multilabel'",
    ),
    "temperature of numbers": (
        "regression", ["distill.temperature=2"],
        "distill.temperature: kind 'regression' answers with numbers, which no softmax softens; re",
    ),
    "smoothed numbers": (
        "embedding", ["teacher.label_smoothing=0.1"],
        "teacher.label_smoothing: given 0.1, but kind 'embedding' has no classes to spread a label",
    ),
    "certain numbers": (
        "regression", ["distill.calibrate_teacher=true"],
        "distill.calibrate_teacher: kind 'regression' answers with numbers, which have no certain",
    ),
    "likeliest labels": (
        "multilabel", ["distill.soft_targets=top-3"],
        "distill.soft_targets: given \"top-3\", which keeps the likeliest of one sample's classes; "
        "for kind 'multilabel' take \"fp32\" or \"fp16\"",
    ),
    "halved numbers": (
        "regression", ["distill.soft_targets=fp16"],
        'given "fp16", which ends at 65504, and numbers may be of any size; take "fp32"',
    ),
    "reduced tokens": (
        "tokens", ["distill.narrow_by=pca"],
        "distill.narrow_by: given \"pca\", which is for kind 'embedding', but the task's kind",
    ),
    "softmax of a yes": (
        "binary", ["export.softmax=true"],
        "export.softmax: kind 'binary' has no classes that share one certainty; remove it, and let "
        "the app take 1 / (1 + exp(-logit))",
    ),
    "softmax of numbers": (
        "regression", ["export.softmax=true"], "that share one certainty; remove it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED_IN_VAIN)
def test_what_a_kind_does_not_read_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind, overrides, words = ASKED_IN_VAIN[name]
    with pytest.raises(RecipeError) as refusal:
        settled_recipe(kind_tasks.task(kind), recipe(tmp_path, *overrides))
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("recipe: ")
    assert "\n" not in str(refusal.value)


def test_the_chain_refuses_before_anything_is_trained(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "distill.loss=kd")
    task = kind_tasks.task("regression", lambda: pytest.fail("the teacher was made"))
    with pytest.raises(RecipeError, match="is not for kind 'regression'"):
        compress(asked, load_profile("cpu-1core"), tmp_path / "out", task=task)


# --- a model file by itself -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("measure_briefly")
def test_check_scores_a_file_of_numbers_by_the_recipes_metric_and_refuses_another_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_task.py").write_text(
        "import kind_tasks\n\n\ndef task():\n"
        "    return kind_tasks.task('regression', lambda: kind_tasks.knowing('regression'))\n"
    )
    Path("recipe.toml").write_text('task = "my_task.py:task"\n[accept]\nmax_drop = 0.3\n')
    profile = quick_profile(tmp_path, "model_size_mb = 1")
    inputs = {"x": kind_tasks.split("regression", 3, 5).inputs["x"]}
    export(knowing("regression"), inputs, tmp_path / "good.onnx")
    asked = ["--profile", profile, "--recipe", "recipe.toml", "--json"]
    assert main(["check", "good.onnx", *asked]) == 0
    score = document(capsys)["candidates"][0]["metrics"]["R2"]
    assert score["value"] > 0.9
    export(nn.Linear(6, 1), inputs, tmp_path / "broad.onnx")
    assert main(["check", "broad.onnx", *asked]) == 2
    words = "answers with shape (1,) a sample; expected (2,), to be scored by R2"
    assert words in capsys.readouterr().err


def test_the_bundle_says_what_an_answer_means() -> None:
    said = {kind: answer_in_words(kind, ("a", "b", "c")) for kind in ("multilabel", "tokens")}
    assert said["multilabel"] == "one logit for each of 3 labels (a, b, c), above 0 where it holds"
    assert said["tokens"] == (
        "one of 3 classes (a, b, c) for each token, the classes on the second axis"
    )
    assert answer_in_words("binary", ()).startswith("one logit, above 0 for label 1; 1 / (1 + exp")
    assert answer_in_words("regression", ()) == "numbers in the unit of the labels"
    assert answer_in_words("embedding", ()).startswith("a vector")
