"""Know this machine's usual pace: how long one small network takes here, now and on most days.

A machine's clock follows its temperature, its neighbours and its host, so that everything on it
runs some percent faster or slower for minutes at a time, and no statistic of those minutes can
tell. What can is a network that never changes: each measuring process times it beside the model,
and what it took on earlier occasions is kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from edgecompress.errors import ResourceError
from edgecompress.records import UsualPace
from edgecompress.store import digest_of, user_cache, write_atomic

CHANNELS, SIDE, LAYERS = 32, 32, 4  # a quarter of a millisecond on a server's core
OCCASION_S = 120.0  # what was measured within so long met the machine in one state
KNOWN = 5  # occasions from which on a machine's pace counts as known
RECENT = 40  # occasions that count: a machine that has changed for good is known anew
MOST_SEEN = 1000
_SEEN = TypeAdapter(list[tuple[FiniteFloat, Annotated[FiniteFloat, Field(gt=0)]]])


def reference_network() -> bytes:
    """Return the network as ONNX: 3x3 convolutions that stay in a core's own cache."""
    nodes, weights = [], []
    for i in range(LAYERS):
        shape = (CHANNELS, CHANNELS if i else 3, 3, 3)
        values = np.cos(np.arange(np.prod(shape))) / (9 * shape[1]) ** 0.5
        weights.append(numpy_helper.from_array(values.reshape(shape).astype(np.float32), f"w{i}"))
        source = f"r{i - 1}" if i else "x"
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [f"r{LAYERS - 1}"], ["y"]))
    ends = {"x": (1, 3, SIDE, SIDE), "y": (1, CHANNELS, 1, 1)}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends.items())
    graph = helper.make_graph(nodes, "reference", [x], [y], weights)
    opset = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


def usual_pace(host: str, folder: Path | None = None) -> UsualPace | None:
    """Return what is remembered of the machine `host`; None where that is too little."""
    return usual_of(_seen(host, folder))


def usual_of(seen: Sequence[tuple[float, float]]) -> UsualPace | None:
    """Return the median over recent occasions of pairs of Unix time and milliseconds.

    Recent is what was seen last, whatever the clock said: it may have been set back since. None
    where the occasions are too few to know.

    >>> usual_of([(0, 9.0), (60, 9.0), (900, 0.2), (1800, 0.3), (2700, 0.4), (3600, 0.5)])
    UsualPace(reference_ms=0.4, occasions=5)
    """
    occasions: dict[int, list[float]] = {}
    for at, reference_ms in seen:
        occasions.setdefault(int(at // OCCASION_S), []).append(reference_ms)
    if len(occasions) < KNOWN:
        return None
    recent = [median(seen_then) for seen_then in list(occasions.values())[-RECENT:]]
    return UsualPace(median(recent), len(recent))


def remember_pace(
    host: str, reference_ms: Sequence[float], folder: Path | None = None, at: float | None = None
) -> None:
    """Keep what the reference took in the processes of one measurement on a quiet machine.

    Where the cache cannot be written, the machine stays as unknown as it was.
    """
    now = time.time() if at is None else at
    seen = [*_seen(host, folder), (now, median(reference_ms))][-MOST_SEEN:]
    with contextlib.suppress(OSError, ResourceError):
        write_atomic(_file(host, folder), _SEEN.dump_json(seen))


def _seen(host: str, folder: Path | None) -> list[tuple[float, float]]:
    try:
        return _SEEN.validate_json(_file(host, folder).read_bytes())
    except (OSError, ResourceError, ValidationError):
        return []


def _file(host: str, folder: Path | None) -> Path:
    about = {"host": host, "network": (CHANNELS, SIDE, LAYERS)}
    return (folder or user_cache() / "pace") / f"pace-{digest_of(about)[:16]}.json"
