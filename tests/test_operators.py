"""Each operator that a fake-quantized network computes says what ONNX Runtime says."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgecompress.quantizing.operators import OPERATORS, UnlikeError
from edgecompress.runtime import session

RNG = np.random.default_rng(0)
KINDS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


MAPS, ROWS, LINE = floats(2, 4, 7, 9), floats(3, 6), floats(2, 3, 11)
TRUTH = ROWS > 0
POSITIVE = np.abs(ROWS) + 0.1
ONE = np.float32(0.4)
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Add", [MAPS, floats(4, 1, 1)], {}),
    ("And", [TRUTH, ROWS > 1], {}),
    ("AveragePool", [MAPS], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [LINE], {"kernel_shape": [3], "pads": [1, 1]}),
    ("AveragePool", [MAPS], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    ("BatchNormalization", [MAPS, floats(4), floats(4), floats(4), np.abs(floats(4))], {}),
    ("Cast", [ROWS], {"to": TensorProto.INT64}),
    ("Cast", [TRUTH], {"to": TensorProto.FLOAT}),
    ("Clip", [ROWS, np.float32(-0.5), ONE], {}),
    ("Clip", [ROWS, None, ONE], {}),
    ("Clip", [ROWS], {}),
    ("Concat", [MAPS, MAPS], {"axis": 1}),
    ("Conv", [MAPS, floats(6, 4, 3, 3), floats(6)], {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    ("Conv", [MAPS, floats(8, 1, 3, 3)], {"group": 4, "dilations": [2, 2]}),
    ("Conv", [LINE, floats(5, 3, 4), floats(5)], {"pads": [1, 2]}),
    ("Div", [ROWS, POSITIVE], {}),
    ("Elu", [ROWS], {"alpha": 0.7}),
    ("Equal", [whole(1, 2, 3), whole(1, 0, 3)], {}),
    ("Erf", [ROWS], {}),
    ("Exp", [ROWS], {}),
    ("Expand", [floats(3, 1), whole(2, 1, 4)], {}),
    ("Flatten", [MAPS], {"axis": 2}),
    ("Gather", [MAPS, whole(0, -1)], {"axis": 1}),
    ("Gather", [ROWS, np.array(2)], {}),
    ("Gelu", [ROWS], {"approximate": "tanh"}),
    ("Gemm", [ROWS, floats(6, 5)], {}),
    ("Gemm", [floats(6, 3), floats(5, 6), floats(5)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("Gemm", [ROWS, floats(6, 5), floats(5)], {"beta": 2.0}),
    ("GlobalAveragePool", [MAPS], {}),
    ("GlobalMaxPool", [LINE], {}),
    ("Greater", [ROWS, floats(6)], {}),
    ("HardSigmoid", [3 * ROWS], {}),
    ("HardSigmoid", [3 * ROWS], {"alpha": 1 / 6}),
    ("HardSwish", [3 * ROWS], {}),
    ("Identity", [ROWS], {}),
    ("LayerNormalization", [ROWS, floats(6), floats(6)], {"epsilon": 1e-3}),
    ("LayerNormalization", [MAPS, floats(7, 9)], {"axis": 2}),
    ("LeakyRelu", [ROWS], {"alpha": 0.2}),
    ("MatMul", [floats(2, 3, 6), floats(6, 4)], {}),
    ("Max", [ROWS, floats(6), floats(3, 1)], {}),
    ("MaxPool", [MAPS], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 1, 0]}),
    ("MaxPool", [LINE], {"kernel_shape": [2], "strides": [2], "ceil_mode": 1}),
    ("Min", [ROWS, floats(6)], {}),
    ("Mod", [whole(-5, 5, 7), whole(3, 3, -4)], {}),
    ("Mod", [ROWS, POSITIVE], {"fmod": 1}),
    ("Mul", [ROWS, ROWS], {}),
    ("Neg", [ROWS], {}),
    ("Not", [TRUTH], {}),
    ("Pad", [MAPS, whole(0, 0, 1, 2, 0, 0, 0, 3)], {}),
    ("Pad", [ROWS, whole(0, 1, 0, 0), ONE], {}),
    ("Pow", [POSITIVE, np.float32(2.0)], {}),
    ("PRelu", [MAPS, floats(4, 1, 1)], {}),
    ("ReduceL2", [ROWS, whole(1)], {}),
    ("ReduceMax", [MAPS, whole(2, 3)], {"keepdims": 0}),
    ("ReduceMean", [MAPS, whole(-1)], {}),
    ("ReduceMean", [MAPS], {"keepdims": 0}),
    ("ReduceSum", [MAPS, whole(1)], {}),
    ("Relu", [ROWS], {}),
    ("Reshape", [MAPS, whole(0, -1, 9)], {}),
    ("Shape", [MAPS], {}),
    ("Shape", [MAPS], {"start": 1, "end": 3}),
    ("Sigmoid", [ROWS], {}),
    ("Slice", [MAPS, whole(1, -3), whole(99, -1), whole(3, 2), whole(2, 1)], {}),
    ("Slice", [ROWS, whole(1), whole(2)], {}),
    ("Softmax", [ROWS], {}),
    ("Softplus", [ROWS], {}),
    ("Split", [ROWS, whole(2, 4)], {"axis": 1}),
    ("Split", [ROWS], {"axis": 1, "num_outputs": 2}),
    ("Sqrt", [POSITIVE], {}),
    ("Squeeze", [floats(2, 1, 3), whole(1)], {}),
    ("Squeeze", [floats(2, 1, 3)], {}),
    ("Sub", [ROWS, floats(6)], {}),
    ("Tanh", [ROWS], {}),
    ("Transpose", [MAPS], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [MAPS], {}),
    ("Unsqueeze", [ROWS, whole(0, -1)], {}),
    ("Where", [TRUTH, ROWS, floats(6)], {}),
]


def said_by_onnx_runtime(
    folder: Path, operator: str, inputs: list[Any], attributes: dict[str, Any]
) -> NDArray[Any]:
    given = {f"i{i}": np.asarray(array) for i, array in enumerate(inputs) if array is not None}
    names = [f"i{i}" if array is not None else "" for i, array in enumerate(inputs)]
    outputs = ["o0", "o1"] if operator == "Split" else ["o0"]
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, **attributes)],
        "one",
        [helper.make_tensor_value_info(n, KINDS[a.dtype], a.shape) for n, a in given.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "one.onnx"
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    answer: NDArray[Any] = session(path).run(["o0"], given)[0]
    return answer


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_an_operator_computes_what_onnx_runtime_computes(
    tmp_path: Path, operator: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    expected = said_by_onnx_runtime(tmp_path, operator, inputs, attributes)
    node = helper.make_node(operator, [], [], **attributes)
    read = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in inputs]
    made = OPERATORS[operator](read, *tensors)
    found = made if isinstance(made, torch.Tensor) else made[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_every_operator_is_tried() -> None:
    assert {operator for operator, _, _ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "what"),
    [
        ("Conv", [MAPS, floats(6, 4, 3, 3)], {"auto_pad": b"SAME_UPPER"}, "auto_pad"),
        ("AveragePool", [MAPS], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "unequal padding"),
        ("Pad", [ROWS, whole(0, 1, 0, 0)], {"mode": b"reflect"}, "Pad by anything but"),
        ("Slice", [ROWS, whole(3), whole(0), whole(1), whole(-1)], {}, "Slice backwards"),
        ("Cast", [ROWS], {"to": TensorProto.STRING}, "Cast to ONNX type 8"),
        ("ReduceSum", [ROWS], {"noop_with_empty_axes": 1}, "reduction over no axes"),
    ],
)
def test_what_pytorch_has_no_like_of_is_said(
    operator: str, inputs: list[Any], attributes: dict[str, Any], what: str
) -> None:
    with pytest.raises(UnlikeError, match=what):
        OPERATORS[operator](attributes, *(torch.from_numpy(a) for a in inputs))
