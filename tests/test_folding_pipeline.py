"""A run whose recipe folds the app's own work into the file: measured, judged and bundled so."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import blobs
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgecompress.cli.data import Samples, score
from edgecompress.distilling.rules import settled_recipe
from edgecompress.errors import RecipeError
from edgecompress.graphs import about_of
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.spread import with_isa_spread
from edgecompress.profiles import load_profile
from edgecompress.recipe import Recipe
from edgecompress.records import Report, Verdict
from edgecompress.runtime import admit, session
from edgecompress.tasks.task import Metric, Normalization, Split, Task
from edgecompress.verifying.machines import native

PIXELS = Normalization(1 / 255, (0.5,), (0.25,))
RAW = {"image": Normalization()}
TRAINING = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-2, "precision": "fp32"}
RECIPE = {
    "teacher": TRAINING,
    "export": {
        "normalize": True, "layout": "nhwc", "input_type": "uint8",
        "softmax": True, "temperature": 1.5,
    },
    "quantize": {"schemes": ["static"]},
    "measure": {"processes": [5], "seconds_per_process": 0.02, "screening_processes": 1},
}  # fmt: skip


def as_pixels(split: Split) -> Split:
    """Return blobs as a camera would have seen them: bytes, normalized."""
    raw = np.clip(np.rint(split.inputs["image"] * 60 + 90), 0, 255)
    return Split({"image": ((raw / 255 - 0.5) / 0.25).astype(np.float32)}, split.labels)


def task() -> Task:
    given = blobs.task()
    return replace(
        given,
        train=as_pixels(given.train),
        validation=as_pixels(given.validation),
        test=as_pixels(given.test),
        normalization={"image": PIXELS},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    recipe, out = Recipe.model_validate(RECIPE), tmp_path_factory.mktemp("folded")
    with pytest.MonkeyPatch.context() as patch:  # no time counts here, whoever else measures
        patch.setattr("edgecompress.measuring.latency.alone", lambda say: nullcontext())
        return compress(recipe, load_profile("android-cpu"), out, RunOptions(), task())


def test_every_candidate_takes_bytes_and_gives_probabilities(report: Report) -> None:
    labels = {c.label for c in report.candidates if "parity" not in (c.dropped or "")}
    assert {"student-fp32", "student-int8-static"} <= labels
    for candidate in report.candidates:
        opened = session(candidate.model.path)
        assert [(i.type, i.shape) for i in opened.get_inputs()] == [
            ("tensor(uint8)", ["batch", 8, 8, 1])
        ]
        assert [o.name for o in opened.get_outputs()] == ["probabilities"]
        assert candidate.unfolded is not None
        about = about_of(onnx.load(candidate.model.path))
        assert (about.kind, about.labels) == ("classification", ("left", "right", "below"))
        assert about.answer == "softmax(logits / 1.5)"
        assert len(about.weights) == 64


def test_it_is_scored_measured_and_bundled_as_it_ships(report: Report) -> None:
    best = report.best
    assert best is not None
    test = best.evaluation("test")
    assert test is not None
    assert test.metric.value > 0.8
    assert best.measurement is not None
    bundle = report.folder / "bundle"
    assert (bundle / "model.onnx").read_bytes() == best.model.path.read_bytes()
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["inputs"][0]["type"] == "tensor(uint8)"
    assert not (bundle / "normalization.json").exists()  # nothing is left for the app to do
    card = (bundle / "README.md").read_text("utf-8")
    assert "to `probabilities`: one number for each of 3 classes (left, right, below)" in card
    assert "raw values as they are: normalizing them is inside.\nIt answers `softmax(logi" in card


def test_a_check_scores_a_folded_file_on_the_tasks_samples(report: Report) -> None:
    best, test = report.best, task().test
    assert best is not None
    own = best.evaluation("test")
    assert own is not None
    samples = Samples("the task", test.inputs, test.labels, of_task=True)
    assert score(admit(report.folder / "bundle/model.onnx"), samples).scores == own.scores


def test_a_spread_is_scored_by_what_the_metric_takes(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    def sure(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        taken.append(float(outputs.min()))
        return np.asarray(outputs.max(axis=1) > 0, np.float64)

    asked = Recipe.model_validate({**RECIPE, "accept": {"max_drop": 1, "max_isa_spread": 1}})
    metric = Metric("certainty", sure)
    monkeypatch.setattr("edgecompress.pipeline.spread.fleet_of", lambda device: ("arm64",))
    monkeypatch.setattr("edgecompress.verifying.fleet.absence", lambda isa, kits: "")
    monkeypatch.setattr("edgecompress.verifying.fleet.emulated", lambda kits, processor: native())
    with open_run(asked, tmp_path, RunOptions(), replace(task(), metric=metric)) as run:
        assert report.best is not None
        verdict = with_isa_spread(
            run, load_profile("android-cpu"), report.best, Verdict("pass", (), "")
        )
    assert verdict.checks[0].status == "pass"
    assert min(taken) < 0  # probabilities were made logits again


def test_what_the_devices_runtime_cannot_read_is_refused_at_once(tmp_path: Path) -> None:
    old = load_profile("android-cpu")
    old = old.model_copy(update={"runtime": old.runtime.model_copy(update={"onnxruntime": "1.13"})})
    with pytest.raises(RecipeError, match=r"runtime\.onnxruntime 1\.13 reads opsets up to 17"):
        compress(Recipe.model_validate(RECIPE), old, tmp_path, RunOptions(), task())


def test_what_was_no_image_of_bytes_is_refused_before_training(tmp_path: Path) -> None:
    recipe, wrong = Recipe.model_validate(RECIPE), replace(task(), normalization=RAW)
    with pytest.raises(RecipeError, match="input 'image' was no bytes"):
        compress(recipe, load_profile("android-cpu"), tmp_path, RunOptions(), wrong)
    assert not list(tmp_path.glob("stages/teacher*"))


def test_numbers_have_no_temperature(tmp_path: Path) -> None:
    numbers = replace(task(), kind="regression", class_names=())
    recipe = Recipe.model_validate({"export": {"temperature": 2.0}})
    with pytest.raises(RecipeError, match=r"export\.temperature: kind 'regression' answers"):
        settled_recipe(numbers, recipe)
