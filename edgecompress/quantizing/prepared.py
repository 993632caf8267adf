"""What every scheme begins with: a float graph that the quantizer understands."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper, version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgecompress.errors import ModelError
from edgecompress.graphs import graphs, tidy
from edgecompress.quantizing.rewriting import (
    plain_gemm_,
    pool_instead_of_mean_,
    product_instead_of_sum_,
    reads,
)

PRODUCTS = {"MatMul", "Gemm"}
# Below this many weights the conversions around a product cost more time and bytes than it saves.
SMALLEST_PRODUCT = 1024
_MODERN = 13
_MOST_HELD = 2**24  # elements of a ConstantOfShape that are written out


class NothingToDoError(Exception):
    """Say why a scheme makes no model."""


def refuse_quantized(model: ModelProto, path: Path) -> None:
    """Raise ModelError for a model that is quantized already."""

    def is_int8(node: NodeProto) -> bool:
        ending = ("QuantizeLinear", "DequantizeLinear", "Integer", "NBits")
        return node.op_type.endswith(ending) or "QLinear" in node.op_type

    if found := next((node for node in model.graph.node if is_int8(node)), None):
        raise ModelError(
            f"{path}: already quantized (it has {found.op_type}); give the float model instead"
        )


def prepare(path: Path, scratch: Path) -> Path:
    """Return a copy with constants folded, batch norms fused, stale shapes gone and nodes named."""
    held, optimised = scratch / "held.onnx", scratch / "optimised.onnx"
    prepared = scratch / "prepared.onnx"
    source = onnx.load(path)
    _hold_constants_(source.graph)
    try:
        held.write_bytes(_modern(tidy(source)).SerializeToString())
        with quiet():
            quant_pre_process(held, optimised, skip_symbolic_shape=True)
    except (OSError, MemoryError):  # the machine's fault, and another time it may work
        raise
    except Exception as error:  # the quantizer raises bare exceptions of many kinds
        raise ModelError(f"{path}: cannot be prepared for int8: {one_line(error)}") from error
    model = onnx.load(optimised)
    pool_instead_of_mean_(model)
    product_instead_of_sum_(model)
    plain_gemm_(model)
    model = tidy(model)
    _unshare_products_(model)
    prepared.write_bytes(model.SerializeToString())
    return prepared


def _modern(model: ModelProto) -> ModelProto:
    """Return the model in an opset whose 8-bit operators take a scale for each channel."""
    stated = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), _MODERN)
    return model if stated >= _MODERN else version_converter.convert_version(model, _MODERN)


def _unshare_products_(model: ModelProto) -> None:
    """Give every Gemm weights of its own: the quantizer transposes them in place, shared or not."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for g in graphs(model.graph) for node in g.node for name in node.input)
    for node in model.graph.node:
        if node.op_type == "Gemm" and uses[node.input[1]] > 1 and node.input[1] in constants:
            uses[node.input[1]] -= 1
            own = model.graph.initializer.add()
            own.CopyFrom(constants[node.input[1]])
            node.input[1] = own.name = f"{own.name}@{node.name}"


def _hold_constants_(graph: GraphProto) -> None:
    """Make initializers of Constant nodes, and of ConstantOfShape nodes whose shape is known."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        tensor = _constant_of(node, known)
        if tensor is None:
            kept.append(node)
        else:
            known[tensor.name] = graph.initializer.add()
            known[tensor.name].CopyFrom(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _constant_of(node: NodeProto, known: Mapping[str, TensorProto]) -> TensorProto | None:
    """Return what a node that reads constants alone holds, named as its output; None otherwise."""
    value = next((a.t for a in node.attribute if a.name == "value"), None)
    match node.op_type:
        case "Constant" if value is not None:
            tensor = TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            return tensor
        case "ConstantOfShape" if node.input[0] in known:
            shape = numpy_helper.to_array(known[node.input[0]])
            fill = numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
            if 0 < math.prod(shape.tolist()) <= _MOST_HELD:
                return numpy_helper.from_array(
                    np.full(shape, fill.item(), fill.dtype), node.output[0]
                )
    return None


def require_weights(
    model: ModelProto, operators: set[str], scheme: str, keep_float: Collection[str] = ()
) -> None:
    """Raise NothingToDoError unless one of the operators carries enough weights to gain."""
    counts = weights_by_node(model)
    if not any(
        counts[i] > 0 and (node.op_type not in PRODUCTS or counts[i] >= SMALLEST_PRODUCT)
        for i, node in enumerate(model.graph.node)
        if node.op_type in operators and node.name not in keep_float
    ):
        raise NothingToDoError(
            f"{scheme} int8 has nothing to gain: no {', '.join(sorted(operators))} "
            f"with weights in 32-bit floats (matrix products: at least {SMALLEST_PRODUCT})"
            f"{' beside those that stay float' if keep_float else ''}"
        )


def small_products(model: ModelProto) -> list[str]:
    """Return the names of matrix products with so few weights that they stay float.

    Each name twice: the dynamic quantizer turns Gemm into a MatMul of another name first.
    """
    counts = weights_by_node(model)
    return [
        node.name + suffix
        for i, node in enumerate(model.graph.node)
        if node.op_type in PRODUCTS and 0 < counts[i] < SMALLEST_PRODUCT
        for suffix in ("", "_MatMul")
    ]


def stacked_products(model: ModelProto) -> list[str]:
    """Return the names of products whose weights no 8-bit kernel takes with a scale a channel.

    Those are stacks of matrices, and matrices that stand before the other factor.
    """
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and (node.input[0] in ranks or ranks.get(node.input[1], 0) > 2)
    ]


def read_in_branches(model: ModelProto) -> list[str]:
    """Return the names of the nodes whose values a branch reads.

    The quantizer drops a Relu where its range clips as well, and gives branches what came before.
    """
    inside = {name for node in model.graph.node for name in reads(node) - set(node.input)}
    return [node.name for node in model.graph.node if inside & set(node.output)]


def weights_by_node(model: ModelProto) -> list[int]:
    """Return for each node the size of its largest floating-point constant, 0 without one.

    Constants count wherever they are held: as initializers, in Constant or ConstantOfShape nodes.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if (tensor := _constant_of(node, constants)) is not None:
            constants[tensor.name] = tensor
    sizes = {
        name: math.prod(tensor.dims)
        for name, tensor in constants.items()
        if tensor.data_type == TensorProto.FLOAT
    }
    return [max((sizes.get(name, 0) for name in n.input), default=0) for n in model.graph.node]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the quantizer's prints and advice off the terminal; exceptions pass."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def quantizer() -> Iterator[None]:
    """Call the quantizer within: quietly, and as NothingToDoError where it fails on the model.

    What is the machine's fault passes: another time it may work.
    """
    try:
        with quiet():
            yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # it raises bare exceptions of many kinds
        raise NothingToDoError(f"ONNX Runtime's quantizer failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return an exception of the quantizer in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
