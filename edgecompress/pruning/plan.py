"""A pruning as data: which channels went, so that the network can be cut again without its code.

To rebuild a pruned network: construct the original, `apply_plan_`, load the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError
from torch import nn
from torch_pruning import DependencyGraph

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import (
    ROOTS,
    Inputs,
    opened,
    positional,
    run,
    torch_pruning_at_work,
    trace,
)
from edgecompress.settings import Settings
from edgecompress.store import write_atomic

Count = Annotated[int, Field(ge=1, strict=True)]
Channel = Annotated[int, Field(ge=0, strict=True)]


class Cut(Settings):
    """Name the output channels that one layer, and all that is coupled to it, loses.

    `width` is their number just before the cut: it tells a plan that was made for another network.
    """

    module: str
    width: Count
    channels: tuple[Channel, ...]


class PruningPlan(Settings):
    """Hold the cuts of a pruning in the order in which they were made."""

    version: Literal[1] = 1
    cuts: tuple[Cut, ...]

    def save(self, path: Path) -> None:
        """Write the plan as JSON text, atomically."""
        write_atomic(path, f"{self.model_dump_json()}\n".encode())

    @classmethod
    def load(cls, path: Path) -> PruningPlan:
        """Read a plan; raise `PruningError` naming the file and the field that is wrong."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise PruningError(f"{path}: cannot be read ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise PruningError(
                f"{path}: {field} is no part of a pruning plan (version 1): {first['msg']}; "
                "prune again to write the plan anew"
            ) from error


def apply_plan_(module: nn.Module, plan: PruningPlan, example_inputs: Inputs) -> None:
    """Cut `module` as the plan says; weights that stay keep their values.

    Raise `PruningError` if the plan was made for another network; `module` is then half cut and
    must be thrown away. Training mode and `requires_grad` stay as they were.
    """
    inputs = positional(example_inputs)
    with opened(module):
        run(module, inputs, "does not run on the example inputs")
        graph, _ = trace(module, inputs)
        for cut in plan.cuts:
            apply_cut_(module, graph, cut)
        run(module, inputs, "does not run after the plan's cuts; it was made for another network")


def apply_cut_(module: nn.Module, graph: DependencyGraph, cut: Cut) -> None:
    """Make one cut in the module whose graph is given; raise `PruningError` if it cannot be."""
    layer = dict(module.named_modules()).get(cut.module)
    if layer not in graph.module2node or not isinstance(layer, ROOTS):
        raise PruningError(
            f"pruning plan: the network has no layer {cut.module!r} whose channels can be cut; "
            "construct the network that was pruned"
        )
    pruner = graph.get_pruner_of_module(layer)
    width = pruner.get_out_channels(layer)
    if width != cut.width:
        raise PruningError(
            f"pruning plan: layer {cut.module!r} has {width} channels where the plan expects "
            f"{cut.width}; construct the network that was pruned"
        )
    wanted = set(cut.channels)
    distinct = len(wanted) == len(cut.channels)
    if not distinct or not 0 < len(wanted) < width or max(wanted) >= width:
        raise PruningError(
            f"pruning plan: the channels of layer {cut.module!r} must be distinct, in "
            f"0..{width - 1}, at least one and not all of them; given {len(cut.channels)} with "
            f"maximum {max(wanted, default=-1)}"
        )
    with torch.no_grad(), torch_pruning_at_work(module):
        group = graph.get_pruning_group(layer, pruner.prune_out_channels, list(cut.channels))
        group.prune(record_history=False)
