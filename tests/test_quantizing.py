"""Quantization: small problems, calibration that cannot serve, digests, files left behind."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from float_models import classifier, images, operators, save
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecompress.errors import DataError, ModelError
from edgecompress.exporting.parity import INT8, check_parity
from edgecompress.graphs import labels_of
from edgecompress.quantizing import dynamic, prepared, static
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run, session
from edgecompress.store import artifact

BOTH = QuantizeSettings(schemes=("static", "dynamic"))
STATIC = QuantizeSettings(schemes=("static",))
DYNAMIC = QuantizeSettings(schemes=("dynamic",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return classifier(tmp_path_factory.mktemp("float") / "model.onnx")


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile", "mse"])
def test_static_keeps_the_classes_in_a_third_of_the_bytes(
    calibration: str, model: OnnxModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = QuantizeSettings.model_validate({"schemes": ["static"], "calibration": calibration})
    (made,) = quantize(model, images(200), tmp_path / "out", settings)
    assert (made.scheme, made.reason) == ("int8-static", "")
    assert made.model is not None
    assert made.model.size_bytes < model.size_bytes / 3
    unseen = images(300, seed=2)
    parity = check_parity(run(model, unseen), made.model, unseen, "float", INT8)
    assert parity.passed, parity.reason
    assert capfd.readouterr() == ("", "")


def test_what_is_made_is_u8s8_with_int32_biases(model: OnnxModel, tmp_path: Path) -> None:
    (made,) = quantize(model, images(200), tmp_path, STATIC)
    assert made.model is not None
    graph = onnx.load(made.model.path).graph
    kinds = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    assert kinds == {TensorProto.INT8}
    assert TensorProto.INT32 in {tensor.data_type for tensor in graph.initializer}
    zero_points = {t.name: t.data_type for t in graph.initializer}
    activations = {zero_points[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"}
    assert activations == {TensorProto.UINT8}


def test_batch_names_and_labels_stay(model: OnnxModel, tmp_path: Path) -> None:
    (made,) = quantize(model, images(64), tmp_path, STATIC)
    assert made.model is not None
    assert labels_of(onnx.load(made.model.path)) == ("a", "b")
    opened = session(made.model.path)
    assert [(i.name, i.shape) for i in opened.get_inputs()] == [("x", ["batch", 1, 8, 8])]
    assert [(o.name, o.shape) for o in opened.get_outputs()] == [("y", ["batch", 10])]


def test_two_folders_have_one_digest_and_hold_nothing_else(
    model: OnnxModel, tmp_path: Path
) -> None:
    first, second = (
        quantize(model, images(64), tmp_path / name) for name in ("a", "secret_folder")
    )
    assert [m.model.sha256 for m in first if m.model] == [m.model.sha256 for m in second if m.model]
    files = sorted(f.name for f in (tmp_path / "secret_folder").iterdir())
    floats = ["int4-weights.onnx", "int8-dynamic.onnx", "int8-static-float-ends.onnx"]
    assert files == [*floats, "int8-static.onnx", "int8-weights.onnx"]
    for name in files:
        data = (tmp_path / "secret_folder" / name).read_bytes()
        assert b"secret_folder" not in data
        assert b"/tmp" not in data
        assert b"onnx.infer" not in data


def test_dynamic_leaves_convolutions_alone(model: OnnxModel, tmp_path: Path) -> None:
    (made,) = quantize(model, {}, tmp_path, DYNAMIC)  # it needs no data
    assert made.model is not None
    assert "Conv" in operators(made.model)
    assert "MatMulInteger" in operators(made.model)
    unseen = images(100, seed=2)
    parity = check_parity(run(model, unseen), made.model, unseen, "float", INT8)
    assert parity.passed, parity.reason


def test_small_products_stay_float(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": g.normal(size=(64, 32)), "w2": g.normal(size=(32, 10))}
    mlp = save(tmp_path / "m.onnx", nodes, [64], **weights)
    x = {"x": g.normal(size=(100, 64)).astype(np.float32)}
    for made in quantize(mlp, x, tmp_path / "out", BOTH):
        assert made.model is not None
        kinds = {
            tuple(t.dims): t.data_type
            for t in onnx.load(made.model.path).graph.initializer
            if len(t.dims) == 2
        }
        assert kinds == {(64, 32): TensorProto.INT8, (32, 10): TensorProto.FLOAT}
        parity = check_parity(run(mlp, x), made.model, x, "float", INT8)
        assert parity.passed, parity.reason


def test_weights_shared_by_several_products(tmp_path: Path) -> None:
    # ONNX Runtime transposes a Gemm's weights in place, whoever else reads them.
    g = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h1"], transB=1),
        helper.make_node("Gemm", ["h1", "w"], ["h2"], transB=1),
        helper.make_node("MatMul", ["h2", "w"], ["h3"]),
        helper.make_node("MatMul", ["h3", "v"], ["y"]),
    ]
    tied = save(
        tmp_path / "m.onnx", nodes, [40], w=g.normal(size=(40, 40)) / 6, v=g.normal(size=(40, 10))
    )
    x = {"x": g.normal(size=(200, 40)).astype(np.float32)}
    for made in quantize(tied, x, tmp_path / "out", BOTH):
        assert made.model is not None
        parity = check_parity(run(tied, x), made.model, x, "float", INT8)
        assert parity.max_rel_error < 0.1, made.scheme
        assert parity.passed, parity.reason


def test_shapes_that_an_exporter_noted_are_no_hindrance(model: OnnxModel, tmp_path: Path) -> None:
    # torch notes the shape of each weight; the quantizer transposes a Gemm's, and then they differ.
    noted = onnx.load(model.path)
    for weight in noted.graph.initializer:
        kind = (weight.name, weight.data_type, list(weight.dims))
        noted.graph.value_info.append(helper.make_tensor_value_info(*kind))
    path = tmp_path / "noted.onnx"
    path.write_bytes(noted.SerializeToString())
    with pytest.raises(Exception, match="Inferred shape and existing shape differ"):
        dynamic.quantize_dynamic(path, tmp_path / "raw.onnx")
    made = quantize(artifact(path, OnnxModel), images(64), tmp_path / "out")
    assert all(one.model for one in made), [one.reason for one in made]


def test_nothing_to_gain_is_said(tmp_path: Path) -> None:
    tiny = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [4],
        w=np.ones((4, 10)),
    )
    made = quantize(
        tiny, {"x": np.eye(4, dtype=np.float32).repeat(5, axis=0)}, tmp_path / "out", BOTH
    )
    assert [m.model for m in made] == [None, None]
    assert [m.scheme for m in made] == ["int8-static", "int8-dynamic"]
    assert made[0].reason.startswith("static int8 has nothing to gain: no Conv, ")
    assert list((tmp_path / "out").iterdir()) == []


def test_reduced_range_uses_seven_bits(model: OnnxModel, tmp_path: Path) -> None:
    settings = QuantizeSettings(schemes=("static",), reduce_range=True)
    (made,) = quantize(model, images(64), tmp_path, settings)
    assert made.model is not None
    weights = [
        numpy_helper.to_array(t)
        for t in onnx.load(made.model.path).graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) > 1
    ]
    assert max(int(np.abs(w).max()) for w in weights) <= 64


@pytest.mark.parametrize(
    ("module", "tool"),
    [
        (prepared, "quant_pre_process"),
        (static, "quantize_static"),
        (dynamic, "quantize_dynamic"),
    ],
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_a_full_disk_is_not_taken_for_a_model_without_gain(
    module: ModuleType, tool: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    mlp = save(tmp_path / "m.onnx", nodes, [128], w=np.ones((128, 10)))
    monkeypatch.setattr(module, tool, fail)
    x = np.random.default_rng(0).random((64, 128), dtype=np.float32)
    with pytest.raises(type(error)):
        quantize(mlp, {"x": x}, tmp_path / "out")
    assert list((tmp_path / "out").glob(".*")) == []


def constant(data: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full_like(data, 0.5)


def one_image(data: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(data[:1], len(data), axis=0)


def infinite(data: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.arange(len(data)).reshape(-1, 1, 1, 1) == 3, np.inf, data)


def few(data: NDArray[np.float32]) -> NDArray[np.float32]:
    return data[:5]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (constant, "only 0% of the channels of calibration input 'x' vary over 64 samples, .* 99%"),
        (one_image, "only 0% of the channels"),
        (infinite, "calibration input 'x' holds values that are not finite"),
        (few, "5 calibration samples, at least 16 needed; give more training data"),
    ],
)
def test_calibration_that_cannot_serve_is_refused(
    spoil: object, message: str, model: OnnxModel, tmp_path: Path
) -> None:
    assert callable(spoil)
    with pytest.raises(DataError, match=message) as caught:
        quantize(model, {"x": spoil(images(64)["x"])}, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dead_channel_of_three_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    rgb = save(tmp_path / "m.onnx", nodes, [3, 8, 8], w=np.ones((10, 3, 3, 3)))
    x = np.random.default_rng(0).random((64, 3, 8, 8), dtype=np.float32)
    x[:, 1] = 0.5
    with pytest.raises(DataError, match="only 67% of the channels"):
        quantize(rgb, {"x": x}, tmp_path)


def test_black_corners_of_a_feature_vector_are_no_fault(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    mlp = save(tmp_path / "m.onnx", nodes, [128], w=g.normal(size=(128, 10)))
    x = g.random((64, 128), dtype=np.float32)
    x[:, :12] = 0
    assert all(made.model for made in quantize(mlp, {"x": x}, tmp_path, BOTH))


def test_a_missing_input_is_named(model: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no calibration data for the model's input 'x'; given: img"
    ):
        quantize(model, {"img": images(64)["x"]}, tmp_path)


def test_a_quantized_model_is_refused(model: OnnxModel, tmp_path: Path) -> None:
    for made in quantize(model, images(64), tmp_path):
        assert made.model is not None
        with pytest.raises(ModelError, match=r"already quantized .*; give the float model instead"):
            quantize(made.model, images(64), tmp_path / "again")


def test_calibration_takes_evenly_spaced_samples(model: OnnxModel, tmp_path: Path) -> None:
    # Data sorted by brightness: the first samples alone would miss the range.
    data = {"x": np.sort(images(400)["x"] * np.linspace(0.01, 3, 400).reshape(-1, 1, 1, 1), axis=0)}
    data = {"x": data["x"].astype(np.float32)}
    settings = QuantizeSettings(schemes=("static",), calibration_samples=50)
    (made,) = quantize(model, data, tmp_path, settings)
    assert made.model is not None
    parity = check_parity(run(model, data), made.model, data, "float", INT8)
    assert parity.passed, parity.reason
