"""Ranges of least squared error, against a search over the samples themselves; exact rewrites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from float_models import save
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecompress.quantizing.prepared import prepare, weights_by_node
from edgecompress.quantizing.ranges import least_error_range
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.runtime import session


def squared_error(
    values: NDArray[np.floating], low: float, high: float, levels: int = 256
) -> float:
    """Return what evenly spaced numbers from low to high, 0 among them, lose on the values."""
    step = (high - low) / (levels - 1)
    numbers = (np.arange(levels) - round(-low / step)) * step
    nearest = numbers[np.abs(values[:, None] - numbers[None]).argmin(1)]
    return float(((nearest - values) ** 2).sum())


def histogram(values: NDArray[np.floating]) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    reach = np.abs(values).max()
    return np.histogram(values, 2048, range=(-reach, reach))


DRAWN = {
    "one outlier": np.append(np.random.default_rng(0).normal(size=4000), 60.0),
    "heavy tails": np.random.default_rng(1).standard_t(2, 4000),
    "after a Relu": np.maximum(np.random.default_rng(2).normal(size=4000) ** 3, 0),
    "a long side": -(np.random.default_rng(3).exponential(size=4000) ** 2) + 0.3,
}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("levels", [16, 256])
def test_no_other_range_loses_notably_less(levels: int, kind: str) -> None:
    values = DRAWN[kind]
    found = squared_error(values, *least_error_range(*histogram(values), levels), levels)
    lowest, highest = min(values.min(), 0.0), max(values.max(), 0.0)
    shares = np.linspace(0.1, 1, 10)
    others = [
        squared_error(values, a * lowest, b * highest, levels)
        for a in (shares if lowest else [1.0])
        for b in (shares if highest else [1.0])
    ]
    assert found <= 1.1 * min(others)


def test_few_levels_clip_what_many_reach() -> None:
    values = np.append(np.random.default_rng(0).normal(size=20_000), [8.0, -8.0])
    low, high = least_error_range(*histogram(values), levels=16)
    assert -5 < low < -2 < 2 < high < 5
    clipped, whole = (squared_error(values, *ends, levels=16) for ends in ((low, high), (-8, 8)))
    assert clipped < whole / 2


def test_what_is_spread_evenly_is_not_clipped() -> None:
    values = np.random.default_rng(0).uniform(-1, 3, 20_000)
    low, high = least_error_range(*histogram(values))
    assert (low, high) == pytest.approx((-1, 3), abs=0.01)


def test_a_relu_begins_at_nought_and_nothing_is_nothing() -> None:
    low, high = least_error_range(*histogram(DRAWN["after a Relu"]))
    assert low == 0 < high
    assert least_error_range(np.zeros(4, int), np.linspace(-1, 1, 5)) == (0.0, 0.0)


def test_the_ranges_reach_the_model(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    model = save(tmp_path / "m.onnx", nodes, [128], w=g.normal(size=(10, 128)))
    x = g.standard_t(2.5, size=(64, 128)).astype(np.float32)
    settings = QuantizeSettings.model_validate({"schemes": ["static"], "calibration": "mse"})
    (made,) = quantize(model, {"x": x}, tmp_path, settings)
    assert made.model is not None
    low, high = least_error_range(*histogram(x.ravel()))
    graph = onnx.load(made.model.path).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (first,) = (n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    assert float(held[first.input[1]]) == pytest.approx((high - low) / 255, rel=1e-5)
    assert (low, high) != (x.min(), x.max())


def reduced(path: Path, operator: str, axes: list[int], shape: list[object], keeps: int) -> Path:
    """Write a reduction between two values of the model."""
    node = helper.make_node(operator, ["x", "axes"], ["y"], keepdims=keeps)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(axes), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("operator", "axes", "shape", "keeps", "instead"),
    [
        ("ReduceMean", [2, 3], ["b", 4, 5, 6], 1, {"GlobalAveragePool"}),
        ("ReduceMean", [-1, -2], ["b", 4, 5, 6], 1, {"GlobalAveragePool"}),
        ("ReduceMean", [2, 3], ["b", 4, 5, 6], 0, {"ReduceMean"}),
        ("ReduceMean", [1, 2], ["b", 4, 5, 6], 1, {"ReduceMean"}),
        ("ReduceMean", [2], ["b", 4, 5], 1, {"ReduceMean"}),
        ("ReduceSum", [1], ["b", 7, 5], 0, {"MatMul", "Squeeze"}),
        ("ReduceSum", [-2], ["b", 7, 5], 0, {"MatMul", "Squeeze"}),
        ("ReduceSum", [1], ["b", "length", 5], 0, {"ReduceSum"}),
        ("ReduceSum", [1], ["b", 7, 5], 1, {"ReduceSum"}),
        ("ReduceSum", [2], ["b", 7, 5], 0, {"ReduceSum"}),
    ],
)
def test_rewritten_reductions_give_the_same(
    operator: str, axes: list[int], shape: list[object], keeps: int, instead: set[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    path = reduced(tmp_path / "m.onnx", operator, axes, shape, keeps)
    made = prepare(path, tmp_path)
    assert {node.op_type for node in onnx.load(made).graph.node} == instead
    sizes = [3, *(d if isinstance(d, int) else 9 for d in shape[1:])]
    x = {"x": np.random.default_rng(0).normal(size=sizes).astype(np.float32)}
    (before,), (after,) = (session(p).run(None, x) for p in (path, made))
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_weights_in_constant_nodes_count(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    weights = numpy_helper.from_array(g.normal(size=(64, 32)).astype(np.float32))
    filled = numpy_helper.from_array(np.array([0.5], np.float32))
    shape = numpy_helper.from_array(np.array([32, 40]))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weights),
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["v"], value=filled),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 40])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert weights_by_node(model) == [0, 0, 0, 2048, 1280]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    inside = onnx.load(prepare(path, tmp_path))
    assert {tuple(t.dims) for t in inside.graph.initializer} == {(64, 32), (32, 40)}
    assert weights_by_node(inside) == [2048, 1280]
