"""A new device's costs follow from a few models that were run on it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_predict import WORK, here, profile
from tiny_models import save_mlp

from edgecompress.cli.main import main
from edgecompress.errors import UsageError
from edgecompress.measuring.calibrating import calibrated
from edgecompress.measuring.calibration_models import calibration_models
from edgecompress.measuring.features import Features, read_features
from edgecompress.measuring.predict import predict
from edgecompress.profiles import PredictionBasis, load_profile, profile_path
from edgecompress.runtime import admit, make_inputs, run

SEPARABLE = Features(100, 0, 10, 5, 0, 0, 0, 1, 0, 30, 1, 4, 0)
DENSE = Features(5, 300, 30, 0, 0, 0, 0, 2, 0, 20, 1, 12, 0)
ATTENTION = Features(0, 0, 0, 0, 0, 0, 150, 5, 1, 25, 1, 0, 0)
TRIO = (SEPARABLE, DENSE, ATTENTION)


def basis() -> PredictionBasis:
    found = profile(pace=1.5).prediction
    assert found is not None
    return found


def took(features: Features, slower: float) -> float:
    """Return what a device takes that is so many times slower, in everything."""
    found = predict(here(), profile(), features)
    assert found is not None
    return found.latency_ms.p50 * slower


@given(slower=st.floats(0.2, 5.0))
def test_a_slower_device_is_found_out(slower: float) -> None:
    moved = calibrated(basis(), [(work, took(work, slower)) for work in TRIO], "three models")
    there = profile().model_copy(update={"prediction": moved})
    found = predict(here(), there, WORK)
    assert found is not None
    assert found.latency_ms.p50 == pytest.approx(took(WORK, slower), rel=0.1)


def test_calibration_narrows_the_pace_and_says_so() -> None:
    moved = calibrated(basis(), [(work, took(work, 2.0)) for work in TRIO], "three models")
    assert 1.0 < moved.pace < 1.25
    assert moved.int8_pace > 1.2  # no int8 model was run
    assert moved.source == "calibrated by 3 models run there (three models), from: a table"
    assert not moved.spec_sheet
    there = profile().model_copy(update={"prediction": moved})
    found = predict(here(), there, WORK)
    assert found is not None
    assert "by costs fitted on 3 models run there, from a near device's, within" in found.basis


def test_an_int8_model_moves_the_int8_costs() -> None:
    eight = Features(100, 100, 10, 5, 0, 0, 0, 1, 0, 30, 1, 8, 0, int8=True)
    floats = [(work, took(work, 1.0)) for work in TRIO]
    moved = calibrated(basis(), [*floats, (eight, took(eight, 3.0))], "four models")
    assert moved.int8 is not None
    assert moved.floats is not None
    assert moved.int8.pointwise.value > 0.1
    assert moved.floats.pointwise.value == pytest.approx(0.1, rel=0.2)


def test_the_kind_of_work_that_is_slow_is_found() -> None:
    times = [took(SEPARABLE, 1.0), took(DENSE, 1.0), took(ATTENTION, 2.0)]
    moved = calibrated(basis(), list(zip(TRIO, times, strict=True)), "three models").floats
    assert moved is not None
    assert moved.matmul.value > 1.1 * moved.conv3x3.value


def test_a_ratio_and_nothing_cannot_be_calibrated() -> None:
    ratio = PredictionBasis(host_ratio=2.0, source="x")
    with pytest.raises(UsageError, match="the profile has a host_ratio and no costs"):
        calibrated(ratio, [(WORK, 1.0)], "one")
    with pytest.raises(UsageError, match=r"no model with a time; give MODEL\.onnx=MS"):
        calibrated(basis(), [], "none")


def test_one_model_twice_calibrates_where_nothing_is_unexplained() -> None:
    sure = basis().model_copy(update={"unexplained": 1.0})
    found = calibrated(sure, [(WORK, 7.0), (WORK, 7.0)], "one, twice")
    again = predict(here(), profile().model_copy(update={"prediction": found}), WORK)
    assert again is not None
    assert again.latency_ms.p50 == pytest.approx(7.0, rel=0.01)


def test_the_calibration_models_are_always_the_same_and_run(tmp_path: Path) -> None:
    models = calibration_models()
    assert models == calibration_models()
    assert len(models) == 3
    facts = {}
    for name, content in models.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 8_000_000
        facts[name] = admit(tmp_path / name)
    inputs = {name: make_inputs(found) for name, found in facts.items()}
    for name, found in facts.items():
        assert np.isfinite(run(found.model, inputs[name])).all()
    work = read_features({n: f.model for n, f in facts.items()}, inputs)
    counted = [found for found in work.values() if isinstance(found, Features)]
    assert [found.int8 for found in counted] == [False, False, True]
    device = load_profile("android-cpu")
    for features in work.values():
        found = predict(here(), device, features)
        assert found is not None
        assert 3 < found.latency_ms.p50 < 100


def test_the_int8_calibration_model_runs_in_8_bits(tmp_path: Path) -> None:
    name = "calibration-int8.onnx"
    path, inlined = tmp_path / name, tmp_path / "optimized.onnx"
    path.write_bytes(calibration_models()[name])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(inlined)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(inlined).graph.node)
    assert kinds["QLinearConv"] == 18
    assert kinds["Conv"] == kinds["Relu"] == kinds["Concat"] == 0
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1  # at its ends


def test_the_int8_calibration_model_answers_as_in_floats(tmp_path: Path) -> None:
    path, plain = tmp_path / "int8.onnx", tmp_path / "floats.onnx"
    path.write_bytes(calibration_models()["calibration-int8.onnx"])
    onnx.save(without_pairs(onnx.load(path)), plain)
    inputs = make_inputs(admit(path))
    eight, floats = (run(admit(each).model, inputs) for each in (path, plain))
    assert float(np.abs(eight - floats).mean()) < 0.05 * float(np.abs(floats).mean())


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which no activation is rounded; its weights stay as they were rounded."""
    weights = {tensor.name for tensor in model.graph.initializer}
    same: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        given = [same.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in weights:
            same[node.output[0]] = given[0]
            continue
        node.input[:] = given
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.output[0].name = same[model.graph.output[0].name]
    return model


def test_three_floats_of_ones_own_calibrate_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("a.onnx", "b.onnx", "c.onnx")
    for name in names:
        save_mlp(Path(name))
    pairs = [f"--calibrate={name}=2" for name in names]
    assert main(["profiles", "new", "mine", "--from", "raspberry-pi-4", *pairs]) == 0
    made = load_profile("mine.toml").prediction
    assert made is not None
    assert (made.runs, made.int8_pace) == (3, pytest.approx(1.35, abs=0.01))  # e ** 0.3: unknown


def test_the_command_line_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profiles", "calibration-models"]) == 0
    folder = Path("calibration")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(calibration_models())
    base = ["profiles", "new", "mine", "--from", "raspberry-pi-4"]
    pairs = [f"--calibrate={folder / name}=50" for name in names]
    assert main([*base, *pairs]) == 0
    made = load_profile("mine.toml")
    assert made.name == "mine"
    assert made.prediction is not None
    assert "calibrated by 3 models run there (calibration-dense 50 ms" in made.prediction.source
    assert made.prediction.int8_pace < 1.3  # one of them is int8
    cost = {"latency_ms": {"p50": 50.0}, "threads": 1, "batch": 1}
    models = [{"path": str(folder / n), "device": None, "host": cost} for n in names]
    Path("there.json").write_text(json.dumps({"schema_version": 1, "models": models}))
    assert main([*base, "--calibrate", "there.json", "--out", "same.toml"]) == 0
    assert load_profile("same.toml").prediction == made.prediction


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("model.onnx=fast", "model.onnx=fast: expected a time in ms after '=', from 1e-06 to"),
        ("model.onnx=-1", "expected a time in ms after '=', from 1e-06 to 1e+07"),
        ("model.onnx=1e300", "expected a time in ms after '=', from 1e-06 to 1e+07"),
        ("absent.json", "absent.json: No such file or directory; expected the JSON of"),
        ("text.json", "text.json: not such a document; expected the JSON of 'edgecompress"),
        ("four.json", "four.json: measured with 4 threads and batch 1, expected --threads 1"),
        ("zero.json", "zero.json: not such a document"),
    ],
)
def test_wrong_calibrations_are_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    wanted: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.json").write_text("no json")
    for name, threads, p50 in (("four", 4, 50.0), ("zero", 1, 0.0)):
        cost = {"latency_ms": {"p50": p50}, "threads": threads, "batch": 1}
        models = [{"path": "m.onnx", "device": None, "host": cost}]
        Path(f"{name}.json").write_text(json.dumps({"models": models}))
    assert main(["profiles", "new", "mine", "--calibrate", given]) == 2
    assert wanted in capsys.readouterr().err
    assert not Path("mine.toml").exists()


def test_the_host_is_not_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_mlp(Path("m.onnx"))
    assert main(["profiles", "new", "x", "--from", "cpu-1core", "--calibrate", "m.onnx=1"]) == 2
    assert "cpu-1core predicts nothing; give --from a device" in capsys.readouterr().err


def test_what_stands_behind_the_prediction_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profiles", "calibration-models"]) == 0
    text = profile_path("raspberry-pi-4").read_text()
    runtime = text[text.index("[runtime]") : text.index("[budget]")]
    Path("moved.toml").write_text(text.replace(runtime, "") + "\n# of the board\n" + runtime)
    models = [f"--calibrate={path}=50" for path in sorted(Path("calibration").iterdir())]
    assert main(["profiles", "new", "mine", "--from", "moved.toml", *models]) == 0
    made = Path("mine.toml").read_text()
    assert made.count("[prediction]") == 1
    assert "# of the board" in made
    assert load_profile("mine.toml").runtime == load_profile("raspberry-pi-4").runtime
