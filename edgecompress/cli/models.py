"""Open the ONNX files that a command names: admitted through a child, with inputs to run them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgecompress.errors import EdgecompressError, UsageError
from edgecompress.runtime import Arrays, ModelFacts, admit, make_inputs, parse_shape

T = TypeVar("T")


@dataclass(frozen=True)
class OpenModel:
    """Hold an admitted model, what it is called in the answer, and inputs to measure it with."""

    label: str
    facts: ModelFacts
    inputs: Arrays


def open_models(
    paths: Sequence[Path],
    shapes: Sequence[str] = (),
    inputs: Path | None = None,
    batch: int | None = None,
    refused: Callable[[Path, EdgecompressError], None] | None = None,
    others: Collection[str] | None = (),
) -> list[OpenModel]:
    """Admit each file and make its inputs; `batch` sets the first free dimension.

    Files of one name are told apart by their whole path. What one of them does not take may be
    given for another, or is among `others` (None: whatever the name). With `refused`, a bad file is
    told to it and left out, and the others are opened all the same.
    """
    sizes = dict(map(parse_shape, shapes))
    paths = list(dict.fromkeys(paths))
    names = Counter(path.stem for path in paths)
    admitted = _each(paths, admit, refused)
    taken: set[str] | None = None
    if others is not None and len(admitted) == len(paths):  # a refused file may take any name
        taken = {tensor.name for facts in admitted.values() for tensor in facts.inputs} | {*others}

    def inputs_of(path: Path) -> Arrays:
        facts = admitted[path]
        return make_inputs(facts, _batched(facts, batch) | sizes, inputs, others=taken)

    return [
        OpenModel(path.stem if names[path.stem] == 1 else str(path), admitted[path], arrays)
        for path, arrays in _each(admitted, inputs_of, refused).items()
    ]


def _each(
    paths: Iterable[Path],
    act: Callable[[Path], T],
    refused: Callable[[Path, EdgecompressError], None] | None,
) -> dict[Path, T]:
    """Return what `act` makes of each path; tell `refused`, if there is one, of those that fail."""
    found = {}
    for path in paths:
        try:
            found[path] = act(path)
        except EdgecompressError as error:
            if refused is None:
                raise
            refused(path, error)
    return found


def _batched(facts: ModelFacts, batch: int | None) -> dict[str, tuple[int, ...]]:
    if batch is None:
        return {}
    for tensor in facts.inputs:
        if not tensor.shape or tensor.shape[0] not in (None, batch):
            raise UsageError(
                f"--batch {batch}: {facts.model.path} fixes its batch ({tensor}); leave it out"
            )
    return {t.name: (batch, *(size or 1 for size in t.shape[1:])) for t in facts.inputs}
