"""Which operators this ONNX Runtime computes in int8: what it fuses between conversions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgecompress.measuring.pairs import INT8_OPERATORS

IMAGE, ROWS = (1, 8, 8, 8), (4, 64)
MADE_BY_FUSION = {"FusedConv", "FusedMatMul", "FusedGemm"}


@dataclass(frozen=True)
class Use:
    """Say how an operator is used: the data's shape, how often it is an input, and what else is.

    `weight` is the shape of an int8 weight, behind a conversion of its own.
    """

    shape: tuple[int, ...] = IMAGE
    times: int = 1
    constants: tuple[Any, ...] = ()
    weight: tuple[int, ...] | None = None
    first: tuple[Any, ...] = ()
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


POOLED = {"kernel_shape": [2, 2], "strides": [2, 2]}
USES = {
    "Conv": Use(weight=(8, 8, 3, 3)),
    "ConvTranspose": Use(weight=(8, 8, 3, 3)),
    "MatMul": Use(ROWS, weight=(64, 64)),
    "Gemm": Use(ROWS, weight=(64, 64)),
    **dict.fromkeys(("Add", "Mul", "Sub", "Div", "Max", "Min"), Use(times=2)),
    "Concat": Use(times=2, attributes={"axis": 1}),
    "AveragePool": Use(attributes=POOLED),
    "MaxPool": Use(attributes=POOLED),
    "Where": Use(times=2, first=(np.arange(512).reshape(IMAGE) % 2 == 0,)),
    "Resize": Use(constants=(None, np.array([1, 1, 2, 2], np.float32))),
    "Gather": Use(constants=(ints(1, 2),), attributes={"axis": 1}),
    "GatherElements": Use(ROWS, constants=(np.zeros(ROWS, np.int64),)),
    "Reshape": Use(constants=(ints(1, -1),)),
    "Squeeze": Use(constants=(ints(0),)),
    "Unsqueeze": Use(constants=(ints(0),)),
    "Expand": Use(constants=(ints(2, 8, 8, 8),)),
    "Tile": Use(constants=(ints(2, 1, 1, 1),)),
    "Slice": Use(constants=(ints(0), ints(4), ints(1))),
    "Split": Use(outputs=2, attributes={"axis": 1, "num_outputs": 2}),
    "Transpose": Use(attributes={"perm": [0, 2, 3, 1]}),
    "ArgMax": Use(outputs=0, attributes={"axis": 1}),
    "DepthToSpace": Use(attributes={"blocksize": 2}),
    "SpaceToDepth": Use(attributes={"blocksize": 2}),
    "Clip": Use(constants=(np.float32(0), np.float32(6))),
    "Pad": Use(constants=(ints(0, 0, 1, 1, 0, 0, 1, 1),)),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"), Use(constants=(ints(2, 3),))
    ),
    "Softmax": Use(ROWS),
    "LogSoftmax": Use(ROWS),
}
IN_FLOAT = (
    *("ConvTranspose", "Sub", "Div", "Max", "Min", "SpaceToDepth", "Pad", "ReduceMean"),
    *("ReduceSum", "LogSoftmax", "Softplus", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Erf"),
    *("Exp", "Sqrt", "Abs", "Neg", "GlobalMaxPool", "Mish"),
)


def converted(name: str) -> list[NodeProto]:
    """Return a pair of conversions from `name` to `name_d`."""
    return [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"]),
    ]


def between_conversions(operator: str) -> onnx.ModelProto:
    """Return a model of one operator with conversions before and behind it."""
    use = USES.get(operator, Use())
    # Softmax's int8 kernel fixes its scale; the others take any.
    zero = 0 if operator in ("Softmax", "Relu", "Clip") else 128
    constants = {"scale": np.float32(1 / 256), "zero": np.uint8(zero)}
    nodes, inputs = converted("x"), []
    for place, value in enumerate((*use.first, *(["x_d"] * use.times), *use.constants)):
        if isinstance(value, str) or value is None:
            inputs.append(value or "")
        else:
            constants[f"c{place}"] = value
            inputs.append(f"c{place}")
    if use.weight is not None:
        weight = np.random.default_rng(0).integers(-127, 128, use.weight)
        constants |= {"w_q": weight.astype(np.int8), "w_zero": np.int8(0)}
        nodes.append(helper.make_node("DequantizeLinear", ["w_q", "scale", "w_zero"], ["w"]))
        inputs.append("w")
    outputs = [f"y{i}" for i in range(use.outputs)] or ["classes"]
    nodes.append(helper.make_node(operator, inputs, outputs, **use.attributes))
    for name in outputs[: use.outputs]:
        nodes += converted(name)
    ends = [(f"{name}_d", TensorProto.FLOAT) for name in outputs[: use.outputs]]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, use.shape)],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in ends or [("classes", TensorProto.INT64)]
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def computed_in_float(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Return the operators that read a dequantized value once ONNX Runtime has optimised it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(options.optimized_model_filepath).graph
    unpacked = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    readers = [n.op_type for n in graph.node if unpacked & set(n.input)]
    return [name for name in readers if name not in ("QuantizeLinear", "DequantizeLinear")]


@pytest.mark.parametrize("operator", sorted(INT8_OPERATORS - MADE_BY_FUSION))
def test_what_is_listed_runs_in_int8(operator: str, tmp_path: Path) -> None:
    assert computed_in_float(between_conversions(operator), tmp_path) == []


@pytest.mark.parametrize("operator", IN_FLOAT)
def test_what_is_not_listed_runs_in_float(operator: str, tmp_path: Path) -> None:
    assert operator not in INT8_OPERATORS
    assert computed_in_float(between_conversions(operator), tmp_path)
