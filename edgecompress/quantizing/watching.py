"""Look inside a graph while it runs on calibration data, one bounded batch after another."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgecompress.runtime import Arrays, session

_BATCH = 64
_MOST_BYTES = 256 * 10**6


def watch(
    model: ModelProto, names: Collection[str], inputs: Arrays
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield the values named, batch by batch, of a batch as large as about 256 MB allow.

    `names` are values anywhere in the outer graph; inputs of the model count too. A model whose
    batch is fixed gets that many samples at a time, the last ones filled up with repeats.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder:
        path = Path(folder) / "watched.onnx"
        path.write_bytes(_telling(model, names).SerializeToString())
        opened = session(path)
    asked = [output.name for output in opened.get_outputs() if output.name in names]
    taken = {i.name: inputs[i.name] for i in opened.get_inputs()}
    declared = opened.get_inputs()[0].shape[:1]
    fixed = declared[0] if declared and isinstance(declared[0], int) else 0
    samples, start, size = len(next(iter(taken.values()))), 0, fixed or 1
    while start < samples:
        rows = np.minimum(np.arange(start, start + size), samples - 1)
        feed = {name: array[rows] for name, array in taken.items()}
        found = dict(zip(asked, opened.run(asked, feed), strict=True)) if asked else {}
        yield {**{name: array for name, array in feed.items() if name in names}, **found}
        start += size
        if not fixed and start < samples:
            bytes_each = sum(array.nbytes for array in found.values()) // size
            size = min(_BATCH, max(1, _MOST_BYTES // max(bytes_each, 1)), samples - start)


def _telling(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return the model with the values named among its outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    made = {name for node in copy.graph.node for name in node.output}
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in sorted(set(names) & made - known)
    )
    return copy
