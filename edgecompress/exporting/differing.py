"""Where two ONNX forms of a network part: the first layer whose output is no longer the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgecompress.records import OnnxModel, Parity
from edgecompress.runtime import session
from edgecompress.tasks.task import Arrays

_SAMPLES = 3
_COARSE = 0.1  # 8 bits move a value by a few hundredths of its size; more is a layer that broke


def located(parity: Parity, where: Callable[[], str]) -> Parity:
    """Return the parity, with the first layer that differs in the reason where it failed."""
    if parity.passed:
        return parity
    try:
        found = where()
    except Exception:  # a network that fails in so many ways is refused for the first of them
        return parity
    return replace(parity, reason=f"{parity.reason}; {found}")


def first_value(reference: OnnxModel, model: OnnxModel, inputs: Arrays) -> str:
    """Name the first node of a float model whose value its quantized form computes otherwise.

    Values of one name are compared where both graphs have as many operators of that kind, so that
    a name means the same in both.
    """
    graphs = [onnx.load(m.path) for m in (reference, model)]
    few = {name: array[:_SAMPLES] for name, array in inputs.items()}
    common = _common_values(*graphs)
    exact, rounded = (values_of(graph, few, common) for graph in graphs)
    errors = {name: error_of(exact[name], rounded[name], squared=True) for name in common}
    if not errors:
        return "no layer of the two can be compared"
    broken = [name for name in common if not errors[name] <= _COARSE]
    name = broken[0] if broken else max(common, key=lambda one: errors[one])
    which = "first layer that differs by more than a tenth" if broken else "layer that differs most"
    return f"the {which} is {name} ({common[name]}), relative error {errors[name]:.2g}"


def _common_values(exact: ModelProto, rounded: ModelProto) -> dict[str, str]:
    """Return the values that both graphs have, in order, with the operators that make them."""
    counts = [Counter(node.op_type for node in m.graph.node) for m in (exact, rounded)]
    there = {node.output[0]: node.op_type for node in rounded.graph.node}
    return {
        node.output[0]: node.op_type
        for node in exact.graph.node
        if there.get(node.output[0]) == node.op_type
        and counts[0][node.op_type] == counts[1][node.op_type]
    }


def values_of(model: ModelProto, inputs: Arrays, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Run the model and return some of its values by name."""
    wanted = list(dict.fromkeys(names))
    asked = ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as scratch:
        path = Path(scratch, "values.onnx")
        path.write_bytes(asked.SerializeToString())
        found = session(path).run(wanted, dict(inputs))
    return dict(zip(wanted, map(np.asarray, found), strict=True))


def error_of(expected: NDArray[Any], found: NDArray[Any], squared: bool = False) -> float:
    """Return the largest error beside the largest value, or, `squared`, the root mean squares."""
    if expected.shape != found.shape:
        return float("inf")
    exact, off = expected.astype(np.float64), found.astype(np.float64) - expected
    if squared:
        scale, error = float(np.sqrt(np.mean(exact**2))), float(np.sqrt(np.mean(off**2)))
    else:
        scale, error = float(np.abs(exact).max(initial=0)), float(np.abs(off).max(initial=0))
    return error / max(scale, 1e-12)
