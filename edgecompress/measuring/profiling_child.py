"""Profile one ONNX model in a fresh process: one JSON request in, one JSON answer out.

Run by path. The request: `model`, `inputs` (an npz file) and their `names` in its order,
`threads`, `cores` to pin to, `seconds` of calls, `folder` for what ONNX Runtime writes, and the
most `memory` in bytes. The answer: `call_ms` (a call without the profiler, waiting for a core
taken out), `runs`, `nodes` in the order of running with what is in them and their time, `tensors`,
`outputs`, `quantized_types`, `node_ms` and `float32_ms`; or `error`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecompress.measuring.child import (
    answer,
    limit_memory,
    pin,
    session_options,
    waiting_clock,
    warm_up,
)

MIN_RUNS = 20
FEWEST = 4  # runs that must do for a slow model
PATIENCE_S = 45.0  # after which they do
COMPARED_S = 30.0  # the most that a comparison with float32 may take
MAX_EVENTS = 60_000  # ONNX Runtime writes some 700 bytes about each
TURN_NS = 10_000_000
WARM = 3
CHAIN = 64
_KEPT = (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING, AttributeProto.INTS)
Inputs = dict[str, Any]


def middle(values: list[float]) -> float:
    """Return the mean of the middle half.

    It shrugs off bursts as a median does; but the profiler counts whole microseconds, and among
    those a median cannot tell 1.5 from 2.4.
    """
    quarter = len(values) // 4
    return float(np.mean(sorted(values)[quarter : len(values) - quarter]))


def open_session(model: str | bytes, options: Any) -> Any:
    """Return a session on the CPU."""
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def watching(threads: int, prefix: Path) -> Any:
    """Return the options of a session that writes down its events."""
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options


def open_both(model: str, threads: int, folder: Path) -> tuple[Any, Any, ModelProto]:
    """Return the session as it is measured, one that writes down its events, and their graph.

    The second one runs the optimised graph of the first, in which each node has got a name of its
    own: events name their nodes, and where names are missing nothing else would tell them apart.
    """
    options = session_options(threads)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    plain = open_session(model, options)
    graph = onnx.load(options.optimized_model_filepath)
    named = ModelProto()
    named.CopyFrom(graph)
    for place, node in enumerate(named.graph.node):
        node.name = str(place)
    # Old files list constants among the inputs; those that were folded away would be asked for.
    asked = {given.name for given in plain.get_inputs()}
    kept = [value for value in named.graph.input if value.name in asked]
    named.graph.ClearField("input")
    named.graph.input.extend(kept)
    named.ir_version = max(named.ir_version, 4)  # from which on constants need not be inputs
    onnx.save(named, str(folder / "named.onnx"))
    options = watching(threads, folder / "events")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return plain, open_session(str(folder / "named.onnx"), options), graph


def runs_of(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the events of the nodes of each call, in the order of running.

    The nodes inside a branch or loop end with an `Execute` of their own; they are part of the node
    that holds them, whose event comes after. The outermost one ends the call.
    """
    nodes: list[dict[str, Any]] = []
    for event, following in zip(events, [*events[1:], {"name": ""}], strict=True):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.append(event)
        elif event["name"] == "model_run":
            yield nodes
            nodes = []
        elif event["name"].endswith("::Execute") and following["name"] != "model_run":
            nodes = [node for node in nodes if node["ts"] < event["ts"]]


def times(session: Any) -> list[list[dict[str, Any]]]:
    """End the profile of `session` and return its calls."""
    path = Path(session.end_profiling())
    events = json.loads(path.read_text())
    path.unlink()
    return list(runs_of(events))


def timed(call: Callable[[], object]) -> float:
    """Return the time of one call less its waiting for a core, in ms."""
    waiting = waiting_clock() or (lambda: 0)
    start = perf_counter_ns()
    queued = waiting()
    call()
    queued = waiting() - queued
    return (perf_counter_ns() - start - queued) / 1e6


def node_of(event: dict[str, Any], graph: ModelProto) -> NodeProto | None:
    """Return the node of an event, by the name it was given; None for one added since."""
    name = event["name"].removesuffix("_kernel_time")
    known = name.isdecimal() and int(name) < len(graph.graph.node)
    return graph.graph.node[int(name)] if known else None


def tensors_of(graph: ModelProto, run: list[dict[str, Any]], inputs: Inputs) -> dict[str, Any]:
    """Return type and shape of every value known: inputs, constants, what the nodes made."""
    known: dict[str, Any] = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape), "constant": False}
        for name, array in inputs.items()
    }
    for tensor in graph.graph.initializer:
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        known[tensor.name] = {"dtype": dtype, "shape": list(tensor.dims), "constant": True}
    for event in run:
        node = node_of(event, graph)
        made = [name for name in node.output if name] if node else []
        for name, entry in zip(made, event["args"].get("output_type_shape", []), strict=False):
            ((dtype, shape),) = entry.items()
            dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
            known[name] = {"dtype": dtype, "shape": shape, "constant": False}
    return known


def describe(runs: list[list[dict[str, Any]]], graph: ModelProto) -> list[dict[str, Any]]:
    """Return each node in the order of running: what is in it, and its time."""
    return [
        {**contents(events[0], graph), "ms": middle([event["dur"] / 1e3 for event in events])}
        for events in zip(*runs, strict=True)
    ]


def contents(event: dict[str, Any], graph: ModelProto) -> dict[str, Any]:
    """Return what is in the node of an event."""
    node = node_of(event, graph) or NodeProto(name=event["name"])
    return {
        "name": node.name or node.output[0],
        "operator": event["args"]["op_name"],
        "domain": node.domain,
        "inputs": list(node.input),
        "outputs": list(node.output),
        "attributes": {
            a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute if a.type in _KEPT
        },
    }


def _plain(value: Any) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def as_float32(model: ModelProto) -> ModelProto | None:
    """Return a float16 model rewritten in float32, None for any other or one with branches."""
    constants = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16]
    attributes = [a for node in model.graph.node for a in node.attribute]
    if not constants or any(a.HasField("g") or a.graphs for a in attributes):
        return None
    tensors = [a.t for a in attributes if a.HasField("t")]
    for tensor in (*constants, *(t for t in tensors if t.data_type == TensorProto.FLOAT16)):
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for attribute in attributes:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.ClearField("value_info")
    return model


def float32_ms(
    request: dict[str, Any], given_model: ModelProto, inputs: Inputs, call_ms: float
) -> float | None:
    """Return the time of a call of the model rewritten in float32; None where none can be made.

    The two take turns, so that the machine's drift meets both. Nor is a model compared that is so
    slow that warming up and a few turns would take too long.
    """
    if 4 * FEWEST * call_ms > COMPARED_S * 1e3 or (model := as_float32(given_model)) is None:
        return None
    wide = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in inputs.items()}
    try:
        rewritten = open_session(model.SerializeToString(), session_options(request["threads"]))
        warm_up(lambda: rewritten.run(None, wide), int(request["seconds"] * 1e8))
    except Exception:  # no such rewriting, no comparison
        return None
    given = open_session(request["model"], session_options(request["threads"]))
    turns: list[tuple[float, float]] = []
    end = perf_counter_ns() + 10 * int(request["seconds"] * 1e9)  # of both, and a small difference
    while len(turns) < FEWEST or (len(turns) < 5 * MIN_RUNS and perf_counter_ns() < end):
        ours, theirs = partial(given.run, None, inputs), partial(rewritten.run, None, wide)
        turns.append((timed(ours), timed(theirs)))
    before, after = (middle([turn[i] for turn in turns]) for i in (0, 1))
    return call_ms * after / before


def idle_node_ms(threads: int) -> float:
    """Return what a node costs that does nothing: the slope of the time over a chain's length."""
    found = []
    for length in (1, CHAIN):
        names = [f"v{i}" for i in range(length + 1)]
        nodes = [helper.make_node("Neg", [names[i]], [names[i + 1]]) for i in range(length)]
        ends = [
            helper.make_tensor_value_info(names[i], TensorProto.FLOAT, [1]) for i in (0, length)
        ]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        session = open_session(model.SerializeToString(), session_options(threads))
        inputs = {"v0": np.ones(1, np.float32)}
        found.append(middle([timed(lambda: session.run(None, inputs)) for _ in range(400)]))  # noqa: B023
    return max(0.0, (found[1] - found[0]) / (CHAIN - 1))


def call_in_turns(plain: Any, watched: Any, inputs: Inputs, request: dict[str, Any]) -> list[float]:
    """Return the times of the calls of `plain`, with as many of `watched` between them.

    In turns, so that a drifting machine meets both alike; of several calls, for after a call that
    was written down the caches are cold.
    """
    start = perf_counter_ns()
    once = watched.run(None, inputs) and (perf_counter_ns() - start)
    size = max(1, TURN_NS // once)
    calls: list[float] = []
    start = perf_counter_ns()
    while wanted(len(calls), (perf_counter_ns() - start) / 1e9, request):
        plain.run(None, inputs)
        calls += [timed(lambda: plain.run(None, inputs)) for _ in range(size)]
        for _ in range(size):
            watched.run(None, inputs)
    return calls


def wanted(runs: int, seconds: float, request: dict[str, Any]) -> bool:
    """Return whether to go on after so many runs and seconds."""
    if runs < MIN_RUNS:
        return runs < FEWEST or seconds < PATIENCE_S
    return bool(runs < request["most"] and seconds < request["seconds"])


def quantized_types(model: ModelProto) -> list[str]:
    """Return the types that the file quantizes its activations to."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    found = {
        types[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in types
    }
    return sorted(str(helper.tensor_dtype_to_np_dtype(kind)) for kind in found)


def profile(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request."""
    if request["cores"]:
        pin(request["cores"])
    limit_memory(request["memory"])
    folder, threads = Path(request["folder"]), request["threads"]
    with np.load(request["inputs"], allow_pickle=False) as file:
        inputs = dict(zip(request["names"], (file[key] for key in file), strict=True))
    plain, watched, graph = open_both(request["model"], threads, folder)
    warm_up(lambda: plain.run(None, inputs), int(request["seconds"] * 1e8))
    for _ in range(WARM - 1):
        watched.run(None, inputs)
    most = MAX_EVENTS // max(1, len(graph.graph.node))
    calls = call_in_turns(plain, watched, inputs, {**request, "most": most})
    runs, call_ms = times(watched)[WARM:], middle(calls)
    model = onnx.load(request["model"])
    return {
        "call_ms": call_ms,
        "runs": len(runs),
        "nodes": describe(runs, graph),
        "tensors": tensors_of(graph, runs[0], inputs),
        "outputs": [value.name for value in graph.graph.output],
        "quantized_types": quantized_types(model),
        "node_ms": idle_node_ms(threads),
        "float32_ms": float32_ms(request, model, inputs, call_ms),
    }


if __name__ == "__main__":
    answer(profile)
