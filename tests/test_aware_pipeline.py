"""The candidate that was trained in 8 bits: made once, as trained; the student stays as it was."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import blobs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from edgecompress.distilling.scoring import forward
from edgecompress.errors import RecipeError, TrainingError
from edgecompress.graphs import about_of
from edgecompress.pipeline import aware
from edgecompress.pipeline.aware import FAKE, as_trained, aware_candidate
from edgecompress.pipeline.candidates import export_network
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.profiles import load_profile
from edgecompress.quantization import AwareSettings
from edgecompress.recipe import (
    DistillSettings,
    ExportSettings,
    PruneSettings,
    QuantizeSettings,
    Recipe,
    TrainSettings,
    load_recipe,
    quantize_settings,
)
from edgecompress.records import Candidate, Mode, Report
from edgecompress.runtime import run as run_model
from edgecompress.tasks.task import Task

QUICK = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2, "precision": "fp32"}
PROFILE = load_profile("cpu-1core")


def recipe(**changes: object) -> Recipe:
    quantize = {"schemes": ["static"], "calibration_samples": 128, "aware": {"epochs": 2}}
    return Recipe(
        teacher=TrainSettings.model_validate(QUICK),
        distill=DistillSettings.model_validate(QUICK),
        quantize=QuantizeSettings.model_validate(quantize),
        measure=None,
    ).model_copy(update=changes)


def candidates(
    asked: Recipe, task: Task, out: Path, options: RunOptions = RunOptions()
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """Return the float candidate of the last network, and what training in 8 bits makes of it."""
    with open_run(asked, out, options, task) as run:
        teacher = obtain_teacher(run)
        student = train_student(run, teacher)
        network = prune_student(run, student, teacher) or student
        whole = export_network(run, network, f"{network.label}-fp32")
        return whole, aware_candidate(run, PROFILE, teacher, whole)


def told(said: list[str]) -> RunOptions:
    return RunOptions(say=said.append)


@pytest.fixture(scope="module", autouse=True)
def _one_way_to_compute() -> Iterator[None]:
    """Leave nothing to the clock: the fastest mode may be another one in another folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecompress.pipeline.arms.fastest_mode", lambda *given: Mode(threads=1))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, list[str]]:
    out, said = tmp_path_factory.mktemp("aware") / "out", []
    return compress(recipe(), PROFILE, out, told(said), blobs.task()), out, said


def test_the_candidate_ships_what_was_trained(finished: tuple[Report, Path, list[str]]) -> None:
    report, _, said = finished
    found = next(c for c in report.candidates if c.label == "student-int8-aware")
    assert (found.scheme, found.dropped) == ("int8-aware", None)
    assert found.evaluation("validation") is not None
    assert found.parity is not None
    assert found.parity.reference == FAKE == "torch fake-quantized"
    assert found.parity.samples == len(blobs.task().validation)
    assert found.parity.agreement >= 0.99
    words = f"agrees with torch fake-quantized ({found.parity.agreement:.2%})"
    assert f"quantize: student-int8-aware: {words}" in said
    shipped = onnx.load(found.model.path)
    whole = onnx.load(next(c for c in report.candidates if c.label == "student-fp32").model.path)
    assert about_of(shipped).labels == about_of(whole).labels == ("left", "right", "below")
    assert about_of(shipped).weights != about_of(whole).weights
    operators = {node.op_type for node in shipped.graph.node}
    assert "DequantizeLinear" in operators
    assert "BatchNormalization" not in operators


def test_nothing_is_made_twice_and_the_float_student_stays(
    finished: tuple[Report, Path, list[str]],
) -> None:
    report, out, _ = finished
    said: list[str] = []
    assert compress(recipe(), PROFILE, out, told(said), blobs.task()) == report
    assert [line for line in said if line.endswith("started")] == []
    without = recipe(quantize=QuantizeSettings(schemes=("static",), calibration_samples=128))
    plain = compress(without, PROFILE, out, task=blobs.task())
    rest = {c.label: c.model.sha256 for c in report.candidates if c.label != "student-int8-aware"}
    assert {c.label: c.model.sha256 for c in plain.candidates} == rest


class KilledError(Exception):
    """Stand for a kill."""


def test_a_run_that_was_killed_in_it_ends_in_the_same_file(
    finished: tuple[Report, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)

    def tick(text: str, done: int, total: int) -> None:
        if text.startswith("aware") and "epoch 2" in text:
            raise KilledError

    with pytest.raises(KilledError):
        candidates(recipe(), blobs.task(), tmp_path, RunOptions(tick=tick))
    _, (again,) = candidates(recipe(), blobs.task(), tmp_path)
    whole = next(c for c in finished[0].candidates if c.label == again.label)
    assert again.model.sha256 == whole.model.sha256


def taught(*layers: nn.Module) -> Task:
    """Return the task with a perceptron around these layers for its student."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *layers, nn.Linear(32, 3))
    return replace(blobs.task(), student=lambda: net, augment=None)


def test_a_network_that_cannot_be_imitated_is_left_out_in_words(tmp_path: Path) -> None:
    said: list[str] = []
    asked = recipe(export=ExportSettings(softmax=True))
    report = compress(asked, PROFILE, tmp_path, told(said), taught(nn.SELU()))
    assert "student-int8-aware" not in {c.label for c in report.candidates}
    why = "student-int8-aware left out: PyTorch has no like of its operators Selu"
    assert f"quantize: {why}" in said
    assert why in report.notes
    assert said.count("set the rounding of student-fp32: started") == 1
    assert not any(line.startswith("aware distilled") for line in said)


def test_what_ships_otherwise_than_trained_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aware, "forward", lambda network, inputs: -forward(network, inputs))
    _, (found,) = candidates(recipe(), taught(nn.ReLU()), tmp_path)
    assert found.dropped is not None
    assert found.dropped.startswith("parity with torch fake-quantized failed: same top class on")


def test_one_of_few_samples_may_be_answered_otherwise() -> None:
    assert as_trained(5000).agreement == 0.99
    assert 49 / 50 > as_trained(50).agreement > 48 / 50


def test_a_pool_and_probabilities_are_no_matter(tmp_path: Path) -> None:
    pool = replace(blobs.blobs(64, 5), labels=None)
    task = replace(taught(nn.Hardswish()), unlabelled=pool)
    _, (found,) = candidates(recipe(export=ExportSettings(softmax=True)), task, tmp_path)
    assert found.parity is not None
    assert found.parity.passed
    answers = run_model(found.model, task.validation.inputs)
    assert answers.min() < 0  # logits still: a softmax is folded in at the very end


def test_weights_that_pruning_set_to_0_stay_there(tmp_path: Path) -> None:
    asked = recipe(prune=PruneSettings(kind="unstructured", pruning_ratio=0.7))
    _, (found,) = candidates(asked, taught(nn.ReLU()), tmp_path)
    assert found.label == "pruned-int8-aware"
    held = [numpy_helper.to_array(t) for t in onnx.load(found.model.path).graph.initializer]
    largest = max((a for a in held if a.dtype == np.int8), key=np.size)
    assert np.mean(largest == 0) > 0.6


def test_without_the_section_nothing_is_trained(tmp_path: Path) -> None:
    asked = recipe(quantize=QuantizeSettings(schemes=("static",)))
    with open_run(asked, tmp_path, RunOptions(), blobs.task()) as run:
        whole = Candidate("student-fp32", None, "fp32", None, (), None, None, None)  # type: ignore[arg-type]
        assert aware_candidate(run, PROFILE, None, whole) == ()  # type: ignore[arg-type]


def test_a_bare_file_is_not_trained() -> None:
    with pytest.raises(RecipeError, match=r"--set quantize.aware: nothing is trained here"):
        quantize_settings(["quantize.aware.epochs=3"])


def test_the_section_knows_its_keys(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[quantize.aware]\nepochs = 3\n")
    section = load_recipe(tmp_path / "recipe.toml").quantize
    assert section is not None
    assert section.aware == AwareSettings(epochs=3)
    with pytest.raises(RecipeError, match=r"quantize.aware.epoch.*did you mean 'epochs'"):
        load_recipe(tmp_path / "recipe.toml", ["quantize.aware.epoch=3"])
    with pytest.raises(RecipeError, match=r"quantize.aware.learning_rate"):
        load_recipe(tmp_path / "recipe.toml", ["quantize.aware.learning_rate=0"])


def test_a_training_in_8_bits_that_breaks_names_its_key(tmp_path: Path) -> None:
    aware = AwareSettings(epochs=1, learning_rate=1e30)
    asked = recipe(quantize=QuantizeSettings(schemes=("static",), aware=aware))
    with pytest.raises(TrainingError) as found:
        candidates(asked, blobs.task(), tmp_path)
    assert str(found.value).endswith("; give a lower quantize.aware.learning_rate")
