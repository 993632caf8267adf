"""What each group of channels could lose, and which layers would become cheaper by it.

This is all that a search for widths needs to know of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.pruning.attention import split_, splittable
from edgecompress.pruning.graph import ROOTS, Graph, Inputs, opened, positional, run, trace
from edgecompress.pruning.groups import groups_of, modules_at
from edgecompress.pruning.importance import (
    LossBatch,
    differentiate_,
    required_losses,
    scorer,
)
from edgecompress.pruning.ranking import Ranked, rank_channels
from edgecompress.recipe import PruneSettings


@dataclass(frozen=True)
class Group:
    """Hold the channels that go together, of which `unit` at once can go.

    `scores` are those of the units, rising; 0 and more.
    """

    path: str
    width: int
    unit: int
    scores: tuple[float, ...]

    @cached_property
    def _lost(self) -> tuple[float, ...]:
        """Return the share of the importance that is gone with the least 0, 1, ... units."""
        total = sum(self.scores) or 1.0
        return tuple(gone / total for gone in accumulate(self.scores, initial=0.0))

    def surviving(self, width: int) -> float:
        """Return the share of the group's importance that is left at a width.

        >>> Group("conv", 4, 1, (1.0, 1.0, 2.0, 4.0)).surviving(2)
        0.75
        """
        return 1 - self._lost[(self.width - width) // self.unit]


@dataclass(frozen=True)
class End:
    """Hold the channels that go into a layer, or come out: `of` says how many are of which group.

    All others stay.
    """

    channels: int
    of: Mapping[str, int]

    def at(self, shares: Mapping[str, float]) -> int:
        """Return the channels that are left when these shares of the groups are."""
        return self.channels - sum(
            round(count * (1 - shares.get(path, 1.0))) for path, count in self.of.items()
        )


@dataclass(frozen=True)
class Layer:
    """Describe a convolution or linear layer: `taps` weights join a channel to another.

    `positions` are the places of one sample at which it computes; in a grouped one a channel sees
    1 / `groups` of the inputs, and a depthwise one has as many groups as channels, whatever they
    are.
    """

    path: str
    inputs: End
    outputs: End
    taps: int
    positions: int
    groups: int
    depthwise: bool

    def weights(self, inputs: int, outputs: int) -> int:
        """Return the number of weights at these widths, without biases."""
        seen = 1 if self.depthwise else inputs // self.groups
        return self.taps * seen * outputs


@dataclass(frozen=True)
class Survey:
    """Hold the groups that may be narrowed, and all layers."""

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]


def survey(
    module: nn.Module,
    example_inputs: Inputs,
    settings: PruneSettings,
    loss_batches: Iterable[LossBatch] | None = None,
    seed: int = 0,
) -> Survey:
    """Return what could go of `module`, which is not changed; scores by `settings.importance`.

    Raise `PruningError` where `prune` would before it cuts.
    """
    inputs, losses = positional(example_inputs), required_losses(settings, loss_batches)
    copy = deepcopy(module)
    split_(copy, splittable(copy, modules_at(copy, settings.ignore)))
    with opened(copy):
        positions = _positions(copy, inputs)
        differentiate_(copy, losses, settings)
        graph, outputs = trace(copy, inputs)
        found = groups_of(copy, graph, outputs, modules_at(copy, settings.ignore))
        ranked = rank_channels(found.cuttable, scorer(settings, seed))
        ends = _ends(graph, ranked)
    layers = [
        _layer(path, part, positions[part], ends)
        for path, part in copy.named_modules()
        if part in positions
    ]
    return Survey(tuple(map(_group, ranked)), tuple(layers))


def _group(ranked: Ranked) -> Group:
    scores = tuple(ranked.scores.clamp(min=0).sort().values.tolist())
    return Group(ranked.one.path, ranked.one.width, ranked.unit, scores)


def _positions(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, int]:
    """Return at how many places of a sample each layer computes, over all its calls."""
    found: dict[nn.Module, int] = {}

    def finished(part: nn.Module, _: Any, output: Tensor) -> None:
        own = prod(output.shape) // (_channels(part)[1] * len(inputs[0]))
        found[part] = found.get(part, 0) + max(1, own)

    parts = [part for part in module.modules() if isinstance(part, ROOTS)]
    hooks = [part.register_forward_hook(finished) for part in parts]
    try:
        with torch.no_grad():
            run(module, inputs, "does not run before pruning")
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _ends(graph: Graph, ranked: Iterable[Ranked]) -> dict[tuple[nn.Module, bool], dict[str, int]]:
    """Return how many channels of each group a layer takes (False) and makes (True)."""
    places: dict[tuple[nn.Module, bool], dict[str, set[int]]] = {}
    for one in (r.one for r in ranked):
        for dep, indices in one.group:
            part = dep.target.module
            if isinstance(part, ROOTS):
                end = places.setdefault((part, graph.is_out_channel_pruning_fn(dep.handler)), {})
                end.setdefault(one.path, set()).update(indices)
    return {end: {path: len(indices) for path, indices in of.items()} for end, of in places.items()}


def _layer(
    path: str,
    part: nn.Module,
    positions: int,
    ends: Mapping[tuple[nn.Module, bool], Mapping[str, int]],
) -> Layer:
    inputs, outputs = _channels(part)
    taps, groups = 1, 1
    if isinstance(part, nn.modules.conv._ConvNd):
        taps, groups = prod(part.kernel_size), part.groups
    depthwise = groups == inputs == outputs > 1
    made = ends.get((part, True), {})
    taken = made if depthwise else ends.get((part, False), {})
    return Layer(path, End(inputs, taken), End(outputs, made), taps, positions, groups, depthwise)


def _channels(part: nn.Module) -> tuple[int, int]:
    if isinstance(part, nn.modules.conv._ConvNd):
        return part.in_channels, part.out_channels
    assert isinstance(part, nn.Linear)
    return part.in_features, part.out_features
