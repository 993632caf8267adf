"""The app bundle: what it holds, that it proves itself, and that nothing tears it."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecompress.errors import ModelError
from edgecompress.exporting import mobile
from edgecompress.exporting.bundle import Bundle, write_bundle
from edgecompress.exporting.contents import BundleContents
from edgecompress.exporting.download import download_bytes
from edgecompress.exporting.golden import rows_as_calls
from edgecompress.records import (
    BudgetCheck,
    Candidate,
    Evaluation,
    Metric,
    OnnxModel,
    Parity,
    Report,
    Verdict,
)
from edgecompress.runtime import run
from edgecompress.store import artifact
from edgecompress.tasks.task import Normalization

CHECK = BudgetCheck(
    "latency_ms.p95", "ms", 50, 1.2, 0.4, float("inf"), "fail", "predicted", "too slow"
)


def write_model(path: Path) -> OnnxModel:
    g = np.random.default_rng(0)
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["image", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(g.normal(size=(3, 1, 3, 3)).astype(np.float32), "w"),
            numpy_helper.from_array(g.normal(size=3).astype(np.float32), "b"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return artifact(path, OnnxModel)


def images() -> dict[str, NDArray[np.float32]]:
    return {"image": np.random.default_rng(1).random((8, 1, 8, 8), dtype=np.float32)}


def contents(folder: Path) -> BundleContents:
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = Evaluation(Metric("accuracy", 0.95, 0.93, 0.97, "test"), ())
    chosen = Candidate(
        label="student-fp32",
        model=write_model(folder / "model.onnx"),
        scheme="fp32",
        parity=Parity("torch", 256, 1e-6, 1e-6, 1.0, True, "agrees with torch"),
        evaluations=(accuracy,),
        measurement=None,
        prediction=None,
    )
    report = Report(
        verdict=Verdict("fail", (CHECK,), "latency_ms.p95 is over its limit"),
        profile="android-cpu",
        task="shapes",
        chosen=chosen.label,
        candidates=(chosen,),
        teacher=None,
        control=None,
        trainings=(),
        prunings=(),
        test_reads=1,
        environment={"onnxruntime": "1.2.3", "host": "secret_cpu", "system": "secret_kernel"},
        settings={},
        notes=(),
        folder=folder,
    )
    return BundleContents(
        report,
        rows_as_calls(images(), 8),
        class_names=("a circle", "a\nsquare", "ünï"),
        normalization={"image": Normalization(1 / 255, (0.5,), (0.25,))},
        samples={"train": 1000, "validation": 200, "test": 500},
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> BundleContents:
    return contents(tmp_path_factory.mktemp("secret_run_folder") / "stage")


@pytest.fixture(scope="module")
def bundle(given: BundleContents) -> Bundle:
    return write_bundle(given.report.folder.parent / "bundle", given)


def manifest(made: Bundle) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(made.manifest.path.read_text(encoding="utf-8"))
    return document


def run_snippet(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(folder / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_everything_an_app_needs_is_there(bundle: Bundle) -> None:
    assert sorted(path.name for path in bundle.folder.iterdir()) == [
        "EdgeModel.kt",
        "EdgeModel.swift",
        "README.md",
        "bom.cdx.json",
        "golden.bin",
        "labels.txt",
        "manifest.json",
        "model.onnx",
        "model.ort",
        "normalization.json",
        "required_operators.config",
        "run.py",
    ]
    assert bundle.ort_reason == ""


def test_manifest_digests_every_file_and_stamps_the_verdict(bundle: Bundle) -> None:
    document = manifest(bundle)
    names = {path.name for path in bundle.folder.iterdir()} - {"manifest.json"}
    assert set(document["files"]) == names == {file.path.name for file in bundle.files}
    for name, entry in document["files"].items():
        data = (bundle.folder / name).read_bytes()
        assert entry.pop("for")
        assert entry == {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "download_bytes": download_bytes(bundle.folder / name),
        }
    assert document["verdict"]["status"] == "fail"
    assert document["verdict"]["checks"][0]["budget"] == "latency_ms.p95"
    assert document["verdict"]["checks"][0]["high"] is None  # infinite: JSON has no such number
    assert document["inputs"] == [
        {"name": "image", "type": "tensor(float)", "shape": ["batch", 1, 8, 8]}
    ]
    assert document["output"] == {"name": "logits", "shape": ["batch", 3]}
    assert document["ort"]["file"] == "model.ort"
    assert document["golden"]["tensors"] == [
        {"role": "input", "name": "image", "type": "float32", "shape": [1, 1, 8, 8]},
        {"role": "output", "name": "logits", "type": "float32", "shape": [1, 3]},
    ]


def test_golden_calls_are_plain_numbers(bundle: Bundle) -> None:
    numbers = np.fromfile(bundle.folder / "golden.bin", "<f4").reshape(8, 64 + 3)
    np.testing.assert_array_equal(numbers[:, :64].reshape(8, 1, 8, 8), images()["image"])
    expected = run(artifact(bundle.folder / "model.onnx", OnnxModel), images())
    np.testing.assert_allclose(numbers[:, 64:], expected, rtol=1e-5)


def test_ort_form_answers_alike_and_names_its_operators(bundle: Bundle) -> None:
    ort = artifact(bundle.folder / "model.ort", OnnxModel)
    expected = run(artifact(bundle.folder / "model.onnx", OnnxModel), images())
    np.testing.assert_allclose(run(ort, images()), expected, rtol=1e-4)
    needed = (bundle.folder / "required_operators.config").read_text()
    assert "ai.onnx;1;GlobalAveragePool" in needed
    assert "nchwc" not in needed.lower()  # operators for this host only


def test_texts(bundle: Bundle) -> None:
    labels = (bundle.folder / "labels.txt").read_text(encoding="utf-8")
    assert labels.splitlines() == ["a circle", "a square", "ünï"]
    assert json.loads((bundle.folder / "normalization.json").read_text()) == {
        "image": {"scale": 1 / 255, "mean": [0.5], "std": [0.25]}
    }


def test_model_card_says_what_for_how_good_and_where_it_ends(bundle: Bundle) -> None:
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    for text in (
        "# shapes: student-fp32",
        "from `image` (float32, 1 x 8 x 8) to `logits`: one number for each of 3 classes "
        "(a circle, a square, ünï), the largest for the class it is; for devices "
        "like `android-cpu`.\n"
        "Its inputs are normalized first, as `normalization.json` says.",
        "**FAIL** on `android-cpu`: latency_ms.p95 is over its limit",
        "| latency_ms.p95 | 50 ms | 1.2 | 0.4 to inf | FAIL | predicted |",
        "| this model | accuracy | 0.9500 | 0.9300 to 0.9700 | test |",
        "1,000 train, 200 validation, 500 test",
        "exported as fp32; 100.0% agreement with torch",
        "The verdict is FAIL: do not ship it unseen.",
        "Predicted for the device, not measured on it: latency_ms.p95.",
    ):
        assert text in card


def test_no_folder_of_this_machine_leaks(bundle: Bundle) -> None:
    for path in bundle.folder.iterdir():
        data = path.read_bytes()
        assert b"secret_" not in data, path.name
        assert str(Path.home()).encode() not in data, path.name
        assert b".partial" not in data, path.name


def test_another_folder_gets_the_same_bytes_and_loses_the_old_ones(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere" / "app"
    folder.mkdir(parents=True)
    (folder / "stale.txt").write_text("old")
    again = write_bundle(folder, contents(tmp_path / "other"))
    assert again.manifest.sha256 == bundle.manifest.sha256
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["app"]


def test_python_snippet_proves_the_bundle_on_its_own(bundle: Bundle, tmp_path: Path) -> None:
    done = run_snippet(bundle.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "verdict FAIL on android-cpu"
    assert done.stdout.splitlines()[1].startswith("11 files verified; golden answers met")
    np.savez(tmp_path / "mine.npz", **images())
    done = run_snippet(bundle.folder, str(tmp_path / "mine.npz"))
    names = ["a circle", "a square", "ünï"]
    expected = [
        names[i] for i in run(artifact(bundle.folder / "model.onnx", OnnxModel), images()).argmax(1)
    ]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("kind", "row", "names", "words"),
    [
        ("classification", [-1.0, 2.0], ["a", "b"], "b"),
        ("binary", [2.0], ["ham", "spam"], "spam"),
        ("binary", [-2.0], ["ham", "spam"], "ham"),
        ("multilabel", [2.0, -1.0, 1.0], ["red", "green", "blue"], "red, blue"),
        ("multilabel", [-2.0, -1.0], ["red", "green"], "none"),
        ("tokens", [[0.0, 3.0, 1.0], [1.0, 2.0, 2.0]], ["noun", "verb"], "verb noun verb"),
        ("regression", [0.25], [], "0.25"),
    ],
)
def test_python_snippet_says_what_an_answer_of_each_kind_is(
    bundle: Bundle, kind: str, row: list[float], names: list[str], words: str
) -> None:
    snippet = runpy.run_path(str(bundle.folder / "run.py"))
    snippet["MANIFEST"]["kind"] = kind
    assert snippet["in_words"](np.array(row), names) == words


def test_python_snippet_says_in_a_line_what_it_lacks(bundle: Bundle, tmp_path: Path) -> None:
    assert run_snippet(bundle.folder, "--help").stdout.startswith("Check this bundle and run its")
    np.savez(tmp_path / "wrong.npz", picture=images()["image"])
    (tmp_path / "text.npz").write_text("no archive")
    for arguments, words in (
        ([str(tmp_path / "wrong.npz")], "picture"),
        ([str(tmp_path / "text.npz")], ""),
        ([str(tmp_path / "none.npz")], "No such file"),
        (["--text"], "--text: give one text or more after it"),
        (["--text", "hi"], "--text: this bundle has no tokenizer; give INPUTS.npz"),
    ):
        done = run_snippet(bundle.folder, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("run.py: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    bare = [sys.executable, "-I", "-S", str(bundle.folder / "run.py")]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert done.stderr == (
        "run.py: No module named 'numpy'; install it: python -m pip install onnxruntime numpy\n"
    )


def test_python_snippet_refuses_a_changed_file(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    done = run_snippet(folder)
    assert done.returncode == 1
    assert done.stderr == "run.py: model.onnx was changed since it was bundled\n"


def test_python_without_its_manifest_says_so_in_a_line(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    (folder / "manifest.json").unlink()
    done = run_snippet(folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("run.py: [Errno 2] No such file or directory: ")
    assert line.endswith("manifest.json'; keep all files of the bundle together, as they were")
    (folder / "manifest.json").write_text("{")
    assert run_snippet(folder).stderr.startswith("run.py: Expecting property name ")


def test_what_a_killed_bundling_left_is_swept(given: BundleContents, tmp_path: Path) -> None:
    left = tmp_path / ".bundle.killed_1.partial"
    left.mkdir()
    os.utime(left, (0, 0))
    write_bundle(tmp_path / "bundle", given)
    assert not left.exists()


def test_python_snippet_refuses_other_golden_answers(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    data = np.fromfile(folder / "golden.bin", "<f4")
    data[-1] += 1
    data.tofile(folder / "golden.bin")
    document = manifest(bundle)
    digest = hashlib.sha256(data.tobytes()).hexdigest()
    document["files"]["golden.bin"]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(document))
    done = run_snippet(folder)
    assert done.returncode == 1
    assert done.stderr.startswith("run.py: the golden answers are missed by ")


def test_a_changed_model_is_refused_and_the_old_bundle_stays(
    given: BundleContents, tmp_path: Path
) -> None:
    best = given.report.best
    assert best is not None
    forged = replace(best, model=replace(best.model, sha256="0" * 64))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with pytest.raises(ModelError, match="changed since it was judged; run again to bundle it"):
        write_bundle(folder, replace(given, report=replace(given.report, candidates=(forged,))))
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "old.txt"]


def test_without_a_chosen_model_there_is_nothing_to_bundle(
    given: BundleContents, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model was chosen"):
        write_bundle(tmp_path / "b", replace(given, report=replace(given.report, chosen=None)))


def test_a_failed_conversion_is_told_in_the_manifest(
    given: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobile, "LEVEL", "no such level")
    made = write_bundle(tmp_path / "bundle", given)
    assert made.ort_reason.startswith("the converter failed: ")
    assert manifest(made)["ort"]["reason"] == made.ort_reason
    assert manifest(made)["ort"]["file"] is None
    assert not (made.folder / "model.ort").exists()
    assert 'open("model.onnx")' in (made.folder / "EdgeModel.kt").read_text()
    assert run_snippet(made.folder).returncode == 0
