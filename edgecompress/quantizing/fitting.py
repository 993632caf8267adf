"""Which schemes are worth a try: by what the device computes fast, and what the model computes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.helper import get_attribute_value

from edgecompress.quantization import Scheme
from edgecompress.quantizing.prepared import weights_by_node

_PRODUCTS = {"MatMul", "Gemm", "Gather", "LSTM", "GRU", "Attention"}


def schemes_for(
    path: Path,
    formats: Collection[str] = ("int8",),
    saturates: bool = False,
    casts: bool = False,
) -> tuple[Scheme, ...]:
    """Return the schemes to try on a device with these fast `formats`, in the order of the report.

    `saturates`: products of unsigned and signed 8 bits saturate there (x86 without VNNI), so that
    unsigned weights, which do not, compete with weights of 7 bits. `casts`: what measures has no
    arithmetic in half precision, so that convolutions, which ONNX Runtime converts to and fro
    there, can only come out slower. Signed activations are never tried: where they were measured
    they gained nothing.
    """
    model = onnx.load(path)
    schemes: list[Scheme] = []
    if "int8" in formats:
        heavy = is_product_heavy(model)
        schemes.append("static")
        schemes += ["static-float-ends"] if convolves(model) or heavy else []
        schemes += ["static-u8u8"] if saturates else []
        schemes += ["static-per-tensor"] if has_depthwise(model) else []
        schemes += ["dynamic", "int8-weights", "int4-weights"] if heavy else []
    halves = "fp16" in formats and not (casts and convolves(model))
    return (*schemes, "fp16") if halves or not schemes else tuple(schemes)


def is_product_heavy(model: ModelProto) -> bool:
    """Return whether matrix products, lookups and recurrent layers hold half of the weights."""
    counts = list(zip(model.graph.node, weights_by_node(model), strict=True))
    products = sum(count for node, count in counts if node.op_type in _PRODUCTS)
    return 0 < sum(count for _, count in counts) <= 2 * products


def has_depthwise(model: ModelProto) -> bool:
    """Return whether a convolution works on groups of channels, as a depthwise one does."""
    return any(
        node.op_type == "Conv"
        and any(a.name == "group" and get_attribute_value(a) > 1 for a in node.attribute)
        for node in model.graph.node
    )


def convolves(model: ModelProto) -> bool:
    """Return whether the model has a convolution."""
    return any(node.op_type == "Conv" for node in model.graph.node)
