"""What one quantization step is worth in a model's outputs, read from its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edgecompress.graphs import about_of, graphs
from edgecompress.records import Kind

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")


@dataclass(frozen=True)
class Quantization:
    """Say whether a model computes in 8 bits, and the step of each output that it dequantizes.

    The step is the scale of the output's last DequantizeLinear, in the output's own unit. An
    output that is computed in floats after the last 8-bit value has none. `kind` is that of the
    task, where the file says it.
    """

    int8: bool
    steps: Mapping[str, float]
    kind: Kind | None = None


def read_quantization(path: Path) -> Quantization:
    """Return the quantization of an admitted ONNX file."""
    model = onnx.load(path, load_external_data=False)
    int8 = any(_is_int8(node) for graph in graphs(model.graph) for node in graph.node)
    found = {output.name: _step(model, output.name) for output in model.graph.output}
    steps = {name: step for name, step in found.items() if step is not None}
    return Quantization(int8, steps, about_of(model).kind)


def _is_int8(node: NodeProto) -> bool:
    kind = node.op_type
    return kind.endswith(("QuantizeLinear", "Integer")) or kind.startswith(("QLinear", "QGemm"))


def _step(model: ModelProto, output: str) -> float | None:
    """Follow an output back over operators that only move values, to its dequantization."""
    producers = {name: node for node in model.graph.node for name in node.output}
    while (node := producers.get(output)) is not None and node.op_type in _MOVES:
        output = node.input[0]
    if node is None or node.op_type != "DequantizeLinear":
        return None
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scale = constants.get(node.input[1])
    return None if scale is None else float(numpy_helper.to_array(scale).max())
