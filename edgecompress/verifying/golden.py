"""Golden inputs: a model's inputs cut into calls, the same for every processor."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError
from edgecompress.runtime import Arrays, ModelFacts, make_inputs

BUNDLED = "golden.bin"


@dataclass(frozen=True)
class Golden:
    """Hold the calls by input name, each array with the calls as its leading axis.

    `taken` are the rows of the samples given that are compared, in order (a model with a fixed
    batch gets its last call filled up with repeats), or None where a call is not made of samples.
    """

    calls: Arrays
    taken: NDArray[np.intp] | None
    source: str

    def rows(self, output: NDArray[Any]) -> NDArray[Any]:
        """Return an output over all calls as one row a sample: (calls, batch, ...) in one axis."""
        batch = next(iter(self.calls.values())).shape[1:2]
        if self.taken is None or output.shape[1:2] != batch:
            return output
        return output.reshape(-1, *output.shape[2:])[: len(self.taken)]


def bundled_inputs(model: Path) -> Path | None:
    """Return the golden inputs of the bundle that the model lies in, None where it lies in none."""
    inputs = model.with_name(BUNDLED)
    return inputs if inputs.is_file() and model.with_name("manifest.json").is_file() else None


def read_bundled(file: Path) -> dict[str, NDArray[Any]]:
    """Return the inputs of a bundle's golden calls, one call after another.

    Raise DataError where the file is not laid out as the manifest beside it says.
    """
    found: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
    try:
        golden = json.loads(file.with_name("manifest.json").read_bytes())["golden"]
        data, place = file.read_bytes(), 0
        for _ in range(golden["calls"]):
            for tensor in golden["tensors"]:
                kind, shape = np.dtype(tensor["type"]).newbyteorder("<"), tensor["shape"]
                array = np.frombuffer(data, kind, prod(shape), place).reshape(shape)
                place += array.nbytes
                if tensor["role"] == "input":
                    found[tensor["name"]].append(array.astype(tensor["type"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file}: is not laid out as the manifest beside it says; bundle the model again"
        ) from error
    return {n: np.concatenate(calls) if calls[1:] else calls[0] for n, calls in found.items()}


def evenly(count: int, most: int | None) -> NDArray[np.intp]:
    """Return the places of `most` samples of `count`, evenly spaced, or of all.

    >>> evenly(9, 3).tolist(), evenly(3, 5).tolist(), evenly(2, None).tolist()
    ([0, 4, 8], [0, 1, 2], [0, 1])
    """
    taken = count if most is None else min(count, most)
    return np.linspace(0, count - 1, taken).astype(np.intp)


def from_arrays(facts: ModelFacts, arrays: Arrays, source: str, limit: int | None) -> Golden:
    """Cut arrays of samples into calls, one sample each, as an app calls the model.

    A model that fixes its batch is called with so many. Inputs that hold no equal number of
    samples are one call as they are. `limit` samples, evenly spaced, are taken of more.
    """
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or counts == {0} or any(not t.shape for t in facts.inputs):
        return Golden({name: array[None] for name, array in arrays.items()}, None, source)
    (count,) = counts
    chosen = evenly(count, limit)
    batch = next((t.shape[0] for t in facts.inputs if t.shape[0] is not None), 1) or 1
    filled = np.minimum(np.arange(-(-len(chosen) // batch) * batch), len(chosen) - 1)
    rows = chosen[filled].reshape(-1, batch)
    calls = {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}
    return Golden(calls, chosen, source)


def made_up(facts: ModelFacts, shapes: dict[str, tuple[int, ...]], count: int) -> Golden:
    """Make `count` calls up, each from a seed of its own."""
    made = [make_inputs(facts, shapes, seed=seed, others=shapes) for seed in range(count)]
    calls = {name: np.stack([arrays[name] for arrays in made]) for name in made[0]}
    sizes = {array.shape[1] if array.ndim > 1 else 0 for array in calls.values()}
    sampled = len(sizes) == 1 and sizes != {0}
    taken = np.arange(count * sizes.pop()) if sampled else None
    return Golden(calls, taken, f"made up from {count} seeds")
