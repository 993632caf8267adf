"""Which channels go: coupled channels are scored together, ranked, and rounded to multiples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, lcm
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgecompress.pruning.graph import ROOTS
from edgecompress.recipe import PruneSettings

Scorer = Callable[[Any], Tensor | None]
"""Given a group of torch-pruning, returns one score a channel; None where it cannot score it."""


@dataclass(frozen=True)
class Coupled:
    """Hold the channels of one layer, which all layers coupled to it lose with it.

    `parts` equal parts (of a grouped convolution, a group norm, the heads of an attention) must
    lose alike: a unit is one channel of each, and `scores` holds one score a unit.
    """

    path: str
    layer: nn.Module
    width: int
    parts: int
    scores: Tensor

    def channels(self, units: list[int]) -> tuple[int, ...]:
        """Return the channels that the units stand for."""
        size = self.width // self.parts
        return tuple(unit + part * size for part in range(self.parts) for unit in sorted(units))


def scorer(settings: PruneSettings, seed: int) -> Scorer:
    """Return what scores the channels of a group, least important lowest."""
    generator = torch.Generator().manual_seed(seed)
    match settings.importance:
        case "l1":
            score = tp.importance.MagnitudeImportance(p=1)
        case "l2":
            score = tp.importance.MagnitudeImportance(p=2)
        case "bn_scale":
            score = tp.importance.BNScaleImportance()
        case "taylor":
            score = tp.importance.TaylorImportance()
        case "random":
            return lambda group: torch.rand(len(group[0].idxs), generator=generator)
    return score  # type: ignore[no-any-return]


def coupled(
    module: nn.Module, graph: tp.DependencyGraph, kept: set[nn.Module], score: Scorer
) -> list[Coupled]:
    """Return every set of coupled channels that may be cut and can be scored."""
    paths = {part: path for path, part in module.named_modules()}
    found = []
    for group in graph.get_all_groups(list(kept), ROOTS):
        scores = score(group)
        if scores is not None:
            layer, parts = group[0].dep.target.module, _parts(graph, group)
            units = scores.detach().cpu().view(parts, -1).mean(dim=0)
            found.append(Coupled(paths[layer], layer, len(scores), parts, units))
    return found


def choose(
    sets: list[Coupled], widths: Mapping[str, int], settings: PruneSettings, ratio: float
) -> list[tuple[Coupled, tuple[int, ...]]]:
    """Return the channels to cut so that `ratio` of the original `widths` is gone.

    Each layer's rest is rounded to the nearest multiple of `round_to`, at least one multiple.
    """
    wanted = (
        _kept_globally(sets, widths, ratio)
        if settings.scope == "global"
        else {one.path: widths[one.path] * (1 - ratio) for one in sets}
    )
    chosen = []
    for one in sets:
        step = lcm(settings.round_to, one.parts)
        kept = max(step, step * floor(wanted[one.path] / step + 0.5))
        lost = (one.width - kept) // one.parts
        if lost > 0:
            order = torch.argsort(one.scores, stable=True)
            chosen.append((one, one.channels(order[:lost].tolist())))
    return chosen


def _kept_globally(
    sets: list[Coupled], widths: Mapping[str, int], ratio: float
) -> dict[str, float]:
    """Return how many channels each layer keeps when all layers are ranked as one."""
    kept: dict[str, float] = {one.path: one.width for one in sets}
    surplus = sum(kept.values()) - sum(widths[one.path] for one in sets) * (1 - ratio)
    owners = [one for one in sets for _ in range(len(one.scores))]
    order = torch.argsort(torch.cat([one.scores for one in sets]), stable=True) if sets else ()
    for index in order:
        owner = owners[int(index)]
        if surplus < owner.parts:
            break
        kept[owner.path] -= owner.parts
        surplus -= owner.parts
    return kept


def _parts(graph: tp.DependencyGraph, group: Any) -> int:
    """Return into how many parts that must lose alike the group's channels fall.

    A layer tells by `channel_parts` of parts of its outputs that its type does not show: heads.
    """
    parts = 1
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.MultiheadAttention):
            parts = lcm(parts, layer.num_heads)
        elif isinstance(layer, nn.Module) and not _is_depthwise(layer):
            pruner = graph.get_pruner_of_module(layer)
            out = graph.is_out_channel_pruning_fn(dep.handler)
            groups = pruner.get_out_channel_groups if out else pruner.get_in_channel_groups
            parts = lcm(parts, groups(layer), getattr(layer, "channel_parts", 1) if out else 1)
    return parts


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.out_channels
