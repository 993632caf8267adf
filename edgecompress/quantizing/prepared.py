"""What every scheme begins with: a float graph that the quantizer understands."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgecompress.errors import ModelError
from edgecompress.graphs import graphs, tidy

PRODUCTS = {"MatMul", "Gemm"}
# Below this many weights the conversions around a product cost more time and bytes than it saves.
SMALLEST_PRODUCT = 1024


class NothingToDoError(Exception):
    """Say why a scheme makes no model."""


def refuse_quantized(model: ModelProto, path: Path) -> None:
    """Raise ModelError for a model that is quantized already."""

    def is_int8(node: NodeProto) -> bool:
        return node.op_type.endswith(("QuantizeLinear", "Integer")) or "QLinear" in node.op_type

    if found := next((node for node in model.graph.node if is_int8(node)), None):
        raise ModelError(
            f"{path}: already quantized (it has {found.op_type}); give the float model instead"
        )


def prepare(path: Path, scratch: Path) -> Path:
    """Return a copy with constants folded, batch norms fused, stale shapes gone and nodes named."""
    optimised, prepared = scratch / "optimised.onnx", scratch / "prepared.onnx"
    try:
        with quiet():
            quant_pre_process(path, optimised, skip_symbolic_shape=True)
    except (OSError, MemoryError):  # the machine's fault, and another time it may work
        raise
    except Exception as error:  # the quantizer raises bare exceptions of many kinds
        raise ModelError(f"{path}: cannot be prepared for int8: {one_line(error)}") from error
    model = tidy(onnx.load(optimised))
    _unshare_products_(model)
    prepared.write_bytes(model.SerializeToString())
    return prepared


def _unshare_products_(model: ModelProto) -> None:
    """Give every Gemm weights of its own: the quantizer transposes them in place, shared or not."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for g in graphs(model.graph) for node in g.node for name in node.input)
    for node in model.graph.node:
        if node.op_type == "Gemm" and uses[node.input[1]] > 1 and node.input[1] in constants:
            own = model.graph.initializer.add()
            own.CopyFrom(constants[node.input[1]])
            node.input[1] = own.name = f"{own.name}@{node.name}"


def require_weights(model: ModelProto, operators: set[str], scheme: str) -> None:
    """Raise NothingToDoError unless one of the operators carries enough weights to gain."""
    counts = weights_by_node(model)
    if not any(
        counts[i] > 0 and (node.op_type not in PRODUCTS or counts[i] >= SMALLEST_PRODUCT)
        for i, node in enumerate(model.graph.node)
        if node.op_type in operators
    ):
        raise NothingToDoError(
            f"{scheme} int8 has nothing to gain: no {', '.join(sorted(operators))} "
            f"with weights (matrix products: at least {SMALLEST_PRODUCT})"
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


def weights_by_node(model: ModelProto) -> list[int]:
    """Return for each node the size of its largest floating-point constant, 0 without one."""
    sizes = {
        tensor.name: math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
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


def one_line(error: BaseException) -> str:
    """Return an exception of the quantizer in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
