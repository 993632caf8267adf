"""Time single layers in a fresh process: one JSON request in, one JSON answer out.

Run by path. The request: `questions`, each a list of layers as `explained.Layer` has them,
`threads`, `cores` to pin to, `seconds` after which no further question is begun, `folder` for what
ONNX Runtime writes, and the most `memory` in bytes. The answer: `turns_ms`, for each question and
layer the time of its node in each turn; null for a layer that ONNX Runtime refuses, and for every
layer of a question that time ran out for. Weights are made up: only shapes and types count.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgecompress.measuring.child import answer, limit_memory, pin
from edgecompress.measuring.profiling_child import middle, open_session, times, watching

TURNS = 5
TURN_S = 0.008
MOST_CALLS = 150
WARM = 3
# What may be left of a layer once it is optimised, less the changes of layout around it: inside a
# model its neighbours share them.
_TIMED = {
    *("Conv", "ConvTranspose", "MatMul", "FusedConv", "FusedMatMul", "Gemm", "Neg"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
}
# Between int8 neighbours a float layer has them to itself, and its conversions are its own.
_TIMED_TOO = {
    "mixed": {"QuantizeLinear", "ReorderInput", "ReorderOutput"},
    "unpacked": {"DequantizeLinear"},
}
_TYPES = {
    "float": (np.float32, np.float32),
    "mixed": (np.float32, np.float32),
    "unpacked": (np.float32, np.int8),
    "unsigned": (np.uint8, np.int8),
    "signed": (np.int8, np.int8),
    "integer": (np.uint8, np.int8),
}


@dataclass
class Trial:
    """Hold one opened layer, and the number of calls in each of its turns so far."""

    session: Any
    inputs: dict[str, Any]
    timed: set[str]
    calls: int = 1

    def turn(self) -> None:
        """Call as often as a turn asks for."""
        for _ in range(self.calls):
            self.session.run(None, self.inputs)


def build(layer: dict[str, Any]) -> tuple[ModelProto, dict[str, Any]]:
    """Return a model of this layer alone, and inputs for it."""
    rng = np.random.default_rng(0)
    kind, weight_kind = _TYPES[layer["form"]]
    x = _random(rng, layer["input"], kind)
    constants = {"w": _random(rng, layer["weights"], weight_kind), **_scales(kind)}
    nodes = _nodes(layer)
    used = {name for node in nodes for name in node.input}
    out = {"mixed": np.uint8, "integer": np.int32}.get(layer["form"], kind)
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", _onnx_type(kind), x.shape)],
        [helper.make_tensor_value_info("y", _onnx_type(out), None)],
        [numpy_helper.from_array(a, name) for name, a in constants.items() if name in used],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10), {"x": x}


def _onnx_type(kind: type) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _random(rng: np.random.Generator, shape: list[int], kind: type) -> np.ndarray:
    if kind is np.float32:
        return rng.standard_normal(shape, np.float32)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def _scales(kind: type) -> dict[str, np.ndarray]:
    """Return scales and zero points: `x`'s, the weights', the output's."""
    zero: np.ndarray = np.zeros((), np.uint8 if kind is np.float32 else kind)
    numbers = {"xs": 0.02, "ws": 0.01, "ys": 0.5}
    scales = {name: np.array(number, np.float32) for name, number in numbers.items()}
    return {**scales, "xz": zero, "wz": np.zeros((), np.int8), "yz": zero}


def _nodes(layer: dict[str, Any]) -> list[NodeProto]:
    operator, attributes = layer["operator"], layer["attributes"]
    match layer["form"]:
        case _ if operator == "Move":
            return [helper.make_node("Neg", ["x"], ["y"])]
        case "float":
            return [helper.make_node(operator, ["x", "w"], ["y"], **attributes)]
        case "mixed":
            float_node = helper.make_node(operator, ["x", "w"], ["f"], **attributes)
            return [float_node, helper.make_node("QuantizeLinear", ["f", "ys", "yz"], ["y"])]
        case "unpacked":
            weights = helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["f"])
            return [weights, helper.make_node(operator, ["x", "f"], ["y"], **attributes)]
        case "integer":
            names = ["x", "w", "xz", "wz"]
            return [helper.make_node(f"{operator}Integer", names, ["y"], **attributes)]
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    return [helper.make_node(f"QLinear{operator}", names, ["y"], **attributes)]


def open_trial(layer: dict[str, Any], threads: int, folder: Path, name: str) -> Trial | None:
    """Return the layer ready to run, with a first idea of how often it fits into a turn."""
    try:
        model, inputs = build(layer)
        session = open_session(model.SerializeToString(), watching(threads, folder / name))
        trial = Trial(session, inputs, _TIMED | _TIMED_TOO.get(layer["form"], set()))
        for _ in range(WARM):
            start = perf_counter()
            trial.turn()
            taken = perf_counter() - start
    except Exception:  # a variant that does not exist is no answer
        return None
    trial.calls = min(MOST_CALLS, max(2, ceil(TURN_S / taken)))
    return trial


def ask(question: list[dict[str, Any]], threads: int, folder: Path) -> list[list[float] | None]:
    """Return the times of the layers, which take turns."""
    trials = [open_trial(layer, threads, folder, f"t{i}") for i, layer in enumerate(question)]
    for _ in range(TURNS):
        for trial in trials:
            if trial:
                trial.turn()
    return [_turns(trial) if trial else None for trial in trials]


def _turns(trial: Trial) -> list[float] | None:
    runs = [
        sum(event["dur"] / 1e3 for event in run if event["args"]["op_name"] in trial.timed)
        for run in times(trial.session)[WARM:]
    ]
    size = trial.calls
    turns = [middle(runs[i * size : (i + 1) * size]) for i in range(TURNS)]
    return turns if all(ms > 0 for ms in turns) else None


def trials(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request."""
    if request["cores"]:
        pin(request["cores"])
    limit_memory(request["memory"])
    end = perf_counter() + request["seconds"]
    found: list[list[list[float] | None]] = []
    for question in request["questions"]:
        if perf_counter() > end:
            found.append([None] * len(question))
        else:
            found.append(ask(question, request["threads"], Path(request["folder"])))
    return {"turns_ms": found}


if __name__ == "__main__":
    answer(trials)
