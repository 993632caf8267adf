"""A pruning as data: what is kept of every group of channels, so that no code or pickle is needed.

To rebuild a pruned network: `apply_plan` to the original, load the weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.attention import split_, splittable
from edgecompress.pruning.blocks import drop_
from edgecompress.pruning.graph import Inputs, opened, positional, run, trace
from edgecompress.pruning.groups import Coupled, cut_, groups_of, set_heads_
from edgecompress.settings import Settings, dotted
from edgecompress.store import write_atomic

VERSION = 2
# Far beyond any network for a phone; a file that asks for more would only fill the memory.
MAX_BYTES, MAX_CHANNELS = 16_000_000, 10_000_000

Count = Annotated[int, Field(ge=1, strict=True)]
Index = Annotated[int, Field(ge=0, strict=True)]


class Kept(Settings):
    """Name what a module keeps, by its indices before any pruning, of the `of` that it had.

    For a layer these are output channels, which all layers coupled to it keep alike; for an
    attention they are heads.
    """

    module: str
    of: Count
    kept: tuple[Index, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ascends_within(self) -> Kept:
        if self.kept[-1] >= self.of or any(a >= b for a, b in pairwise(self.kept)):
            raise ValueError(
                f"the indices kept of {self.module!r} must ascend without repetition within "
                f"0..{self.of - 1}"
            )
        return self

    def without(self, positions: Iterable[int]) -> Kept:
        """Return what is kept when the entries at these positions of `kept` go as well."""
        gone = set(positions)
        kept = tuple(index for place, index in enumerate(self.kept) if place not in gone)
        return self.model_copy(update={"kept": kept})


class PruningPlan(Settings):
    """Hold what is left of a network, in the names and indices of the network as it was built.

    `split` names each `nn.MultiheadAttention` that was rewritten as separate linear layers,
    `blocks` the residual blocks that were dropped.
    """

    version: Literal[2] = 2
    split: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    heads: tuple[Kept, ...] = ()
    channels: tuple[Kept, ...] = ()

    @model_validator(mode="after")
    def _names_each_once(self) -> PruningPlan:
        lists = (self.split, self.blocks, _modules(self.heads), _modules(self.channels))
        for names in lists:
            if repeated := {name for name, times in Counter(names).items() if times > 1}:
                raise ValueError(f"the module {min(repeated)!r} is named twice")
        return self

    def save(self, path: Path) -> None:
        """Write the plan as JSON text, atomically."""
        write_atomic(path, f"{self.model_dump_json()}\n".encode())

    @classmethod
    def load(cls, path: Path) -> PruningPlan:
        """Read a plan of this or an older version; raise `PruningError` naming file and field."""
        document = _document(path)
        version = document.get("version", 1)
        try:
            match version:
                case 1:
                    return _CutsInTurn.model_validate_json(json.dumps(document)).plan()
                case 2:
                    return cls.model_validate_json(json.dumps(document))
        except ValidationError as error:
            first = error.errors()[0]
            field = dotted(first["loc"]) or "the file"
            why = first["msg"].removeprefix("Value error, ")
            raise PruningError(
                f"{path}: {field} is no part of a pruning plan (version {version}): {why}; prune "
                "again to write the plan anew"
            ) from error
        raise PruningError(
            f"{path}: version is {json.dumps(version)[:20]}, expected 1 to {VERSION}; read the "
            "plan with the edgecompress that wrote it, or prune again"
        )


class _Cut(Settings):
    """Name the channels that a layer loses, by their indices just before that cut."""

    module: str
    width: Count
    channels: tuple[Index, ...] = Field(min_length=1)


class _CutsInTurn(Settings):
    """Hold a plan as version 1 wrote it: one cut after another."""

    version: Literal[1] = 1
    cuts: tuple[_Cut, ...]

    @model_validator(mode="after")
    def _fit_one_another(self) -> _CutsInTurn:
        left: dict[str, int] = {}
        for cut in self.cuts:
            width = left.setdefault(cut.module, cut.width)
            distinct = len(set(cut.channels)) == len(cut.channels)
            if width != cut.width or not distinct or max(cut.channels) >= width:
                raise ValueError(
                    f"a cut of {cut.module!r} must name distinct channels within 0..{width - 1}"
                )
            if len(cut.channels) == width:
                raise ValueError(f"the cuts of {cut.module!r} leave no channel")
            left[cut.module] = width - len(cut.channels)
        if sum({cut.module: cut.width for cut in reversed(self.cuts)}.values()) > MAX_CHANNELS:
            raise ValueError(f"all widths together must stay below {MAX_CHANNELS:,}")
        return self

    def plan(self) -> PruningPlan:
        kept: dict[str, Kept] = {}
        for cut in self.cuts:
            whole = Kept(module=cut.module, of=cut.width, kept=tuple(range(cut.width)))
            kept[cut.module] = kept.get(cut.module, whole).without(cut.channels)
        return PruningPlan(channels=tuple(kept.values()))


def apply_plan(module: nn.Module, plan: PruningPlan, example_inputs: Inputs) -> nn.Module:
    """Return a copy of `module`, cut as the plan says; weights that stay keep their values.

    Training mode and `requires_grad` stay as they were. Raise `PruningError` if the plan was made
    for another network.
    """
    module, inputs = deepcopy(module), positional(example_inputs)
    _split_(module, plan)
    with opened(module):
        shapes = [o.shape for o in run(module, inputs, "does not run on the example inputs")]
        drop_(module, plan.blocks)
        _require_shapes(module, inputs, shapes)
        graph, outputs = trace(module, inputs)
        sets = {one.path: one for one in groups_of(module, graph, outputs).cuttable}
        for one, entry, heads in _fitting(sets, plan):
            gone = sorted(set(range(entry.of)) - set(entry.kept))
            cut_(module, graph, one, gone)
            if heads is not None:
                set_heads_(module, one, len(heads.kept))
        _require_shapes(module, inputs, shapes)
    return module


def _require_shapes(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: list[torch.Size]
) -> None:
    moment = "does not run after the plan's cuts; it was made for another network"
    if [output.shape for output in run(module, inputs, moment)] != shapes:
        raise PruningError(
            "pruning plan: it changes the shape of the network's outputs; construct the network "
            "that was pruned"
        )


def _split_(module: nn.Module, plan: PruningPlan) -> None:
    possible = splittable(module) if plan.split else ()
    for path in plan.split:
        if path not in possible:
            raise PruningError(
                f"pruning plan: the network has no nn.MultiheadAttention {path!r} to split; "
                "construct the network that was pruned"
            )
    split_(module, plan.split)


def _fitting(
    sets: Mapping[str, Coupled], plan: PruningPlan
) -> list[tuple[Coupled, Kept, Kept | None]]:
    """Return each group with what is kept of its channels and heads, or say what does not fit."""
    heads = {entry.module: entry for entry in plan.heads}
    fitting = []
    for entry in plan.channels:
        one = sets.get(entry.module)
        if one is None:
            raise PruningError(
                f"pruning plan: the network has no layer {entry.module!r} whose channels can be "
                "cut; construct the network that was pruned"
            )
        _require_width("channels", entry, one.width)
        kept_heads = heads.pop(one.heads.path, None) if one.heads else None
        if one.heads and kept_heads:
            _require_width("heads", kept_heads, one.heads.count)
        if not _is_even(one, entry, kept_heads):
            raise PruningError(
                f"pruning plan: {entry.module!r} would lose other channels in one of its "
                f"{one.parts} parts (groups, heads) than in the next; prune again"
            )
        fitting.append((one, entry, kept_heads))
    if heads:
        raise PruningError(
            f"pruning plan: the network has no attention {min(heads)!r} whose channels the plan "
            "cuts; construct the network that was pruned"
        )
    return fitting


def _require_width(what: str, entry: Kept, found: int) -> None:
    if entry.of != found:
        raise PruningError(
            f"pruning plan: {entry.module!r} has {found} {what} where the plan expects "
            f"{entry.of}; construct the network that was pruned"
        )


def _is_even(one: Coupled, entry: Kept, heads: Kept | None) -> bool:
    """Return whether every part that is left keeps the same of its channels."""
    parts = range(one.parts)
    if one.heads and heads:
        count = one.heads.count
        parts = [f * count + head for f in range(one.heads.fused) for head in heads.kept]  # type: ignore[assignment]
    size = one.width // (one.heads.fused * one.heads.count if heads and one.heads else one.parts)
    units = {channel % size for channel in entry.kept}
    return set(entry.kept) == {part * size + unit for part in parts for unit in units}


def _modules(entries: tuple[Kept, ...]) -> tuple[str, ...]:
    return tuple(entry.module for entry in entries)


def _document(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PruningError(f"{path}: is larger than {MAX_BYTES:,} bytes, which no plan is")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise PruningError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise PruningError(
            f"{path}: is no JSON, expected a pruning plan; prune again to write the plan anew"
        ) from error
    if not isinstance(document, dict):
        raise PruningError(f"{path}: is no JSON object, expected a pruning plan")
    return document
