"""What a file says of itself: kept from step to step, read where no task is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models

from edgecompress.graphs import About, about_of, kind_of, labels_of, tidy
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.runtime import onnx_model
from edgecompress.verifying.steps import Quantization, read_quantization
from edgecompress.verifying.verify import compare

ABOUT = About(("no", "yes"), "binary", '{"x": {}}', "softmax(logits)", "0123")


def model(path: Path) -> onnx.ModelProto:
    return onnx.load(tiny_models.save_mlp(path / "m.onnx", width=64))


def test_what_is_said_is_read_and_kept(tmp_path: Path) -> None:
    said = tidy(model(tmp_path), about=ABOUT)
    assert about_of(said) == ABOUT
    assert about_of(tidy(said)) == ABOUT
    assert about_of(tidy(said, ("a", "b"))).labels == ("a", "b")
    assert about_of(tidy(model(tmp_path))) == About()
    assert [entry.key for entry in said.metadata_props] == [
        "labels", "kind", "raw", "answer", "weights",
    ]  # fmt: skip


@pytest.mark.parametrize("labels", ["cat, dog", "3", '{"0": "cat"}', "["])
def test_what_strangers_say_otherwise_is_passed_by(labels: str, tmp_path: Path) -> None:
    foreign = model(tmp_path)
    for key, value in (("labels", labels), ("kind", "detection"), ("stride", "32")):
        foreign.metadata_props.add(key=key, value=value)
    assert about_of(foreign) == About()
    assert labels_of(foreign) == ()


def test_quantized_files_say_it_too(tmp_path: Path) -> None:
    path = tmp_path / "said.onnx"
    path.write_bytes(tidy(model(tmp_path), about=ABOUT).SerializeToString())
    x = {"x": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    schemes = QuantizeSettings(schemes=("static", "dynamic"))
    for made in quantize(onnx_model(path), x, tmp_path / "out", schemes):
        assert made.model is not None
        assert about_of(onnx.load(made.model.path)) == ABOUT
        assert kind_of(made.model.path) == "binary"
        assert read_quantization(made.model.path).kind == "binary"


def test_the_files_version_is_the_lowest_that_holds_it(tmp_path: Path) -> None:
    given = model(tmp_path)
    assert (given.ir_version, given.opset_import[0].version) == (10, 18)
    assert tidy(given).ir_version == 8
    given.opset_import[0].version = 21
    assert tidy(given).ir_version == 10
    given.ir_version = 9  # never raised
    assert tidy(given).ir_version == 9


def test_constants_are_no_inputs(tmp_path: Path) -> None:
    old = model(tmp_path)
    old.ir_version, old.opset_import[0].version = 3, 8
    old.graph.input.append(tiny_models.value("w0", 64, 64))
    tidied = tidy(old)
    assert [value.name for value in tidied.graph.input] == ["x"]
    assert tidied.ir_version == 4


REFERENCE = np.array([[5.0, -1.5], [5.0, -1.5], [0.2, -3.0]], np.float32)


@pytest.mark.parametrize(
    ("kind", "agreement", "changed"),
    [
        (None, 1.0, 0),  # the larger of the two is the first, here and there
        ("classification", 1.0, 0),
        ("regression", None, 0),
        ("embedding", None, 0),
        ("multilabel", 1 / 3, 1),  # signs: one decided, one that was near its border
    ],
)
def test_answers_are_compared_as_their_kind_chooses(
    kind: str | None, agreement: float | None, changed: int
) -> None:
    there = REFERENCE + np.array([[0, 3], [0, 0], [-0.3, 0]], np.float32)
    quantization = Quantization(True, {"y": 1.0}, kind)  # type: ignore[arg-type]
    (found,) = compare({"y": REFERENCE}, {"y": there}, quantization)
    assert found.agreement == (None if agreement is None else pytest.approx(agreement))
    assert found.changed == changed


def test_tokens_choose_on_their_second_axis() -> None:
    here = np.zeros((2, 3, 4), np.float32)
    here[:, 1] = 9.0
    there = here.copy()
    there[0, 2, 0] = 20.0
    (found,) = compare({"y": here}, {"y": there}, Quantization(True, {"y": 1.0}, "tokens"))
    assert (found.agreement, found.changed) == (pytest.approx(7 / 8), 1)
