"""Where two forms of a network part: the first layer whose output is no longer the same."""

from __future__ import annotations

import ast
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from edgecompress.exporting.onnx import positional, program_of
from edgecompress.exporting.parity import FLOAT
from edgecompress.records import OnnxModel, Parity
from edgecompress.runtime import session
from edgecompress.tasks.task import Arrays

_SAMPLES = 3
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter writes from which modules a node is
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


def first_layer(module: nn.Module, inputs: Arrays) -> str:
    """Name the first module of a torch network whose output ONNX Runtime computes otherwise.

    Each module's own output is held against the value of the file that the exporter made of it,
    before anything is optimised. `inputs` are real samples, named as exported.
    """
    network = positional(module)
    few = {name: np.resize(array, (_SAMPLES, *array.shape[1:])) for name, array in inputs.items()}
    tensors = {
        name: torch.from_numpy(a.astype(np.float32) if a.dtype.kind == "f" else a)
        for name, a in few.items()
    }
    expected = _module_outputs(network, tensors)
    program = program_of(network, tensors, optimize=False).model_proto
    made = _values_of_modules(program)
    found = _values(program, {n: t.numpy() for n, t in tensors.items()}, made.values())
    kinds = dict(network.named_modules())
    bound = FLOAT.max_rel_error or 0.0
    for path, output in expected.items():
        if path not in made:
            continue
        error = _error(output, found[made[path]])
        if not error <= bound:
            name = path.removeprefix("network").removeprefix(".") or "the network"
            kind = type(kinds[path]).__name__
            return f"the first layer that differs is {name} ({kind}), relative error {error:.2g}"
    return "no layer differs in what the exporter wrote: it is the graph's optimisation"


def first_value(reference: OnnxModel, model: OnnxModel, inputs: Arrays) -> str:
    """Name the first node of a float model whose value its quantized form computes otherwise.

    Values of one name are compared where both graphs have as many operators of that kind, so that
    a name means the same in both.
    """
    graphs = [onnx.load(m.path) for m in (reference, model)]
    few = {name: array[:_SAMPLES] for name, array in inputs.items()}
    common = _common_values(*graphs)
    exact, rounded = (_values(graph, few, common) for graph in graphs)
    errors = {name: _error(exact[name], rounded[name], squared=True) for name in common}
    if not errors:
        return "no layer of the two can be compared"
    broken = [name for name in common if not errors[name] <= _COARSE]
    name = broken[0] if broken else max(common, key=lambda one: errors[one])
    which = "first layer that differs by more than a tenth" if broken else "layer that differs most"
    return f"the {which} is {name} ({common[name]}), relative error {errors[name]:.2g}"


def _module_outputs(
    network: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> dict[str, NDArray[Any]]:
    """Return the output of each module that is called once and gives a tensor, in order."""
    outputs: dict[str, NDArray[Any]] = {}
    calls: Counter[str] = Counter()

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, given: Any, output: Any) -> None:
            calls[path] += 1
            if isinstance(output, torch.Tensor):
                outputs[path] = output.detach().numpy().copy()

        return note

    handles = [
        module.register_forward_hook(hook(path)) for path, module in network.named_modules() if path
    ]
    with torch.no_grad():
        network(*tensors.values())
    for handle in handles:
        handle.remove()
    return {path: output for path, output in outputs.items() if calls[path] == 1}


def _values_of_modules(program: ModelProto) -> dict[str, str]:
    """Return for each module's path the name of the last value that was made inside it."""
    last: dict[str, str] = {}
    for node in program.graph.node:
        said = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES)
        for scope in ast.literal_eval(said) if said else ():
            if node.output[0]:
                last[scope] = node.output[0]
    return last


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


def _values(model: ModelProto, inputs: Arrays, names: Iterable[str]) -> dict[str, NDArray[Any]]:
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


def _error(expected: NDArray[Any], found: NDArray[Any], squared: bool = False) -> float:
    """Return the largest error beside the largest value, or, `squared`, the root mean squares."""
    if expected.shape != found.shape:
        return float("inf")
    exact, off = expected.astype(np.float64), found.astype(np.float64) - expected
    if squared:
        scale, error = float(np.sqrt(np.mean(exact**2))), float(np.sqrt(np.mean(off**2)))
    else:
        scale, error = float(np.abs(exact).max(initial=0)), float(np.abs(off).max(initial=0))
    return error / max(scale, 1e-12)
