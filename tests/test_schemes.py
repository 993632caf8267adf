"""Schemes beside plain int8: what their files hold, held against numpy; which of them are tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from float_models import classifier, images, save
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecompress.errors import RecipeError
from edgecompress.exporting.parity import INT8, check_parity
from edgecompress.graphs import labels_of
from edgecompress.quantization import QuantizeSettings, Scheme
from edgecompress.quantizing.fitting import schemes_for
from edgecompress.quantizing.schemes import label_of, quantize
from edgecompress.recipe import quantize_settings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run, session

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return classifier(tmp_path_factory.mktemp("float") / "model.onnx")


def one(
    model: OnnxModel, inputs: dict[str, Floats], folder: Path, scheme: Scheme, **more: object
) -> OnnxModel:
    settings = QuantizeSettings.model_validate({"schemes": (scheme,), **more})
    (made,) = quantize(model, inputs, folder, settings)
    assert made.model is not None, made.reason
    return made.model


def reason(model: OnnxModel, inputs: dict[str, Floats], folder: Path, scheme: Scheme) -> str:
    (made,) = quantize(model, inputs, folder, QuantizeSettings(schemes=(scheme,)))
    assert made.model is None
    return made.reason


def constants(model: OnnxModel) -> dict[str, NDArray[np.generic]]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(model.path).graph.initializer
    }


def nodes(model: OnnxModel, operator: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(model.path).graph.node if node.op_type == operator]


def product(path: Path, weights: Floats) -> OnnxModel:
    """Write x -> x @ weights + bias, with the weights of a Gemm lying across."""
    bias = np.linspace(-1, 1, weights.shape[1])
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    return save(path, [node], [weights.shape[0]], w=weights.T, b=bias)


ALL: tuple[Scheme, ...] = (
    *("static", "static-float-ends", "static-u8u8", "static-s8s8", "static-per-tensor"),
    *("dynamic", "fp16", "int8-weights", "int4-weights"),
)


@pytest.mark.parametrize("scheme", ALL)
def test_every_scheme_keeps_what_a_model_declares(
    scheme: Scheme, net: OnnxModel, tmp_path: Path
) -> None:
    made = one(net, images(64), tmp_path, scheme)
    assert made.path.name == f"{label_of(scheme)}.onnx"
    onnx.checker.check_model(str(made.path), full_check=True)
    model = onnx.load(made.path)
    assert labels_of(model) == ("a", "b")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    allowed = {"": 18} if scheme != "int4-weights" else {"": 18, "com.microsoft": 1}
    assert opsets == allowed
    opened = session(made.path)
    assert [(i.name, i.type, i.shape) for i in opened.get_inputs()] == [
        ("x", "tensor(float)", ["batch", 1, 8, 8])
    ]
    assert [o.type for o in opened.get_outputs()] == ["tensor(float)"]
    unseen = images(300, seed=2)
    parity = check_parity(run(net, unseen), made, unseen, "float", INT8)
    assert parity.agreement > (0.8 if scheme == "int4-weights" else 0.95), parity.reason
    assert made.size_bytes < net.size_bytes * 0.9


def test_each_static_scheme_computes_in_the_numbers_it_names(
    net: OnnxModel, tmp_path: Path
) -> None:
    kinds = {}
    for scheme in ALL[:5]:
        made = one(net, images(64), tmp_path, scheme, reduce_range=True)
        graph = onnx.load(made.path).graph
        held = {tensor.name: tensor for tensor in graph.initializer}
        activations = {held[n.input[2]].data_type for n in nodes(made, "QuantizeLinear")}
        weights = [t for t in graph.initializer if len(t.dims) > 1 and t.data_type in (2, 3)]
        largest = max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in weights)
        scales = [held[n.input[1]].dims for n in nodes(made, "DequantizeLinear")]
        several = any(dims and dims[0] > 1 for dims in scales)
        kinds[scheme] = (activations, {t.data_type for t in weights}, largest, several)
    u8, s8 = TensorProto.UINT8, TensorProto.INT8
    assert kinds["static"] == ({u8}, {s8}, 64, True)
    assert kinds["static-float-ends"] == ({u8}, {s8}, 64, True)
    assert kinds["static-u8u8"] == ({u8}, {u8}, 255, True)  # its products never saturate
    assert kinds["static-s8s8"] == ({s8}, {s8}, 64, True)
    assert kinds["static-per-tensor"] == ({u8}, {s8}, 64, False)


def test_unsigned_weights_have_one_zero_point_for_all_channels(
    net: OnnxModel, tmp_path: Path
) -> None:
    made = one(net, images(64), tmp_path, "static-u8u8")
    held = constants(made)
    zeros = [held[n.input[2]] for n in nodes(made, "DequantizeLinear") if n.input[0] in held]
    assert {int(z) for zero in zeros if zero.dtype == np.uint8 for z in zero.flat} == {128}


def test_the_ends_stay_float(net: OnnxModel, tmp_path: Path) -> None:
    held = constants(one(net, images(64), tmp_path, "static-float-ends"))
    floats = {a.shape for a in held.values() if a.dtype == np.float32 and a.size > 100}
    assert floats == {(16, 1, 3, 3), (10, 1024)}
    assert {a.shape for a in held.values() if a.dtype == np.int8 and a.ndim > 1} == {(16, 16, 3, 3)}


def test_a_model_that_is_all_ends_is_none(tmp_path: Path) -> None:
    x = {"x": np.random.default_rng(0).normal(size=(64, 200)).astype(np.float32)}
    alone = product(tmp_path / "m.onnx", np.ones((200, 10), np.float32))
    assert reason(alone, x, tmp_path / "a", "static-float-ends").endswith(
        "in 32-bit floats (matrix products: at least 1024) beside those that stay float"
    )
    small = product(tmp_path / "s.onnx", np.ones((20, 10), np.float32))
    x = {"x": x["x"][:, :20]}
    assert reason(small, x, tmp_path / "b", "static-float-ends") == (
        "neither a first convolution of few channels nor a last product to leave float"
    )
    assert reason(small, x, tmp_path / "c", "int4-weights") == (
        "int4 weights have nothing to gain: no MatMul, Gemm or Gather with at least 1024 weights"
    )


@pytest.mark.parametrize("inputs", [128, 200])  # 200 is no multiple of a block
def test_int4_blocks_decode_to_what_numpy_says(inputs: int, tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    weights = (g.normal(size=(inputs, 10)) * np.geomspace(0.1, 10, 10)).astype(np.float32)
    x = {"x": np.eye(inputs, dtype=np.float32)}
    made = one(product(tmp_path / "m.onnx", weights), x, tmp_path, "int4-weights")
    held = constants(made)
    (node,) = nodes(made, "MatMulNBits")
    codes, scales = held[node.input[1]].astype(int), held[node.input[2]].reshape(10, -1)
    decoded = np.zeros((10, scales.shape[1] * 32))
    for column in range(10):
        for block in range(scales.shape[1]):
            for byte in range(16):
                both = codes[column, block, byte]
                for half, code in enumerate((both % 16, both // 16)):
                    place = 32 * block + 2 * byte + half
                    decoded[column, place] = (code - 8) * scales[column, block]
    decoded = decoded[:, :inputs].T
    bias = np.linspace(-1, 1, 10)
    found = run(made, x)
    assert found == pytest.approx(decoded + bias, abs=0.02 * float(np.abs(weights).max()))
    of_block = np.repeat(np.abs(scales), 32, axis=1)[:, :inputs].T
    # Half a step, or a whole one where the highest code, one short of the lowest, was met.
    assert (np.abs(decoded - weights) <= of_block * 1.001).all()
    assert np.mean(np.abs(decoded - weights) <= of_block / 2 * 1.001) > 0.95


def test_int8_weights_decode_to_what_numpy_says(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    weights = (g.normal(size=(128, 10)) * np.geomspace(0.01, 10, 10)).astype(np.float32)
    x = {"x": np.eye(128, dtype=np.float32)}
    made = one(product(tmp_path / "m.onnx", weights), x, tmp_path, "int8-weights")
    steps = np.abs(weights).max(0) / 127
    expected = np.round(weights / steps) * steps + np.linspace(-1, 1, 10)
    assert np.abs(run(made, x) - expected).max() <= 0.01 * np.abs(expected).max()
    assert np.abs(expected - np.linspace(-1, 1, 10) - weights).max() <= steps.max() / 2 * 1.001


@pytest.mark.parametrize("scheme", ["int8-weights", "int4-weights"])
def test_a_table_is_looked_up_in_eight_bits(scheme: Scheme, tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    table = g.normal(size=(300, 16)).astype(np.float32)
    lookup = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["t", "i"], ["e"]),
        helper.make_node("ReduceSum", ["e", "one"], ["s"], keepdims=0),
        helper.make_node("Gemm", ["s", "w"], ["y"], transB=1),
    ]
    made = save(tmp_path / "m.onnx", lookup, [9], t=table, w=g.normal(size=(10, 16)))
    model = onnx.load(made.path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "reducesum1.1"))
    made.path.write_bytes(model.SerializeToString())
    x = {"x": g.integers(0, 300, (64, 9)).astype(np.float32)}
    smaller = one(made, x, tmp_path, scheme)
    assert {a.dtype for a in constants(smaller).values() if a.shape == (300, 16)} == {
        np.dtype(np.int8)
    }
    assert not nodes(smaller, "ReduceSum")  # a product with ones takes half the time
    before, after = run(made, x), run(smaller, x)
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()


def test_half_precision_halves_the_floats_and_rounds_as_numpy_does(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    weights = g.normal(size=(300, 10)).astype(np.float32)
    made = one(product(tmp_path / "m.onnx", weights), {}, tmp_path, "fp16")
    (kernel,) = [a for a in constants(made).values() if a.size == weights.size]
    assert kernel.dtype == np.float16
    assert np.array_equal(
        np.sort(kernel, axis=None), np.sort(weights.astype(np.float16), axis=None)
    )
    x = {"x": g.normal(size=(50, 300)).astype(np.float32)}
    expected = x["x"] @ weights + np.linspace(-1, 1, 10)
    assert np.abs(run(made, x) - expected).max() < 0.003 * np.abs(expected).max()


def test_what_half_precision_cannot_hold_is_said(tmp_path: Path) -> None:
    large = product(tmp_path / "m.onnx", np.full((200, 10), 1e6, np.float32))
    assert reason(large, {}, tmp_path, "fp16").startswith("fp16 cannot hold the constant gemm1.1: ")


def test_what_a_mask_puts_in_place_may_be_beyond_half_precision(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Where", ["positive", "x", "least"], ["m"]),
        helper.make_node("Softmax", ["m"], ["s"]),
        helper.make_node("Gemm", ["s", "w"], ["y"], transB=1),
    ]
    g = np.random.default_rng(0)
    least = np.finfo(np.float32).min
    model = save(tmp_path / "m.onnx", nodes, [20], zero=0.0, least=least, w=g.normal(size=(10, 20)))
    x = {"x": g.normal(size=(50, 20)).astype(np.float32)}
    before, after = run(model, x), run(one(model, {}, tmp_path, "fp16"), x)
    assert np.abs(after - before).max() < 0.003 * np.abs(before).max()


def test_the_schemes_tried_follow_from_device_and_model(net: OnnxModel, tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    kernel, head = g.normal(size=(64, 1, 3, 3)), g.normal(size=(10, 64))
    depthwise = save(
        tmp_path / "d.onnx",
        [
            helper.make_node("Conv", ["x", "w"], ["c"], group=64),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "h"], ["y"], transB=1),
        ],
        [64, 8, 8],
        w=np.tile(kernel, (2, 1, 1, 1))[:64],
        h=head,
    )
    table = product(tmp_path / "p.onnx", np.ones((200, 10), np.float32))
    assert schemes_for(depthwise.path)[:3] == ("static", "static-float-ends", "static-per-tensor")
    assert schemes_for(table.path, ("fp32", "int8", "fp16"))[2:] == (
        *("dynamic", "int8-weights", "int4-weights"),
        "fp16",
    )
    assert "static-u8u8" in schemes_for(net.path, ("int8",), saturates=True)
    assert "static-u8u8" not in schemes_for(net.path, ("int8",))
    assert schemes_for(net.path, ("fp32", "fp16")) == ("fp16",)
    both = ("int8", "fp16")
    assert "fp16" in schemes_for(net.path, both)
    assert "fp16" not in schemes_for(net.path, both, casts=True)
    assert "fp16" in schemes_for(table.path, both, casts=True)


@pytest.mark.parametrize("given", ['["statc"]', "static", "[]"])
def test_an_unknown_scheme_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(
        RecipeError, match=r'quantize.schemes: given .*, expected "auto" or a list of static, '
    ) as refused:
        quantize_settings([f"quantize.schemes={given}"])
    assert "\n" not in str(refused.value)
