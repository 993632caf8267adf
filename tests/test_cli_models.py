"""The commands for any ONNX file: check, measure, quantize."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from command_line import document, quick_profile, result
from onnx import TensorProto, helper
from tiny_models import save, value

from edgecompress.cli.main import main
from edgecompress.profiles import profile_path
from edgecompress.report.document import report_schema

pytestmark = pytest.mark.usefixtures("measure_briefly")


def test_check_prints_one_report_and_its_verdict(folder, capsys):
    quick = quick_profile(folder, "latency_ms.p95 = 1000\nmodel_size_mb = 1")
    assert main(["check", "model.onnx", "--profile", quick]) == 0
    out = result(capsys)
    assert out.startswith("PASS: model fits quick")
    assert "latency_ms.p95" in out
    assert "report.html" not in out
    assert "\x1b" not in out


def test_check_fails_over_budget(folder, capsys):
    quick = quick_profile(folder, "model_size_mb = 0.0001")
    assert main(["check", "model.onnx", "--profile", quick, "--json"]) == 1
    found = document(capsys)
    jsonschema.validate(found, report_schema())
    assert found["verdict"] == "fail"
    assert found["profile"] == "quick"
    assert found["chosen"] == "model"
    assert found["teacher"] is None
    check = found["checks"][0]
    assert (check["budget"], check["basis"], check["status"]) == ("model_size_mb", "exact", "fail")
    assert found["candidates"][0]["path"] == "model.onnx"


def test_check_of_an_absent_device_without_a_basis_is_inconclusive(folder, capsys):
    quick = quick_profile(folder, "latency_ms.p95 = 1000", host=False)
    assert main(["check", "model.onnx", "--profile", quick, "--json"]) == 3
    assert document(capsys)["checks"][0]["basis"] == "none"


def test_check_says_why_no_latency_is_predicted(folder, capsys):
    def branch(name):
        node = helper.make_node("Neg", ["x"], [name])
        return helper.make_graph([node], name, [], [value(name, 2)])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    inputs = [value("x", 2), value("c", kind=TensorProto.BOOL)]
    save(helper.make_graph([node], "m", inputs, [value("y", 2)]), folder / "choosing.onnx")
    text = profile_path("android-cpu").read_text()
    Path("four.toml").write_text(text.replace("[runtime]\nthreads = 1", "[runtime]\nthreads = 4"))
    assert main(["check", "choosing.onnx", "--profile", "android-cpu"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "note: choosing: no latency is predicted: its operators could not be counted: what its If "
        "does is known only when it runs"
    )
    assert main(["check", "model.onnx", "--profile", "four.toml"]) == 3
    assert capsys.readouterr().err == (
        "note: android-cpu: no latency is predicted for 4 threads, its costs were fitted with 1\n"
    )


def test_check_of_several_models_and_profiles_is_one_document(folder, capsys):
    quick = quick_profile(folder, "model_size_mb = 0.001")
    arguments = ["check", "model.onnx", "large.onnx", "--profile", quick]
    assert main([*arguments, "--profile", "android-cpu", "--json"]) == 1
    found = document(capsys)
    jsonschema.validate(found, report_schema())
    assert found["verdict"] == "fail"
    each = [(r["chosen"], r["profile"], r["verdict"]) for r in found["reports"]]
    assert each == [
        ("model", "quick", "pass"),
        ("model", "android-cpu", "pass"),
        ("large", "quick", "fail"),
        ("large", "android-cpu", "pass"),
    ]


def test_a_bad_model_among_several_leaves_the_others_judged(folder, capsys):
    quick = quick_profile(folder, "model_size_mb = 0.001")
    Path("torn.onnx").write_bytes(b"torn")
    arguments = ["check", "torn.onnx", "model.onnx", "large.onnx", "--profile", quick, "--json"]
    assert main(arguments) == 2  # bad input weighs more than the budget that large exceeds
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1
    assert "torn.onnx" in printed.err
    found = json.loads(printed.out)
    jsonschema.validate(found, report_schema())
    assert [(r["chosen"], r["verdict"]) for r in found["reports"]] == [
        ("model", "pass"),
        ("large", "fail"),
    ]


def test_require_measured_lets_no_prediction_pass(folder, capsys):
    arguments = ["check", "model.onnx", "--profile", "android-cpu", "--json"]
    assert main([*arguments, "--require-measured"]) == 3
    found = document(capsys)
    latency = next(c for c in found["checks"] if c["basis"] == "predicted")
    assert latency["status"] == "inconclusive"
    assert latency["reason"].endswith("but a measurement is demanded")


def test_models_of_one_name_are_told_apart(folder, capsys):
    Path("other").mkdir()
    shutil.copy("large.onnx", "other/model.onnx")
    assert main(["measure", "model.onnx", "other/model.onnx", "--processes", "1", "--json"]) == 0
    assert [m["label"] for m in document(capsys)["models"]] == ["model.onnx", "other/model.onnx"]


def test_check_scores_labelled_data(folder, capsys):
    x = np.eye(8, dtype=np.float32)
    np.savez("data.npz", x=x, labels=np.arange(8))
    quick = quick_profile(folder, "model_size_mb = 1")
    assert main(["check", "model.onnx", "--profile", quick, "--data", "data.npz", "--json"]) == 0
    metric = document(capsys)["candidates"][0]["metrics"]["accuracy"]
    assert metric["split"] == "test"
    assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1


def test_measure_shows_quantiles_memory_and_size(folder, capsys):
    assert main(["measure", "model.onnx", "--processes", "1", "--batch", "3"]) == 0
    out, err = capsys.readouterr()
    head, row = out.splitlines()
    for column in ("p50 ms", "p90 ms", "p95 ms", "p99 ms", "cold ms", "memory", "size"):
        assert column in head
    assert row.startswith("model")
    assert "error" not in err


def test_each_model_takes_its_own_of_what_is_given_for_several(folder, capsys):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["sound"], ["y"])], "m", [value("sound", "n")], [value("y", "n")]
    )
    save(graph, folder / "listener.onnx")
    models = ["measure", "model.onnx", "listener.onnx", "--processes", "1"]
    assert main([*models, "--shape", "x:2x8", "--shape", "sound:16"]) == 0
    assert main([*models, "--shape", "x:2x8", "--shape", "smell:16"]) == 2
    assert "--shape: the model has no input 'smell'; it has x: " in capsys.readouterr().err
    np.savez("given.npz", x=np.ones((2, 8), np.float32), sound=np.ones(16, np.float32))
    assert main([*models, "--inputs", "given.npz"]) == 0


def test_what_a_refused_model_would_take_stops_no_sound_one(folder, capsys):
    Path("broken.onnx").write_bytes(b"no model")
    profile = quick_profile(folder, "model_size_mb = 1")
    shapes = ["--shape", "x:2x8", "--shape", "sound:16"]
    assert main(["check", "model.onnx", "broken.onnx", "--profile", profile, *shapes]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("INCONCLUSIVE: 1 passes, 1 model refused\n")
    assert "has no input" not in err


def test_measure_as_json(folder, capsys):
    arguments = ["measure", "model.onnx", "--processes", "1", "--batch", "3", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    (found,) = document(capsys)["models"]
    host = found["host"]
    assert (host["batch"], host["threads"], host["processes"]) == (3, 1, 1)
    assert set(host["latency_ms"]) == {"p50", "p90", "p95", "p99"}
    assert found["size_bytes"] == Path("model.onnx").stat().st_size


def test_measure_writes_every_call_where_asked(folder, capsys):
    arguments = ["measure", "model.onnx", "large.onnx", "--processes", "2", "--raw", "raw.npz"]
    assert main([*arguments, "--json"]) == 0
    models = document(capsys)["models"]
    with np.load("raw.npz") as raw:
        assert len(raw) == 8
        for model in models:
            for number, p50 in enumerate(model["host"]["process_p50_ms"]):
                wall, waited = (
                    raw[f"{model['label']}.{number}.{w}_ms"] for w in ("wall", "waited")
                )
                assert len(wall) == len(waited) >= 3
                assert np.quantile(wall - waited, 0.5) == pytest.approx(p50, rel=0.1)
    assert main(["measure", "model.onnx", "--sustained", "1s", "--raw", "long.npz"]) == 0
    with np.load("long.npz") as raw:
        assert set(raw) == {"model.0.wall_ms", "model.0.waited_ms"}
        assert f" ran {len(raw['model.0.wall_ms']):,} times" in result(capsys)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (".", "is a folder, expected a file to write"),
        ("large.onnx", "expected a file to write, its name ending in .npz"),
        ("model.onnx/raw.npz", "is no folder that can be written to"),
    ],
)
def test_samples_go_to_no_place_of_another_kind(folder, capsys, raw, problem):
    before = Path("large.onnx").read_bytes()
    assert main(["measure", "model.onnx", "--raw", raw]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --raw {raw}: ")
    assert line.endswith(problem)
    assert Path("large.onnx").read_bytes() == before


def test_quantize_writes_int8_models_and_compares_them(folder, capsys):
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(64, 64)).astype(np.float32))
    arguments = ["quantize", "large.onnx", "--data", "data.npz", "--out", "int8"]
    assert main([*arguments, "--set", "quantize.per_channel=false", "--json"]) == 0
    found = document(capsys)
    made = ["int8-static", "int8-dynamic", "int8-weights", "int4-weights"]
    assert [m["label"] for m in found["models"]] == ["large", *made]
    assert found["skipped"][0].startswith("int8-static-float-ends: not made: static int8 has ")
    assert found["models"][1]["parity"]["agreement"] > 0.9
    assert found["models"][1]["size_bytes"] < found["models"][0]["size_bytes"]
    assert {p.name for p in Path("int8").iterdir()} == {f"{label}.onnx" for label in made}
    arguments += ["--set", 'quantize.schemes=["fp16"]', "--json"]
    assert main(arguments) == 0
    assert [m["label"] for m in document(capsys)["models"]] == ["large", "fp16"]


def test_quantize_says_why_a_model_is_not_made(folder, capsys):
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32))
    assert main(["quantize", "model.onnx", "--data", "data.npz"]) == 0
    out, err = capsys.readouterr()
    assert "same class" not in out
    assert "warning: int8-static: not made: static int8 has nothing to gain" in err
