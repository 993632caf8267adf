"""What each node of a model takes in float, beside what it takes in int8."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
from onnx import NodeProto

from edgecompress.measuring.explain import Say, profiled
from edgecompress.measuring.explained import Profile
from edgecompress.records import OnnxModel
from edgecompress.runtime import Arrays

# What ONNX Runtime appends to a node's name when it changes the node's layout or kernel.
_APPENDED = re.compile(r"(_nchwc)?(_token_\d+)?$")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def added_ms(
    exact: OnnxModel, int8: OnnxModel, inputs: Arrays, threads: int = 1, say: Say | None = None
) -> dict[str, float]:
    """Return by how many ms a call would take longer for each node of `exact` that stayed float.

    Both models are profiled in fresh pinned processes on this host. Below 0 where int8 is the
    slower one. Conversions between the two, which depend on the neighbours, are left out; so are
    nodes that one of the two models runs as part of another.
    """
    source = {node.name: node for node in onnx.load(exact.path).graph.node}
    found = [_by_node(profile, source) for profile in profiled((exact, int8), inputs, threads, say)]
    return {node: found[0][node] - found[1][node] for node in found[0].keys() & found[1].keys()}


def _by_node(profile: Profile, source: Mapping[str, NodeProto]) -> dict[str, float]:
    """Return the time of each node of the source model, of those that the runtime still names.

    A layer that has swallowed the activation behind it bears that one's name.
    """
    makers = {name: node for node in source.values() for name in node.output}
    times: dict[str, float] = {}
    for run in profile.nodes:
        node = source.get(_APPENDED.sub("", run.name))
        is_layer = run.operator.endswith(_LAYERS)
        while node is not None and is_layer and node.op_type not in _LAYERS:
            node = makers.get(node.input[0])
        if node is not None:
            times[node.name] = times.get(node.name, 0.0) + run.ms
    return times
