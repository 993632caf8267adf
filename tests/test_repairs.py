"""Repairs of int8: the float function stays, means agree, rounding errs less; on small nets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecompress.graphs import tidy
from edgecompress.quantizing.correction import corrected
from edgecompress.quantizing.equalization import equalized, seams, smoothed
from edgecompress.quantizing.layers import layers, quantized_constant, unshared
from edgecompress.quantizing.rounding import descend, rounded
from edgecompress.quantizing.sensitivity import layer_errors
from edgecompress.quantizing.static import StaticForm, static_int8
from edgecompress.quantizing.watching import watch

FORM = StaticForm()
RNG = np.random.default_rng(0)
Floats = np.ndarray


def net(nodes: list[NodeProto], shape: list[int | str], **weights: Floats) -> ModelProto:
    """Return a tidy model x -> y, batch first."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return unshared(tidy(model))


def outputs(model: ModelProto, x: Floats) -> Floats:
    return np.concatenate([batch["y"] for batch in watch(model, ["y"], {"x": x})])


def int8_of(model: ModelProto, x: Floats, folder: Path, form: StaticForm = FORM) -> ModelProto:
    path = folder / "prepared.onnx"
    path.write_bytes(model.SerializeToString())
    return static_int8(path, {"x": x}, form)


def chain(between: str = "Relu", loud: float = 100.0, depthwise: bool = False) -> ModelProto:
    """Return conv, something, conv, whose inner channels are unequally loud."""
    rng = np.random.default_rng(1)
    loudness = loud ** rng.random(8)
    limits = {"low": 0.0, "high": 6.0}
    inputs = {"Clip": ["a", "low", "high"], "ReluAsClip": ["a", "low"]}.get(between, ["a"])
    second = np.repeat(loudness, 2) if depthwise else loudness[None]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Clip" if between == "ReluAsClip" else between, inputs, ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"], group=8 if depthwise else 1,
                         kernel_shape=[3, 3]),
    ]  # fmt: skip
    w2 = rng.normal(size=(16, 1 if depthwise else 8, 3, 3))
    return net(
        nodes,
        [3, 8, 8],
        w1=rng.normal(size=(8, 3, 3, 3)) * loudness[:, None, None, None],
        b1=rng.normal(size=8) * loudness,
        w2=w2 / (second[:, None, None, None] if depthwise else second[:, :, None, None]),
        **{name: np.array(limits[name]) for name in inputs[1:]},
    )


PICTURES = RNG.normal(size=(48, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("between", ["Relu", "ReluAsClip", "Identity"])
def test_equalization_keeps_the_float_function(between: str, depthwise: bool) -> None:
    model = chain(between, depthwise=depthwise)
    even = equalized(model, {"x": PICTURES})
    before, after = outputs(model, PICTURES), outputs(even, PICTURES)
    assert even is not model
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


@given(seed=st.integers(0, 1000), loud=st.floats(1.0, 1e4), per_channel=st.booleans())
@settings(max_examples=15, deadline=None)
def test_equalization_keeps_it_however_loud(seed: int, loud: float, per_channel: bool) -> None:
    model = chain(loud=loud)
    x = np.random.default_rng(seed).normal(size=(4, 3, 8, 8)).astype(np.float32)
    before, after = outputs(model, x), outputs(equalized(model, {"x": x}, per_channel), x)
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("between", ["Clip", "HardSwish", "Sigmoid"])
def test_a_function_that_bends_at_fixed_values_is_left_alone(between: str) -> None:
    model = chain(between)
    assert seams(model, ("Conv",)) == []
    assert equalized(model, {"x": PICTURES}) is model


def test_a_value_that_something_else_reads_too_is_left_alone() -> None:
    model = chain()
    model.graph.node.append(helper.make_node("Exp", [model.graph.node[1].output[0]], ["e"]))
    assert seams(model, ("Conv",)) == []


node = helper.make_node
LAYOUTS = {  # nodes from x, (32, 16) a sample, in which channels do not lie where they seem to
    "norm, flatten": [
        node("LayerNormalization", ["x", "s16", "b16"], ["n"]),
        node("Flatten", ["n"], ["f"]),
        node("MatMul", ["f", "w512"], ["y"]),
    ],
    "norm of two axes": [
        node("LayerNormalization", ["x", "s32x16", "b32x16"], ["n"], axis=1),
        node("MatMul", ["n", "w16"], ["y"]),
    ],
    "image, product": [
        node("Conv", ["x", "k"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("MatMul", ["r", "w16"], ["y"]),
    ],
    "product, image": [node("MatMul", ["x", "w16"], ["m"]), node("Conv", ["m", "k"], ["y"])],
    "product, pool": [
        node("MatMul", ["x", "w16"], ["m"]),
        node("AveragePool", ["m"], ["p"], kernel_shape=[1], strides=[1]),
        node("MatMul", ["p", "w16"], ["y"]),
    ],
    "a slope": [
        node("MatMul", ["x", "w16"], ["m"]),
        node("PRelu", ["x", "m"], ["p"]),
        node("MatMul", ["p", "w16"], ["y"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_repairs_keep_the_function_of_other_layouts(layout: str) -> None:
    rng = np.random.default_rng(0)
    loud = 100.0 ** rng.random((32, 16))
    shapes = {"w512": (512, 8), "w16": (16, 16), "k": (16, 32, 1), "b16": (16,), "b32x16": (32, 16)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    weights["k"] *= loud[0][:, None, None]
    model = net(LAYOUTS[layout], [32, 16], **weights, s16=loud[0], s32x16=loud)
    x = {"x": rng.normal(size=(20, 32, 16)).astype(np.float32)}
    before = outputs(model, x["x"])
    for even in (equalized(model, x), smoothed(model, x)):
        assert np.abs(before - outputs(even, x["x"])).max() <= 1e-5 * np.abs(before).max()


def test_only_what_reads_one_channel_alone_bears_all_of_it() -> None:
    grouped = chain()
    second = grouped.graph.node[2]
    second.attribute.append(helper.make_attribute("group", 2))
    weights = next(t for t in grouped.graph.initializer if t.name == second.input[1])
    halves = numpy_helper.to_array(weights)[:, :4]
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(halves), weights.name))
    even = equalized(grouped, {"x": PICTURES})
    before, after = outputs(grouped, PICTURES), outputs(even, PICTURES)
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
    value = seams(even, ("Conv",))[0].value
    loudest = [np.abs(b[value]).max((0, 2, 3)) for b in watch(even, [value], {"x": PICTURES})]
    assert np.ptp(np.max(loudest, 0)) > 0.01 * np.max(loudest)  # they met in the middle


def test_equalization_evens_out_the_channels(tmp_path: Path) -> None:
    model = chain(depthwise=True)
    even = equalized(model, {"x": PICTURES})
    value = seams(even, ("Conv",))[0].value
    loudest = [np.abs(b[value]).max((0, 2, 3)) for b in watch(even, [value], {"x": PICTURES})]
    assert np.ptp(np.max(loudest, 0)) < 1e-3 * np.max(loudest)
    errors = [
        np.square(outputs(int8_of(m, PICTURES, tmp_path), PICTURES) - outputs(m, PICTURES)).mean()
        for m in (model, even)
    ]
    assert errors[1] < errors[0] / 10


def norm_and_product(loud: float = 50.0) -> ModelProto:
    """Return a layer norm some of whose channels shout, read by two products."""
    loudness = loud ** RNG.random(32)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"]),
        helper.make_node("MatMul", ["n", "q"], ["a"]),
        helper.make_node("MatMul", ["n", "k"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {n: RNG.normal(size=(32, 64)) / loudness[:, None] for n in ("q", "k")}
    return net(
        nodes, ["t", 32], scale=loudness, shift=RNG.normal(size=32) * loudness, **weights
    )  # fmt: skip


def test_smoothing_keeps_the_function_and_lowers_the_error(tmp_path: Path) -> None:
    model, x = norm_and_product(), RNG.normal(size=(32, 6, 32)).astype(np.float32)
    assert equalized(model, {"x": x}) is model  # a norm is smoothing's
    smooth = smoothed(model, {"x": x})
    exact = outputs(model, x)
    assert np.abs(exact - outputs(smooth, x)).max() <= 1e-5 * np.abs(exact).max()
    errors = [
        np.square(outputs(int8_of(m, x, tmp_path), x) - exact).mean() for m in (model, smooth)
    ]
    assert errors[1] < errors[0] / 2


def test_bias_correction_makes_the_means_agree(tmp_path: Path) -> None:
    model, x = chain(), np.abs(PICTURES)
    int8 = int8_of(model, x, tmp_path)
    better = corrected(model, int8, {"x": x})
    before = layer_errors(model, int8, {"x": x})
    after = layer_errors(model, better, {"x": x})
    nodes = {node.name: node for node in better.graph.node}
    for name, error in after.items():
        bias = quantized_constant(better.graph, nodes[name], 2)
        assert bias is not None
        assert np.all(np.abs(error.shift) <= 0.51 * bias[1])  # a bias has whole steps
        assert np.abs(error.shift).max() < np.abs(before[name].shift).max() / 5
        assert error.noise < before[name].noise


ATTRIBUTES = [
    {"strides": [2, 1], "pads": [1, 0, 2, 1]},
    {"dilations": [2, 2]},
    {"group": 4, "pads": [1, 1, 1, 1]},
]


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=["strided", "dilated", "grouped"])
def test_rounding_errs_less_than_the_nearest(attributes: dict, tmp_path: Path) -> None:
    group = attributes.get("group", 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    ]  # fmt: skip
    mixed = np.einsum("nchw,cd->ndhw", RNG.normal(size=(96, 3, 9, 9)), RNG.normal(size=(3, 8)))
    x = mixed.astype(np.float32)  # channels that depend on one another, as in real nets
    model = net(nodes, [8, 9, 9], w=RNG.normal(size=(8, 8 // group, 3, 3)))
    assert_less_error(model, x, tmp_path)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_rounding_of_products(operator: str, per_channel: bool, tmp_path: Path) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"])
    x = (RNG.normal(size=(256, 6)) @ RNG.normal(size=(6, 48))).astype(np.float32)
    model = net([node], [48], w=RNG.normal(size=(48, 32)))
    assert_less_error(model, x, tmp_path, StaticForm(per_channel=per_channel))


def assert_less_error(model: ModelProto, x: Floats, folder: Path, form: StaticForm = FORM) -> None:
    """Round on one half of the samples, compare on the other, the weights alone in 8 bits."""
    half = len(x) // 2
    int8 = int8_of(model, x, folder, form)
    best = rounded(model, int8, {"x": x[:half]})
    exact = outputs(model, x[half:])

    def error(quantized: ModelProto) -> float:
        (layer,) = layers(model)
        node = next(n for n in quantized.graph.node if n.name == layer.node)
        found = quantized_constant(quantized.graph, node, 1)
        assert found is not None
        whole, scale, zero = found
        shape = [1] * len(whole.dims)
        shape[-1 if layer.transposed else 0] = -1
        values = (numpy_helper.to_array(whole) - zero.reshape(shape)) * scale.reshape(shape)
        changed = ModelProto()
        changed.CopyFrom(model)
        tensor = next(t for t in changed.graph.initializer if t.name == layer.weight)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
        return float(np.square(outputs(changed, x[half:]) - exact).mean())

    assert error(best) < 0.9 * error(int8)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_descent_never_ends_above_its_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 20, 6)) @ rng.normal(size=(2, 6, 6))
    moments = x.transpose(0, 2, 1) @ x + 1e-3 * np.eye(6)
    wanted = rng.normal(0, 3, (2, 4, 6))
    start = np.clip(np.rint(wanted), -5, 5)
    best = descend(wanted, start, moments, (-5, 5))

    def error(whole: Floats) -> float:
        apart = wanted - whole
        return float(np.einsum("goi,gij,goj->", apart, moments, apart))

    assert error(best) <= error(start) + 1e-9
    assert np.array_equal(best, np.rint(best))
    assert np.abs(best).max() <= 5


def test_the_descent_in_blocks_is_that_of_one_input_at_a_time() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 300, 150)) @ rng.normal(size=(1, 150, 150))
    moments = x.transpose(0, 2, 1) @ x
    wanted = rng.normal(0, 20, (1, 8, 150))
    whole = np.rint(wanted)
    best = descend(wanted, whole, moments, (-60, 60))
    for _ in range(3):
        for i in range(150):
            slope = (wanted - whole) @ moments[0, :, i]
            moved = np.rint(whole[..., i] + slope / moments[0, i, i])
            whole[..., i] = np.clip(moved, -60, 60)
    assert np.array_equal(best, whole)


def test_rounding_keeps_the_reduced_range(tmp_path: Path) -> None:
    model = chain()
    int8 = int8_of(model, PICTURES, tmp_path, StaticForm(reduce_range=True))
    best = rounded(model, int8, {"x": PICTURES})
    for tensor in best.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4:
            assert np.abs(numpy_helper.to_array(tensor).astype(int)).max() <= 64


def test_a_convolution_that_pads_by_itself_keeps_its_rounding(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    ]
    model = net(nodes, [3, 8, 8], w=RNG.normal(size=(8, 3, 3, 3)))
    int8 = int8_of(model, PICTURES, tmp_path)
    assert rounded(model, int8, {"x": PICTURES}) == int8


def test_each_layer_gets_constants_of_its_own() -> None:
    same = RNG.normal(size=(4, 4, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["a", "v"], ["y"], kernel_shape=[1, 1]),
    ]
    own = net(nodes, [4, 5, 5], w=same, v=same)
    names = [name for layer in layers(own) for name in (layer.weight, layer.bias)]
    assert len(set(names)) == 4
    assert unshared(own) == own


def test_only_the_layer_that_is_ruined_is_blamed(tmp_path: Path) -> None:
    model = chain(loud=1e4)
    errors = layer_errors(model, int8_of(model, PICTURES, tmp_path), {"x": PICTURES})
    first, second = (errors[layer.node].noise for layer in layers(model))
    assert second > 100 * first


def test_values_come_in_batches_and_a_fixed_batch_is_kept() -> None:
    model = chain()
    sizes = [len(batch["x"]) for batch in watch(model, ["x", "y"], {"x": PICTURES})]
    assert sum(sizes) == len(PICTURES)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    batches = list(watch(model, ["y"], {"x": PICTURES}))
    assert [len(batch["y"]) for batch in batches] == [5] * 10
