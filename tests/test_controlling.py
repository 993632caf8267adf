"""`edgecompress quantize` on samples with labels: int8 is scored, and controlled where it loses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import document

from benchmarks.quantization.hard_nets import digits, hard_model
from edgecompress.cli.controlling import held_out
from edgecompress.cli.data import Samples
from edgecompress.cli.main import main
from edgecompress.cli.models import open_models

STATIC = 'quantize.schemes=["static"]'
ARGUMENTS = ["quantize", "hard.onnx", "--data", "data.npz", "--set", STATIC, "--set"]
TWO_POINTS = "quantize.max_drop=0.02"


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield hard_model(tmp_path_factory.mktemp("hard") / "hard.onnx", "relu", epochs=5).path
    torch.set_num_threads(threads)


@pytest.fixture
def inside(hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with the hard net and labelled samples."""
    shutil.copy(hard, tmp_path)
    x, y = digits()["validation"]
    np.savez(tmp_path / "data.npz", x=x, labels=y)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("measure_briefly", "inside")
def test_int8_that_loses_on_labelled_samples_is_controlled(capsys) -> None:
    assert main([*ARGUMENTS, TWO_POINTS, "--json"]) == 0
    found = {model["label"]: model for model in document(capsys)["models"]}
    assert list(found) == ["hard", "int8-static", "int8-controlled"]
    scores = [model["metrics"]["accuracy"]["value"] for model in found.values()]
    assert scores[0] - scores[1] > 0.05
    assert scores[0] - scores[2] <= 0.02
    assert found["int8-static"]["control"] is None
    control = found["int8-controlled"]["control"]
    assert control["evaluations"] == 2
    assert control["keep_float"] == []
    assert Path("edgecompress-int8/int8-controlled.onnx").is_file()


@pytest.mark.usefixtures("measure_briefly", "inside")
def test_what_control_did_is_said_beside_the_table(capsys) -> None:
    assert main([*ARGUMENTS, TWO_POINTS]) == 0
    told = capsys.readouterr()
    assert "same class  accuracy" in told.out
    assert "int8-controlled: plain static int8 loses 0." in told.err
    assert "no layer went back to float; 2 full evaluations" in told.err


@pytest.mark.usefixtures("measure_briefly", "inside")
def test_int8_that_loses_no_more_than_allowed_is_only_scored(capsys) -> None:
    assert main([*ARGUMENTS, "quantize.max_drop=0.9", "--json"]) == 0
    found = document(capsys)["models"]
    assert [model["label"] for model in found] == ["hard", "int8-static"]
    assert all(model["metrics"]["accuracy"]["split"] == "validation" for model in found)


@pytest.mark.usefixtures("measure_briefly")
def test_labels_that_cannot_score_the_model_are_left_aside_with_a_word(inside, capsys) -> None:
    x, _ = digits()["validation"]
    np.savez(inside / "data.npz", x=x, labels=np.linspace(0, 1, len(x)))
    assert main([*ARGUMENTS, TWO_POINTS, "--json"]) == 0
    found = document(capsys)
    assert [model["label"] for model in found["models"]] == ["hard", "int8-static"]
    assert found["models"][0]["metrics"] == {}
    assert found["skipped"] == [
        "int8 is not scored: --data data.npz: labels: given float64 of shape (450,), expected "
        "whole numbers of shape (samples,)"
    ]


def test_what_is_held_out_has_every_class_even_where_they_take_turns(inside: Path) -> None:
    turns = np.arange(400) % 4
    given = Samples("data.npz", {"x": np.zeros((400, 1, 8, 8), np.float32)}, turns)
    fit, held, notes = held_out(open_models([inside / "hard.onnx"])[0], given)
    assert held and held.labels is not None and fit.labels is not None
    assert (len(fit.labels), len(held.labels), notes) == (300, 100, ())
    assert set(held.labels) == set(fit.labels) == {0, 1, 2, 3}
