"""Counting agrees with the published figures, and sees through every form of int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from published_nets import NETS, Net
from tiny_models import save_mlp, value

from edgecompress.measuring.counting import UncountableError, count
from edgecompress.measuring.features import Features, read_features
from edgecompress.runtime import onnx_model

# Published with the ncnn benchmark's times: millions of MACs by kind, MB, layers, M parameters.
PUBLISHED = {
    "mobilenet": (539.4924, 0.0, 10.838, 17.386, 1.024, 0.2128, 30, 4.2091),
    "resnet18": (32.1126, 1502.8716, 291.4222, 0.0, 0.512, 19.1773, 41, 11.683),
    "vgg16": (0.0, 15259.9265, 86.7041, 0.0, 123.6337, 30.6154, 22, 138.3441),
    "squeezenet": (190.4804, 205.9223, 22.0648, 0.0, 0.0, 20.5619, 39, 1.2316),
    "efficientnet_b0": (338.5375, 0.0, 10.838, 34.5321, 1.9072, 79.7987, 174, 5.2362),
}
KINDS = ("pointwise", "conv3x3", "conv_other", "depthwise", "fully_connected", "elementwise_mb")


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    net = NETS[name]()
    found = count(net.model(), {"x": net.shape})
    *work, layers, parameters = PUBLISHED[name]
    if name == "efficientnet_b0":  # the published one squeezes by dense layers, this by 1x1
        found["pointwise"], found["fully_connected"] = work[0], work[4]
        layers = found["layers"]
    assert [found[kind] for kind in KINDS] == pytest.approx(work, rel=0.002, abs=0.001)
    assert found["layers"] == layers
    assert found["parameters_m"] == pytest.approx(parameters, rel=0.02)
    assert found["int8"] == 0.0


def test_exponentials_are_counted_apart() -> None:
    net = NETS["efficientnet_b0"]()
    found = count(net.model(), {"x": net.shape})
    assert 0.5 * found["elementwise_mb"] < found["exponential_mb"] < found["elementwise_mb"]
    plain = NETS["resnet18"]()
    assert count(plain.model(), {"x": plain.shape})["exponential_mb"] == pytest.approx(0.008)


def _counts_of(*layers: tuple[int, int, int, int]) -> dict[str, float]:
    """Count a chain of convolutions on 8 channels of 12x12: width, kernel, stride and groups."""
    net = Net(1, 8, 12, 12)
    for width, k, stride, groups in layers:
        net.conv(width, k, stride, groups)
    return count(net.model(), {"x": net.shape})


def test_what_convolutions_move_is_counted_more_where_they_transform_it() -> None:
    read, made = 4 * 8 * 144 / 1e6, 4 * 16 * 144 / 1e6
    assert _counts_of((16, 1, 1, 1))["convolved_mb"] == pytest.approx(read + made)
    assert _counts_of((16, 3, 1, 1))["convolved_mb"] == pytest.approx(5.5 * (read + made))
    assert _counts_of((16, 3, 2, 1))["convolved_mb"] == pytest.approx(read + made / 4)
    assert _counts_of((8, 3, 1, 8))["convolved_mb"] == 0.0


@pytest.mark.parametrize(("width", "unaligned"), [(16, False), (12, False), (13, True), (10, True)])
def test_channels_that_fill_no_block_are_counted_apart(width: int, unaligned: bool) -> None:
    macs = 8 * width * 144 / 1e6
    assert _counts_of((width, 1, 1, 1))["unaligned"] == pytest.approx(macs * unaligned)


def test_an_images_three_channels_are_not_unaligned() -> None:
    net = Net(1, 3, 12, 12)
    net.conv(16, 3, 2)
    assert count(net.model(), {"x": net.shape})["unaligned"] == 0.0


def test_wide_groups_are_so_many_plain_convolutions() -> None:
    widen, wide, narrow = (64, 1, 1, 1), (64, 3, 1, 4), (64, 3, 1, 8)
    assert _counts_of(widen, wide)["conv3x3"] == pytest.approx(64 * 16 * 9 * 144 / 1e6)
    assert _counts_of(widen, wide)["grouped"] == 0.0
    assert _counts_of(widen, narrow)["grouped"] == pytest.approx(64 * 8 * 9 * 144 / 1e6)


def test_a_batch_costs_its_multiple() -> None:
    model = NETS["mobilenet"]().model()
    one, four = (count(model, {"x": (n, 3, 224, 224)}) for n in (1, 4))
    for kind in KINDS:
        assert four[kind] == pytest.approx(4 * one[kind])
    assert four["parameters_m"] == one["parameters_m"]
    assert four["layers"] == one["layers"]


def _model(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], inputs: dict[str, list[int | str]]
) -> onnx.ModelProto:
    given = [value(name, *shape) for name, shape in inputs.items()]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", given, out, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def _weight(name: str, *dims: int, kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, data_type=kind)


def _qdq_conv() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        node("Conv", ["xd", "wd", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
        node("DequantizeLinear", ["rq", "s", "z"], ["y"]),
    ]
    scales = [_weight("s"), _weight("sw", 16)]
    zeros = [_weight("z", kind=TensorProto.UINT8), _weight("zw", 16, kind=TensorProto.INT8)]
    weights = [_weight("w", 16, 8, 3, 3, kind=TensorProto.INT8), _weight("b", 16)]
    return _model(nodes, scales + zeros + weights, {"x": ["n", 8, 10, 10]})


def _dynamic_int8(*scales: int) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "sx", "zx"]),
        node("MatMulInteger", ["xq", "w", "zx", "zw"], ["m"]),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["sx", "sw"], ["scale"]),
        node("Mul", ["f", "scale"], ["scaled"]),
        node("Add", ["scaled", "b"], ["a"]),
        node("Relu", ["a"], ["y"]),
    ]
    eight = TensorProto.INT8
    weights = [_weight("w", 32, 64, kind=eight), _weight("zw", kind=eight)]
    weights.append(_weight("sw", *scales))
    return _model(nodes, [*weights, _weight("b", 64)], {"x": ["n", 32]})


def test_static_int8_counts_like_its_float_twin() -> None:
    found = count(_qdq_conv(), {"x": (1, 8, 10, 10)})
    assert found["conv3x3"] == pytest.approx(16 * 8 * 9 * 100 / 1e6)
    assert found["elementwise_mb"] == 0.0
    assert (found["layers"], found["int8"]) == (1, 1)
    assert found["parameters_m"] == pytest.approx((16 * 8 * 9 + 16) / 1e6)


@pytest.mark.parametrize("scales", [(), (64,)], ids=["one scale", "a scale per channel"])
def test_dynamic_int8_counts_like_its_float_twin(scales: tuple[int, ...]) -> None:
    found = count(_dynamic_int8(*scales), {"x": (1, 32)})
    assert found["fully_connected"] == pytest.approx(32 * 64 / 1e6)
    assert found["int8"] == 1
    assert found["layers"] <= 2
    assert found["parameters_m"] == pytest.approx((32 * 64 + 64 + sum(scales)) / 1e6, rel=0.02)


@pytest.mark.parametrize(
    ("attributes", "weight", "kind", "macs"),
    [
        ({"group": 8}, (8, 1, 3, 3), "depthwise", 8 * 9 * 64),
        ({"group": 2}, (16, 4, 3, 3), "grouped", 16 * 4 * 9 * 64),
        ({}, (16, 8, 1, 1), "pointwise", 16 * 8 * 100),
        ({"strides": [2, 2]}, (16, 8, 3, 3), "conv_other", 16 * 8 * 9 * 16),
        ({}, (16, 8, 3, 3), "conv3x3", 16 * 8 * 9 * 64),
        ({"dilations": [2, 2]}, (16, 8, 3, 3), "conv_other", 16 * 8 * 9 * 36),
        ({}, (16, 8, 5, 5), "conv_other", 16 * 8 * 25 * 36),
    ],
)
def test_each_convolution_is_of_one_kind(
    attributes: dict[str, object], weight: tuple[int, ...], kind: str, macs: int
) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)]
    model = _model(nodes, [_weight("w", *weight)], {"x": [1, 8, "h", "w"]})
    found = count(model, {"x": (1, 8, 10, 10)})
    assert found[kind] == pytest.approx(macs / 1e6)
    assert sum(found[k] for k in (*KINDS[:5], "grouped", "matmul")) == pytest.approx(macs / 1e6)


def test_recurrent_layers_and_attention_are_matrix_products() -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["h"], hidden_size=16),
        helper.make_node("Squeeze", ["h", "axis"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[1, 2, 0]),
        helper.make_node("Transpose", ["s"], ["u"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["u", "t"], ["y"]),
    ]
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    weights = [_weight("w", 1, 64, 8), _weight("r", 1, 64, 16), axis]
    found = count(_model(nodes, weights, {"x": [5, 1, 8]}), {"x": (5, 1, 8)})
    assert found["matmul"] == pytest.approx((5 * 64 * 24 + 5 * 5 * 16) / 1e6)


def test_a_loop_cannot_be_counted() -> None:
    body = helper.make_graph([], "b", [], [])
    nodes = [helper.make_node("Loop", ["n", ""], ["y"], body=body)]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    with pytest.raises(UncountableError, match="what its Loop does is known only when it runs"):
        count(model, {})


def test_features_are_read_in_a_child(tmp_path: Path) -> None:
    good = onnx_model(save_mlp(tmp_path / "good.onnx", width=32, depth=2))
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    bad = onnx_model(tmp_path / "bad.onnx")
    row = {"x": np.zeros((3, 32), np.float32)}
    found = read_features({"good": good, "bad": bad}, {"good": row, "bad": row})
    features = found["good"]
    assert isinstance(features, Features)
    assert features.fully_connected == pytest.approx(2 * 3 * 32 * 32 / 1e6)
    assert features.macs_m == features.fully_connected
    assert (features.layers, features.int8) == (2, False)
    assert "its operators could not be counted: " in str(found["bad"])


def test_a_child_that_dies_leaves_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx_model(save_mlp(tmp_path / "m.onnx"))
    monkeypatch.setattr("edgecompress.measuring.features._CHILD", Path("/nonexistent.py"))
    found = read_features({"m": model}, {"m": {"x": np.zeros((1, 8), np.float32)}})
    assert found == {"m": "its operators could not be counted within the limits"}


def test_weights_alone_in_int8_are_computed_in_float() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["x", "wd"], ["y"]),
    ]
    eight = TensorProto.INT8
    weights = [_weight("w", 16, 8, 3, 3, kind=eight), _weight("s"), _weight("z", kind=eight)]
    assert count(_model(nodes, weights, {"x": [1, 8, 10, 10]}), {})["int8"] == 0


def test_work_inside_a_function_is_counted() -> None:
    body = [helper.make_node("Conv", ["a", "b"], ["c"])]
    function = helper.make_function("own", "Block", ["a", "b"], ["c"], body, _opsets())
    nodes = [helper.make_node("Block", ["x", "w"], ["y"], domain="own")]
    model = _model(nodes, [_weight("w", 16, 8, 3, 3)], {"x": [1, 8, 10, 10]})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert count(model, {})["conv3x3"] == pytest.approx(16 * 8 * 9 * 64 / 1e6)


def _opsets() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", 18)]


@pytest.mark.parametrize(("operator", "domain"), [("Einsum", ""), ("FusedConv", "com.microsoft")])
def test_work_of_unknown_operators_is_not_taken_for_none(operator: str, domain: str) -> None:
    attributes = {"equation": "ij,jk->ik"} if operator == "Einsum" else {}
    node = helper.make_node(operator, ["x", "w"], ["y"], domain=domain, **attributes)
    model = _model([node], [_weight("w", 8, 8)], {"x": [8, 8]})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UncountableError, match=f"how much work a {operator} is cannot be told"):
        count(model, {})
