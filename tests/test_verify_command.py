"""The verify command: what it says, its exit codes, and two models on a real emulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from command_line import document, result

from edgecompress.cli import verifying
from edgecompress.cli.main import main
from edgecompress.errors import ChildFailedError
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.runtime import admit, onnx_model
from edgecompress.verifying.fleet import Member, answers
from edgecompress.verifying.machines import RefusedError, native, outputs_on
from edgecompress.verifying.processors import PROCESSORS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 8)).astype(np.float32)


@pytest.fixture
def pretend(monkeypatch):
    """Pretend that kits are there and that every processor answers as this host does."""
    monkeypatch.setattr(verifying, "absence", lambda isa, kits: "")
    monkeypatch.setattr(verifying, "emulated", lambda kits, processor: native())

    def let_it(change):
        calls: list[str] = []

        def outputs(machine, model, calls_, seconds):
            calls.append(model.path.stem)
            found = outputs_on(machine, model, calls_, seconds)
            return found if len(calls) % 2 else change(found)  # reference first, then the other

        monkeypatch.setattr(verifying, "outputs_on", outputs)

    return let_it


def one_off(found):
    return {name: output + 1 for name, output in found.items()}


def test_without_emulators_it_is_skipped_and_says_how(folder, capsys, monkeypatch):
    monkeypatch.setattr("edgecompress.verifying.emulators.obstacle", lambda: "")
    empty = str(folder / "empty")
    assert main(["verify", "model.onnx", "large.onnx", "--isa", "arm64", "--cache", empty]) == 3
    out = result(capsys)
    assert out.count("SKIPPED") == 4
    assert out.count("edgecompress verify --set-up --isa arm64 --cache") == 1
    arguments = ["verify", "model.onnx", "--isa", "x86-avx2", "--cache", empty, "--json"]
    assert main(arguments) == 3
    found = document(capsys)
    assert found["verdict"] == "inconclusive"
    assert found["models"][0]["results"][0]["status"] == "skipped"


def test_where_nothing_can_be_emulated_it_says_why(folder, capsys, monkeypatch):
    reason = "qemu's user-mode emulation needs Linux; this is Darwin"
    monkeypatch.setattr("edgecompress.verifying.emulators.obstacle", lambda: reason)
    monkeypatch.setattr(verifying, "obstacle", lambda: reason)
    assert main(["verify", "model.onnx", "--isa", "arm64", "--set-up"]) == 3
    assert f"arm64: {reason}" in result(capsys)
    assert main(["verify", "--isa", "arm64", "--set-up"]) == 3
    assert result(capsys) == f"{reason}\n"


def test_on_an_arm_host_its_own_kernels_answer(folder, capsys, monkeypatch):
    monkeypatch.setattr(verifying, "host_isa", lambda: "arm64")
    monkeypatch.setattr("edgecompress.verifying.emulators.obstacle", lambda: "this is aarch64")
    arguments = ["verify", "model.onnx", "--isa", "arm64", "--isa", "x86-avx2", "--json"]
    assert main(arguments) == 3
    own, _, other = document(capsys)["models"][0]["results"]
    assert own["status"] == "pass"
    assert own["reason"] == "these are this host's own kernels; within the bounds"
    assert (other["status"], other["reason"]) == ("skipped", "this is aarch64")


def test_inside_the_bounds_is_a_pass(folder, capsys, pretend):
    pretend(lambda found: found)
    arguments = ["verify", "model.onnx", "large.onnx", "--isa", "arm64", "--cpu", "cortex-a53"]
    assert main([*arguments, "--json"]) == 0
    found = document(capsys)
    assert found["verdict"] == "pass"
    assert [m["model"] for m in found["models"]] == ["model", "large"]
    first = found["models"][0]
    assert first["inputs"] == "made up from 64 seeds"
    assert first["results"] == [
        {
            "isa": "arm64",
            "processor": "cortex-a53",
            "status": "pass",
            "reason": "within the bounds",
            "outputs": [
                {
                    "output": "y", "samples": 64, "max_abs_error": 0.0, "max_rel_error": 0.0,
                    "step": None, "agreement": 1.0, "changed": 0, "problem": "", "bound": 1e-5,
                    "steps": None,
                }
            ],
            "accuracy": None,
        }
    ]  # fmt: skip


def test_outside_the_bounds_fails_on_arm_and_is_reported_on_x86(folder, capsys, pretend):
    pretend(one_off)
    assert main(["verify", "model.onnx", "--isa", "arm64", "--cpu", "cortex-a76"]) == 1
    out = result(capsys)
    assert "FAIL" in out
    assert "model on cortex-a76: output 'y': relative error 0." in out
    assert main(["verify", "model.onnx", "--isa", "x86-avx2"]) == 0
    assert "REPORTED" in result(capsys)


@pytest.mark.parametrize(
    ("profile", "processors"),
    [
        ("raspberry-pi-3", ["cortex-a53"]),
        ("android-flagship", ["cortex-a53", "cortex-a76", "max"]),
        ("cloud-1vcpu", ["cortex-a53", "cortex-a76", "haswell"]),
    ],
)
def test_a_profile_names_the_processors_of_its_fleet(folder, capsys, pretend, profile, processors):
    pretend(lambda found: found)
    assert main(["verify", "model.onnx", "--profile", profile, "--json"]) == 0
    results = document(capsys)["models"][0]["results"]
    assert [result["processor"] for result in results] == processors


def test_labels_score_both_processors(folder, capsys, pretend):
    pretend(lambda found: {name: output[:, :, ::-1] for name, output in found.items()})
    np.savez("data.npz", x=X, labels=np.zeros(40, np.int64))
    arguments = ["verify", "model.onnx", "--isa", "x86-avx2", "--data", "data.npz"]
    assert main(arguments) == 0
    printed = result(capsys)
    assert "accuracy here" in printed
    assert "model: accuracies lie " in printed
    pretend(lambda found: found)
    assert main(arguments) == 0
    assert "model: accuracies are the same everywhere (95 % bound on how far " in result(capsys)
    pretend(lambda found: {name: output[:, :, ::-1] for name, output in found.items()})
    assert main([*arguments, "--samples", "10", "--json"]) == 0
    first = document(capsys)["models"][0]
    spread = first["spread"]
    assert {spread["highest"], spread["lowest"]} == {"this host", "haswell"}
    assert spread["value"] == pytest.approx(abs(first["results"][0]["accuracy"]["drop"]["value"]))
    assert (spread["low"] <= spread["value"] <= spread["high"], spread["samples"]) == (True, 10)
    accuracy = first["results"][0]["accuracy"]
    assert first["results"][0]["outputs"][0]["samples"] == 10
    here, there = accuracy["here"]["value"], accuracy["there"]["value"]
    assert accuracy["drop"]["value"] == pytest.approx(here - there)
    assert accuracy["drop"]["low"] < accuracy["drop"]["high"]


def test_a_model_in_a_bundle_runs_on_its_golden_inputs(folder, capsys, pretend):
    pretend(lambda found: found)
    tensors = [{"role": "input", "name": "x", "type": "float32", "shape": [1, *X.shape[1:]]}]
    Path("manifest.json").write_text(json.dumps({"golden": {"calls": 5, "tensors": tensors}}))
    Path("golden.bin").write_bytes(X[:5].astype("<f4").tobytes())
    assert main(["verify", "model.onnx", "--isa", "x86-avx2", "--json"]) == 0
    first = document(capsys)["models"][0]
    assert first["inputs"].endswith("golden.bin")
    assert first["results"][0]["outputs"][0]["samples"] == 5


@pytest.mark.parametrize(
    ("error", "code", "status", "words"),
    [
        (RefusedError("no kernel for Foo"), 1, "fail",
         "ONNX Runtime refuses it there: no kernel for Foo"),
        (ChildFailedError("model.onnx: haswell ended by signal SIGILL"), 4, "error",
         "model.onnx: haswell ended by signal SIGILL"),
    ],
)  # fmt: skip
def test_what_goes_wrong_there_is_the_answer(folder, capsys, pretend, error, code, status, words):
    def fail(_):
        raise error

    pretend(fail)
    assert main(["verify", "model.onnx", "--isa", "x86-avx2", "--json"]) == code
    (only,) = document(capsys)["models"][0]["results"]
    assert (only["status"], only["reason"]) == (status, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "MODEL.onnx: not given; name the ONNX files to verify"),
        (["model.onnx"], "--isa: not given; expected --isa arm64, --isa x86-avx2 or --profile"),
        (["model.onnx", "--isa", "mips"], "--isa mips: not known; expected one of arm64, x86"),
        (["model.onnx", "--profile", "unknown.toml"],
         "--profile unknown.toml: nothing of its fleet can be imitated (given none); give --isa "),
        (["model.onnx", "--isa", "arm64", "--data", "a.npz", "--inputs", "b.npz"],
         "--data and --inputs: both given; each says what to run, give one"),
        (["absent.onnx", "--isa", "arm64"], "absent.onnx: no such file"),
        (["model.onnx", "--isa", "arm64", "--inputs", "other.npz"],
         "--inputs other.npz: has no array 'x'"),
        (["model.onnx", "--isa", "arm64", "--data", "other.npz"], "other.npz: has no labels"),
    ],
)  # fmt: skip
def test_bad_use_is_one_line(folder, capsys, arguments, words):
    np.savez("other.npz", z=X)
    Path("unknown.toml").write_text(
        'name = "x"\n[device]\ndescription = "x"\n[budget]\nmodel_size_mb = 1\n'
    )
    assert main(["verify", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("error: ") == 1


# --- the real thing


@pytest.mark.slow
def test_two_models_on_real_emulators(kits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_models.save_mlp(Path("float.onnx"), width=64, depth=3)
    x = RNG.normal(size=(128, 64)).astype(np.float32)
    int8 = next(m for m in quantize(onnx_model("float.onnx"), {"x": x}, Path()) if m.model)
    assert int8.model is not None
    np.savez("inputs.npz", x=x)
    arguments = ["float.onnx", "int8-static.onnx", "--inputs", "inputs.npz"]
    code = main(["verify", *arguments, "--isa", "arm64", "--isa", "x86-avx2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0, found
    plain, eight = (
        {r["processor"]: (r["status"], r["outputs"][0]) for r in model["results"]}
        for model in found["models"]
    )
    for name in ("cortex-a53", "cortex-a76"):
        assert plain[name][0] == eight[name][0] == "pass"
        assert plain[name][1]["max_rel_error"] <= 1e-5
        assert eight[name][1]["steps"] <= 1.001
    assert plain["haswell"][0] == "reported"
    assert eight["haswell"][1]["steps"] >= 0


@pytest.mark.slow
def test_which_8_bit_forms_saturate_without_vnni(kits, tmp_path):
    source = onnx_model(tiny_models.save_mlp(tmp_path / "float.onnx", width=64, depth=2))
    x = {"x": RNG.uniform(0, 1, size=(64, 64)).astype(np.float32)}  # large codes beside another
    arm, x86 = (next(p for p in PROCESSORS if p.name == name) for name in ("cortex-a76", "haswell"))
    apart = {}
    for scheme, seven in (("static", False), ("static", True), ("static-u8u8", False)):
        settings = QuantizeSettings(schemes=(scheme,), reduce_range=seven)
        (made,) = quantize(source, x, tmp_path / f"{scheme}-{seven}", settings)
        facts = admit(made.model.path)
        outputs = [answers(Member(p.name, p), kits, facts, x, 300) for p in (arm, x86)]
        apart[scheme, seven] = float(np.abs(outputs[0] - outputs[1]).max())
    assert apart["static", False] > 0.01  # two products are added in 16 bits
    assert apart["static", True] <= 1e-6
    assert apart["static-u8u8", False] <= 1e-6
