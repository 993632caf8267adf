"""Which layer of a torch network its export computes otherwise."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from edgecompress.exporting.differing import error_of, values_of
from edgecompress.exporting.onnx import positional, program_of
from edgecompress.exporting.parity import FLOAT
from edgecompress.tasks.task import Arrays

_SAMPLES = 3
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter writes from which modules a node is


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
    found = values_of(program, {n: t.numpy() for n, t in tensors.items()}, made.values())
    kinds = dict(network.named_modules())
    bound = FLOAT.max_rel_error or 0.0
    for path, output in expected.items():
        if path not in made:
            continue
        error = error_of(output, found[made[path]])
        if not error <= bound:
            name = path.removeprefix("network").removeprefix(".") or "the network"
            kind = type(kinds[path]).__name__
            return f"the first layer that differs is {name} ({kind}), relative error {error:.2g}"
    return "no layer differs in what the exporter wrote: it is the graph's optimisation"


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
