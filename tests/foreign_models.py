"""ONNX models as strangers make them, each odd in one way; made with onnx alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Sizes = tuple[int | str, ...]
Arrays = dict[str, NDArray[np.generic]]
node, value = helper.make_node, helper.make_tensor_value_info


@dataclass(frozen=True)
class Foreign:
    """Hold a model, samples that it takes, and what is said where a command refuses it.

    `refused` is by command: measure, verify, quantize.
    """

    model: ModelProto
    samples: Arrays
    refused: dict[str, str] = field(default_factory=dict)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return random numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def held(name: str, array: NDArray[np.generic]) -> TensorProto:
    """Return an initializer."""
    return numpy_helper.from_array(array, name)


def integers(name: str, *numbers: int) -> TensorProto:
    """Return an initializer of int64, a list."""
    return held(name, np.array(numbers, np.int64))


def model_of(
    nodes: list[NodeProto],
    inputs: dict[str, Sizes],
    outputs: dict[str, Sizes | None],
    weights: list[TensorProto] = (),  # type: ignore[assignment]
    opset: int = 18,
    ir_version: int = 8,
) -> ModelProto:
    """Return a model whose inputs and outputs are floats."""
    graph = helper.make_graph(
        nodes,
        "foreign",
        [value(name, FLOAT, shape) for name, shape in inputs.items()],
        [value(name, FLOAT, shape) for name, shape in outputs.items()],
        list(weights),
    )
    domains = {n.domain for n in nodes} - {""}
    opsets = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(d, 3 if d == "ai.onnx.ml" else 1) for d in domains),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


X = {"x": normal(24, 32)}
W = held("w", normal(32, 64) / 6)
PRODUCT = [node("MatMul", ["x", "w"], ["y"], "product")]


def retyped(model: ModelProto, **kinds: int) -> ModelProto:
    """Return the model with other element types of its inputs and outputs."""
    for given in (*model.graph.input, *model.graph.output):
        if given.name in kinds:
            given.type.tensor_type.elem_type = kinds[given.name]
    return model


def _branch(name: str, seed: int) -> GraphProto:
    """Return a branch that holds its own weights and reads a value from outside."""
    return helper.make_graph(
        [node("MatMul", ["hidden", f"{name}_w"], [f"{name}_y"])],
        name,
        [],
        [value(f"{name}_y", FLOAT, ["n", 16])],
        [held(f"{name}_w", normal(64, 16, seed=seed) / 8)],
    )


def with_if() -> Foreign:
    """Choose by the data between two branches, each with weights of its own."""
    nodes = [
        node("MatMul", ["x", "w"], ["hidden"]),
        node("ReduceSum", ["hidden"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node(
            "If", ["positive"], ["y"],
            then_branch=_branch("then", 1), else_branch=_branch("else", 2),
        ),
    ]  # fmt: skip
    weights = [W, held("zero", np.float32(0))]
    return Foreign(model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 16)}, weights), X)


def with_loop() -> Foreign:
    """Multiply three times by a matrix that lies outside of the loop's body."""
    body = helper.make_graph(
        [node("MatMul", ["h_in", "square"], ["h_out"]), node("Identity", ["on_in"], ["on_out"])],
        "body",
        [value("i", INT64, []), value("on_in", BOOL, []), value("h_in", FLOAT, ["n", 32])],
        [value("on_out", BOOL, []), value("h_out", FLOAT, ["n", 32])],
    )
    nodes = [
        node("Loop", ["times", "on", "x"], ["h"], body=body),
        node("MatMul", ["h", "w"], ["y"]),
    ]
    weights = [
        W, held("square", normal(32, 32) / 6), held("times", np.int64(3)), held("on", np.bool_(1)),
    ]  # fmt: skip
    return Foreign(model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}, weights), X)


def with_scan() -> Foreign:
    """Add up the rows of the batch, one after another."""
    body = helper.make_graph(
        [node("Add", ["sum_in", "row"], ["sum_out"]), node("Identity", ["sum_out"], ["each"])],
        "body",
        [value("sum_in", FLOAT, [32]), value("row", FLOAT, [32])],
        [value("sum_out", FLOAT, [32]), value("each", FLOAT, [32])],
    )
    nodes = [
        node("Scan", ["start", "x"], ["total", "sums"], num_scan_inputs=1, body=body),
        node("MatMul", ["sums", "w"], ["y"]),
    ]
    weights = [W, held("start", np.zeros(32, np.float32))]
    return Foreign(model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}, weights), X)


def with_function() -> Foreign:
    """Call a function of the model's own."""
    body = [node("MatMul", ["a", "b"], ["c"]), node("Relu", ["c"], ["d"])]
    opsets = [helper.make_opsetid("", 18)]
    dense = helper.make_function("mine", "Dense", ["a", "b"], ["d"], body, opsets)
    nodes = [node("Dense", ["x", "w"], ["y"], domain="mine")]
    model = model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}, [W])
    model.functions.append(dense)
    return Foreign(model, X)


def sequence_beside() -> Foreign:
    """Give a tensor, and a sequence that repeats it."""
    model = model_of(
        [*PRODUCT, node("SequenceConstruct", ["y"], ["all"])],
        {"x": ("n", 32)},
        {"y": ("n", 64)},
        [W],
    )
    model.graph.output.append(helper.make_tensor_sequence_value_info("all", FLOAT, None))
    return Foreign(model, X)


def sequence_alone() -> Foreign:
    """Give nothing but a sequence."""
    model = sequence_beside().model
    del model.graph.output[0]
    nothing = "output 'all' is a seq(tensor(float)), expected a tensor of answers"
    return Foreign(model, X, {"verify": "none of its outputs is a tensor", "quantize": nothing})


def texts_out() -> Foreign:
    """Answer in words: the class's name, as converters of classifiers write it."""
    nodes = [
        *PRODUCT,
        node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
        node(
            "LabelEncoder", ["best"], ["name"], domain="ai.onnx.ml",
            keys_int64s=list(range(64)), values_strings=[f"class {i}" for i in range(64)],
        ),
    ]  # fmt: skip
    model = model_of(nodes, {"x": ("n", 32)}, {"name": ("n",), "y": ("n", 64)}, [W])
    return Foreign(retyped(model, name=TensorProto.STRING), X)


def texts_in() -> Foreign:
    """Take words: an id for each, and a row of weights for each id."""
    nodes = [
        node(
            "LabelEncoder", ["word"], ["id"], domain="ai.onnx.ml",
            keys_strings=["yes", "no"], values_int64s=[1, 2], default_int64=0,
        ),
        node("Gather", ["rows", "id"], ["h"]),
        node("MatMul", ["h", "w"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, {"word": ("n",)}, {"y": ("n", 64)}, [W, held("rows", normal(3, 32))])
    words = np.array(["yes", "no", "what"] * 8)
    return Foreign(retyped(model, word=TensorProto.STRING), {"word": words})


def in_nodes() -> Foreign:
    """Hold one matrix in a Constant node, the other in a ConstantOfShape node."""
    nodes = [
        node("Constant", [], ["w"], value=W),
        node("ConstantOfShape", ["dims"], ["u"], value=held("v", np.array([0.5], np.float32))),
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "u"], ["y"]),
    ]
    dims = integers("dims", 64, 40)
    return Foreign(model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 40)}, [dims]), X)


def old_style() -> Foreign:
    """List each constant among the inputs, as files of the first years do; name no node."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    shapes: dict[str, Sizes] = {"x": ("n", 32), "w": (32, 64)}
    return Foreign(model_of(nodes, shapes, {"y": ("n", 64)}, [W], opset=8, ir_version=3), X)


def old_style_held() -> Foreign:
    """Compute a constant from another that is listed among the inputs, as the light models do."""
    nodes = [
        node("ConstantOfShape", ["dims"], ["w"], value=held("v", np.array([0.5], np.float32))),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    shapes: dict[str, Sizes] = {"x": ("n", 32), "dims": (2,)}
    dims = integers("dims", 32, 64)
    model = model_of(nodes, shapes, {"y": ("n", 64)}, [dims], opset=9, ir_version=3)
    return Foreign(retyped(model, dims=INT64), X)


def duplicate_names() -> Foreign:
    """Name two nodes alike."""
    nodes = [node("MatMul", ["x", "w"], ["h"], "same"), node("Relu", ["h"], ["y"], "same")]
    model = model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}, [W])
    return _refused(model, "two nodes with same node name (same)")


def duplicate_values() -> Foreign:
    """Make one value twice, which ONNX forbids."""
    nodes = [*PRODUCT, node("MatMul", ["x", "w"], ["y"])]
    return _refused(model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}, [W]), "(SSA) form")


def same_symbol() -> Foreign:
    """Call the batch and the length by one name, so that both are one size."""
    nodes = [node("MatMul", ["a", "b"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    model = model_of(nodes, {"a": ("n", "n"), "b": ("n", 32)}, {"y": ("n", 64)}, [W])
    return Foreign(model, {"a": normal(24, 24), "b": normal(24, 32)})


def fixed_batch() -> Foreign:
    """Take four samples at a time, no more and no fewer."""
    return Foreign(model_of(PRODUCT, {"x": (4, 32)}, {"y": (4, 64)}, [W]), X)


def fixed_to_one() -> Foreign:
    """Take one image at a time, and flatten it to a row by its numbers."""
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("Reshape", ["c", "row"], ["r"]),
        node("Gemm", ["r", "w1"], ["y"]),
    ]
    weights = [
        held("k", normal(8, 3, 3, 3)), integers("row", 1, 512), held("w1", normal(512, 10)),
    ]  # fmt: skip
    model = model_of(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 10)}, weights)
    return Foreign(model, {"x": normal(24, 3, 8, 8)})


def zero_size() -> Foreign:
    """Take inputs of no elements."""
    nodes = [node("ReduceSum", ["x"], ["y"], keepdims=0)]
    return Foreign(
        model_of(nodes, {"x": ("n", 0)}, {"y": ()}), {"x": normal(24, 0)}, {"quantize": "no values"}
    )


def no_inputs() -> Foreign:
    """Take nothing, and give always the same."""
    model = model_of([node("Identity", ["w"], ["y"])], {}, {"y": (32, 64)}, [W])
    return Foreign(model, {}, dict.fromkeys(("verify", "quantize"), "takes no inputs"))


def scalar() -> Foreign:
    """Take one number."""
    nodes = [node("Mul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": ()}, {"y": (32, 64)}, [W])
    return Foreign(model, {"x": normal(24)}, {"quantize": "the model expects x: float32 scalar"})


def any_rank() -> Foreign:
    """Say nothing of its input's shape."""
    model = model_of(PRODUCT, {"x": ()}, {"y": None}, [W])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return _refused(model, "Field 'shape' of 'type' is required")


def halves() -> Foreign:
    """Compute in half precision."""
    half = held("w", numpy_helper.to_array(W).astype(np.float16))
    model = model_of(PRODUCT, {"x": ("n", 32)}, {"y": ("n", 64)}, [half])
    kind = TensorProto.FLOAT16
    return Foreign(retyped(model, x=kind, y=kind), {"x": X["x"].astype(np.float16)})


def flags() -> Foreign:
    """Take booleans."""
    nodes = [node("Cast", ["x"], ["f"], to=FLOAT), node("MatMul", ["f", "w"], ["y"])]
    model = model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}, [W])
    return Foreign(retyped(model, x=BOOL), {"x": X["x"] > 0})


def unknown_operator() -> Foreign:
    """Need an operator that only its maker has."""
    nodes = [node("Secret", ["x"], ["y"], domain="acme")]
    return _refused(model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 64)}), "acme")


def ancient() -> Foreign:
    """Be of an opset that no ONNX Runtime reads any more."""
    nodes = [node("Relu", ["x"], ["y"])]
    model = model_of(nodes, {"x": ("n", 32)}, {"y": ("n", 32)}, opset=5, ir_version=3)
    return _refused(model, "its opset 5 is older than 7, the oldest that ONNX Runtime reads")


def from_the_future() -> Foreign:
    """Be of an opset that is not there yet."""
    return _refused(
        model_of(PRODUCT, {"x": ("n", 32)}, {"y": ("n", 64)}, [W], opset=99), "Opset 99"
    )


def future_format() -> Foreign:
    """Be of a file format that is not there yet."""
    model = model_of(PRODUCT, {"x": ("n", 32)}, {"y": ("n", 64)}, [W], ir_version=99)
    return _refused(model, "ir_version 99")


def _refused(model: ModelProto, words: str) -> Foreign:
    return Foreign(model, X, dict.fromkeys(("measure", "verify", "quantize"), words))


MADE: tuple[Callable[[], Foreign], ...] = (
    *(with_if, with_loop, with_scan, with_function, in_nodes, old_style, old_style_held),
    *(sequence_beside, sequence_alone, texts_out, texts_in, duplicate_names, duplicate_values),
    *(same_symbol, fixed_batch, fixed_to_one, zero_size, no_inputs, scalar, any_rank, halves),
    *(flags, unknown_operator, ancient, from_the_future, future_format),
)
