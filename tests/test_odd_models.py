"""Float models as others write them: every scheme answers as they do, or says why it makes none."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from float_models import save
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from edgecompress.quantization import QuantizeSettings, Scheme
from edgecompress.quantizing import schemes
from edgecompress.quantizing.control import Terms, control
from edgecompress.quantizing.prepared import NothingToDoError
from edgecompress.quantizing.schemes import QuantizedModel, quantize
from edgecompress.quantizing.static import StaticForm
from edgecompress.records import OnnxModel
from edgecompress.runtime import admit, run

Floats = NDArray[np.float32]
EVERY = QuantizeSettings(schemes=get_args(Scheme))
RNG = np.random.default_rng(0)
ERRORS = {"int4-weights": 0.2, "fp16": 1e-4}  # squared, over the variance; 8 bits: 0.01


def normal(*shape: int) -> Floats:
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def all_made(model: OnnxModel, x: Floats, folder: Path) -> dict[str, QuantizedModel]:
    """Return every scheme's model, having held its answers against the float one's."""
    exact = run(model, {"x": x})
    found = {each.scheme: each for each in quantize(model, {"x": x}, folder, EVERY)}
    for scheme, made in found.items():
        if made.model is not None:
            admit(made.model.path)
            apart = np.square(run(made.model, {"x": x}) - exact).mean() / exact.var()
            assert apart < ERRORS.get(scheme, 0.01), f"{scheme}: {apart:.2g}"
    return found


def test_factors_of_a_product_and_a_bias_of_any_shape_count(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "v", "one"], ["h"], alpha=0.5, beta=2.0),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "row"], ["y"], alpha=3.0, beta=0.25, transB=1),
    ]
    weights = {"v": normal(64, 128), "w": normal(128, 10).T}
    model = save(tmp_path / "m.onnx", nodes, [64], **weights, one=0.7, row=normal(1, 10))
    found = all_made(model, normal(100, 64) * 10, tmp_path / "out")
    assert [scheme for scheme, made in found.items() if made.model is None] == []


def test_weights_in_stacks_or_in_front_have_no_scale_a_channel(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["front", "x"], ["a"]),
        helper.make_node("MatMul", ["a", "stack"], ["b"]),
        helper.make_node("GlobalMaxPool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "few"], ["y"]),
    ]
    stacked = {"front": normal(40, 40), "stack": normal(32, 64)[None].repeat(4, 0)}
    model = save(tmp_path / "m.onnx", nodes, [4, 40, 32], **stacked, few=normal(4, 10))
    found = all_made(model, normal(48, 4, 40, 32), tmp_path / "out")
    assert found["int8-static-per-tensor"].model is not None
    assert found["int8-static"].reason == (
        "static int8 has nothing to gain: no Conv, ConvTranspose, Gather, Gemm, MatMul with "
        "weights in 32-bit floats (matrix products: at least 1024) beside those that stay float"
    )


def branching(path: Path) -> OnnxModel:
    """Write a model whose branches read a value of the outer graph by its name."""

    def branch(name: str, *nodes: NodeProto) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, ["batch", 64])
        return helper.make_graph(list(nodes), name, [], [value])

    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["loud"]),
        helper.make_node(
            "If",
            ["loud"],
            ["i"],
            then_branch=branch("then", helper.make_node("Neg", ["r"], ["then.y"])),
            else_branch=branch("else", helper.make_node("Abs", ["r"], ["else.y"])),
        ),
        helper.make_node("MatMul", ["i", "v"], ["y"]),
    ]
    return save(path, nodes, [64], w=normal(64, 64), v=normal(64, 10), limit=0.0)


def test_what_a_branch_reads_stands_before_it(tmp_path: Path) -> None:
    found = all_made(branching(tmp_path / "m.onnx"), normal(100, 64), tmp_path / "out")
    assert found["int8-dynamic"].model and found["fp16"].model and found["int8-static"].model


@pytest.mark.parametrize("missing", ["w", "x"])
def test_a_file_that_cannot_be_used_is_none(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> onnx.ModelProto:
        model = onnx.load(tmp_path / "m.onnx")
        model.graph.node[0].input[1] = missing  # unknown, or a shape that does not fit
        return model

    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    model = save(tmp_path / "m.onnx", [node], [64], weights=normal(64, 10))
    monkeypatch.setattr(schemes, "dynamic_int8", broken)
    (made,) = quantize(
        model, {"x": normal(20, 64)}, tmp_path / "out", QuantizeSettings(schemes=("dynamic",))
    )
    assert made.model is None
    assert made.reason.startswith("ONNX Runtime cannot use what its quantizer made: ")
    assert str(tmp_path) not in made.reason
    assert list((tmp_path / "out").iterdir()) == []


def test_no_advice_is_printed_on_weights_shared_by_dense_layers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Gemm", ["h", "w"], ["i"], transB=1),
        helper.make_node("Gemm", ["i", "v"], ["y"]),
    ]
    weights = {"w": normal(64, 64), "v": normal(64, 10), "b": normal(64)}
    model = save(tmp_path / "m.onnx", nodes, [64], **weights)
    all_made(model, normal(64, 64), tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_control_says_where_there_is_no_int8_to_control(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "few"], ["y"])
    model = save(tmp_path / "m.onnx", [node], [64], few=normal(64, 10))
    terms = Terms(0.0, lambda int8: 0.0, lambda exact, int8: {})
    with pytest.raises(NothingToDoError, match="nothing to gain"):
        control(model, {"x": normal(32, 64)}, tmp_path / "out", StaticForm(), terms)
    assert list((tmp_path / "out").iterdir()) == []
