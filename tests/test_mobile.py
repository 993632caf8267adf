"""What a bundle holds beside the model: golden calls, ONNX Runtime's word on phones, the bill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from onnx import TensorProto, helper
from onnxruntime.tools.reduced_build_config_parser import parse_config
from test_bundle import contents

from edgecompress.errors import ModelError
from edgecompress.exporting import mobile
from edgecompress.exporting.bundle import Bundle, write_bundle
from edgecompress.exporting.golden import Golden, record, rows_as_calls, tolerance_of
from edgecompress.exporting.mobile import Accelerator, Mobile, Split
from edgecompress.records import OnnxModel
from edgecompress.store import artifact

YES = Split("yes", 1, 9, 9, ())
NO = Split("no", 0, 0, 9, ("Gather", "Loop"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("mobile")
    plain = contents(folder / "stage")
    return write_bundle(folder / "bundle", replace(plain, intended_use="Sort toys. Not weapons."))


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    return artifact(tiny_models.save_mlp(tmp_path / "mlp.onnx"), OnnxModel)


def calls(count: int = 3) -> tuple[dict[str, np.ndarray], ...]:
    return rows_as_calls({"x": np.ones((count, 8), np.float32)}, 8)


# --- golden calls


def test_calls_are_rows_as_apps_give_them() -> None:
    given = {"x": np.arange(10).reshape(5, 2), "z": np.arange(5)}
    one = rows_as_calls(given, 3)
    assert [call["x"].tolist() for call in one] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    two = rows_as_calls(given, 8, rows=2)
    assert [call["z"].tolist() for call in two] == [[0, 1], [2, 3]]  # the fifth is half a call


def test_another_model_is_told_by_its_answers(model: OnnxModel, tmp_path: Path) -> None:
    golden = record(model, calls(), (), "fp32", "mlp")
    assert golden.error_of(model) == 0
    wider = artifact(tiny_models.save_mlp(tmp_path / "deep.onnx", depth=2), OnnxModel)
    assert golden.error_of(wider) > golden.max_rel_error == tolerance_of("fp32")


def test_answers_of_other_shapes_are_left_out(tmp_path: Path) -> None:
    x = tiny_models.value("x", 4)
    y = tiny_models.value("y", "found", 1, kind=TensorProto.INT64)
    nodes = [helper.make_node("NonZero", ["x"], ["t"]), helper.make_node("Transpose", ["t"], ["y"])]
    path = tiny_models.save(helper.make_graph(nodes, "g", [x], [y]), tmp_path / "nz.onnx")
    rows = ([1, 0, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0])
    given = [{"x": np.array(row, np.float32)} for row in rows]
    golden = record(artifact(path, OnnxModel), given, (), "fp32", "mlp")
    assert [answer.ravel().tolist() for answer in golden.answers] == [[0, 2], [1, 2]]
    assert len(golden.calls) == 2


def test_a_call_that_the_model_refuses_is_one_line(model: OnnxModel) -> None:
    wrong = {"x": np.ones((1, 7), np.float32)}
    with pytest.raises(ModelError, match=r"^mlp: cannot run on the golden inputs: .*7"):
        record(model, [wrong], (), "fp32", "mlp")


def test_an_answer_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    listed = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [tiny_models.value("x", "n", 8)], [listed])
    model = artifact(tiny_models.save(graph, tmp_path / "list.onnx"), OnnxModel)
    wanted = r"^list: output 'y' is a seq\(tensor\(float\)\); a bundle needs a tensor of numbers$"
    with pytest.raises(ModelError, match=wanted):
        record(model, calls(), (), "fp32", "list")


def test_the_file_is_little_endian_whatever_the_arrays_are() -> None:
    big = np.array([[1.0, 2.0]], ">f4")
    golden = Golden(({"x": np.array([[3]], ">i8")},), (big,), "y", 1e-3)
    assert golden.to_bytes() == bytes([3, *[0] * 7]) + np.array([1, 2], "<f4").tobytes()


# --- phones


def test_a_reduced_build_is_told_operators_and_types(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.folder / "required_operators.config"
    operators, _ = parse_config(str(path))
    assert operators["com.microsoft"][1] == {"FusedConv"}
    model = artifact(tiny_models.save_mlp(tmp_path / "mlp.onnx"), OnnxModel)
    made = mobile.make_mobile(model, tmp_path, record(model, calls(), (), "fp32", "mlp"))
    assert made.ort_reason == ""
    listed = (tmp_path / "required_operators.config").read_text()
    assert 'MatMul{"inputs": {"0": ["float"]}}' in listed
    _, types = parse_config(str(tmp_path / "required_operators.config"), True)
    assert types is not None


def test_the_verdict_of_onnx_runtime_is_in_the_manifest(bundle: Bundle) -> None:
    said = json.loads(bundle.manifest.path.read_text("utf-8"))["mobile"]
    assert said["verdict"].startswith("ONNX Runtime runs it on the CPU of any phone; an accel")
    android = said["accelerators"][0]
    assert android["name"] == "NNAPI (Android)"
    assert android["as_it_is"]["worthwhile"] == "no"  # its batch is free
    assert android["with_fixed_shapes"] == {
        "worthwhile": "yes", "parts": 1, "supported_nodes": 4, "nodes": 4,
        "unsupported_operators": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("as_it_is", "fixed", "words"),
    [
        (YES, YES, "Chip: worth trying; 9 of 9 operators in 1 part"),
        (NO, YES, "Chip: worth trying once the input sizes are fixed; 9 of 9 operators in 1 part"),
        (NO, NO, "Chip: not worth trying; 0 of 9 operators in 0 parts, lacks Gather, Loop"),
    ],
)
def test_the_card_says_it_in_plain_words(as_it_is: Split, fixed: Split, words: str) -> None:
    assert Accelerator("Chip", as_it_is, fixed).in_words() == words


def test_where_no_accelerator_helps_the_cpu_is_named() -> None:
    none = Mobile(accelerators=(Accelerator("Chip", NO, NO),))
    assert none.verdict.endswith("on the CPU of any phone, and expects no accelerator to help")


def test_a_model_that_its_tools_cannot_judge_is_converted_all_the_same(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    text = mobile._CHILD.read_text("utf-8")
    child.write_text(text.replace("usability_checker as", "no_such_checker as"), "utf-8")
    monkeypatch.setattr(mobile, "_CHILD", child)
    made = mobile.make_mobile(model, tmp_path, record(model, calls(), (), "fp32", "mlp"))
    assert made.ort_reason == "" and (tmp_path / "model.ort").exists()
    assert made.verdict == (
        "ONNX Runtime's own verdict is not known: its checker failed: ImportError"
    )


def test_a_conversion_that_answers_otherwise_is_no_part_of_the_bundle(
    model: OnnxModel, tmp_path: Path
) -> None:
    golden = record(model, calls(), (), "fp32", "mlp")
    others = replace(golden, answers=tuple(answer + 1 for answer in golden.answers))
    made = mobile.make_mobile(model, tmp_path, others)
    assert made.ort_reason == "the converted model gives other answers than model.onnx"
    assert not (tmp_path / "model.ort").exists()
    assert made.accelerators  # what was said of the model stands


# --- the bill of materials and the card


def test_the_bill_names_model_data_and_runtime(bundle: Bundle) -> None:
    bom = json.loads((bundle.folder / "bom.cdx.json").read_text("utf-8"))
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    model = bom["metadata"]["component"]
    digests = json.loads(bundle.manifest.path.read_text("utf-8"))["files"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": digests["model.onnx"]["sha256"]}]
    card = model["modelCard"]
    assert card["considerations"]["useCases"] == ["Sort toys. Not weapons."]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {
            "type": "accuracy", "value": "0.95", "slice": "test",
            "confidenceInterval": {"lowerBound": "0.93", "upperBound": "0.97"},
        }
    ]  # fmt: skip
    refs = {part["bom-ref"] for part in bom["components"]}
    assert refs == set(bom["dependencies"][0]["dependsOn"])
    assert {"model.ort", "labels.txt", "data-train", "onnxruntime"} <= refs
    assert {entry["ref"] for entry in card["modelParameters"]["datasets"]} <= refs


def test_the_bill_holds_no_time_and_follows_from_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    text = (bundle.folder / "bom.cdx.json").read_text("utf-8")
    assert "timestamp" not in text
    plain = contents(tmp_path / "stage")
    again = write_bundle(tmp_path / "a", replace(plain, intended_use="Sort toys. Not weapons."))
    assert (again.folder / "bom.cdx.json").read_text("utf-8") == text
    other = write_bundle(tmp_path / "b", plain)
    serials = [
        json.loads((made.folder / "bom.cdx.json").read_text("utf-8"))["serialNumber"]
        for made in (again, other)
    ]
    assert len(set(serials)) == 2


def test_the_card_repeats_what_the_author_says(bundle: Bundle) -> None:
    card = (bundle.folder / "README.md").read_text("utf-8")
    assert "\nSort toys. Not weapons.\n" in card
    assert "has not written down" not in card
    for name in ("model.onnx", "model.ort"):
        size = (bundle.folder / name).stat().st_size
        assert f"| {name} | {size:,} | " in card
