"""Count what several threads cannot share evenly: T times the work of the thread with the most.

ncnn shares a layer out by blocks of four output channels. With B blocks, T threads take
ceil(B / T) T / B times as long as by even shares: 24 channels on four threads are 6 blocks, of
which two threads have two and two have one. What is cut into tiles (attention's products) is even.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import ceil

import numpy as np
import onnx
from detectors import PUBLISHED
from onnx import NodeProto
from table import COLUMNS, Floats

from edgecompress.measuring.counting import (
    BLOCK,
    CONVOLUTIONS,
    KINDS,
    Graph,
    macs_of,
    prepare,
)


def shared_out(features: Mapping[str, Floats], threads: int) -> dict[str, Floats]:
    """Return the published models' features with the MACs that the busiest of threads makes."""
    factors = {
        name: uneven(net.model(), net.shape, threads)
        for name, net in ((name, make()) for name, make in PUBLISHED.items())
    }
    kinds = list(COLUMNS.values())
    return {
        model: work
        * np.array([factors[model.removesuffix("_int8")].get(kind, 1.0) for kind in kinds])
        for model, work in features.items()
    }


def uneven(model: onnx.ModelProto, shape: tuple[int, ...], threads: int) -> dict[str, float]:
    """Return for each kind of MACs the work of the busiest thread over an even share of it."""
    graph = prepare(model, {"x": shape})
    even: dict[str, float] = defaultdict(float)
    busiest: dict[str, float] = defaultdict(float)
    for node in graph.nodes:
        kind, macs = macs_of(graph, node)
        blocks = _blocks(graph, node, kind)
        even[kind] += macs
        busiest[kind] += macs * ceil(blocks / threads) * threads / blocks if blocks else macs
    return {kind: busiest[kind] / even[kind] for kind in KINDS if even[kind]}


def _blocks(graph: Graph, node: NodeProto, kind: str) -> int:
    """Return how many pieces a layer is shared out in, 0 for one that is cut as fine as needed."""
    if kind in ("", "matmul"):
        return 0
    made = graph.shape(node.output[0])[1]
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if kind == "grouped":
        return made
    if node.op_type in CONVOLUTIONS and kind != "depthwise":
        made //= groups  # wide groups run one after another
    return ceil(made / BLOCK)
