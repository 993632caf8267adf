"""One step of pruning: what goes is chosen, cut, and noted in the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import floor

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.blocks import drop_, influences, residual_blocks
from edgecompress.pruning.faithful import Cut, cut_faithfully_
from edgecompress.pruning.graph import trace
from edgecompress.pruning.groups import Coupled, Groups, groups_of
from edgecompress.pruning.importance import LossBatch, Scorer, differentiate_
from edgecompress.pruning.plan import Kept, PruningPlan
from edgecompress.pruning.ranking import (
    choose_channels,
    choose_heads,
    narrowest,
    rank_channels,
    rank_heads,
)
from edgecompress.recipe import PruneSettings
from edgecompress.records import Removed


@dataclass
class Draft:
    """Hold a plan in the making; indices are those of the network before any cut.

    `ranked` are the paths of the groups whose channels the importance could tell apart.
    """

    split: tuple[str, ...]
    blocks: tuple[str, ...] = ()
    heads: dict[str, Kept] = field(default_factory=dict)
    channels: dict[str, Kept] = field(default_factory=dict)
    ranked: set[str] = field(default_factory=set)

    def cut_(self, one: Coupled, channels: Collection[int]) -> None:
        """Note the channels that go."""
        self.channels[one.path] = _without(self.channels, one.path, one.width, channels)

    def cut_heads_(self, one: Coupled, heads: Collection[int]) -> int:
        """Note the heads that go and return how many are left."""
        assert one.heads is not None
        path = one.heads.path
        self.heads[path] = _without(self.heads, path, one.heads.count, heads)
        return len(self.heads[path].kept)

    def plan(self) -> PruningPlan:
        """Return the plan of all that was noted."""
        heads, channels = tuple(self.heads.values()), tuple(self.channels.values())
        return PruningPlan(split=self.split, blocks=self.blocks, heads=heads, channels=channels)


@dataclass(frozen=True)
class Work:
    """Hold the network that is cut, and what is known of it.

    `widths`, where given, are what groups are cut to, whatever the settings say of ratios.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    settings: PruneSettings
    spared: Collection[nn.Module]
    draft: Draft
    widths: Mapping[str, int] | None = None


def _without(entries: Mapping[str, Kept], path: str, width: int, gone: Collection[int]) -> Kept:
    whole = Kept(module=path, of=width, kept=tuple(range(width)))
    return entries.get(path, whole).without(gone)


def look(work: Work) -> Groups:
    """Return the groups of the network as it stands."""
    graph, outputs = trace(work.module, work.inputs)
    return groups_of(work.module, graph, outputs, work.spared)


def share_done(settings: PruneSettings, step: int) -> float:
    """Return what share of the removal is done after a step; cubic: Zhu & Gupta 2017, 1710.01878.

    >>> settings = PruneSettings(steps=4, schedule="cubic")
    >>> [round(share_done(settings, step), 3) for step in (1, 2, 3, 4)]
    [0.578, 0.875, 0.984, 1.0]
    """
    done = step / settings.steps
    return done if settings.schedule == "linear" else 1 - (1 - done) ** 3


def drop_blocks_(work: Work, seed: int) -> Removed:
    """Drop the blocks that turn their input least, or random ones for importance `random`."""
    settings = work.settings
    if not settings.block_ratio:
        return Removed()
    found = residual_blocks(work.module, work.inputs, work.spared)
    if not found:
        raise PruningError(
            f"prune.block_ratio: {type(work.module).__name__} has no block that adds to its input "
            "and may be dropped; set it to 0"
        )
    count = min(floor(settings.block_ratio * len(found) + 0.5), len(found))
    if settings.importance == "random":
        drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        least = [found[i] for i in drawn[:count].tolist()]
    else:
        influence = influences(work.module, work.inputs, found)
        least = sorted(found, key=influence.__getitem__)[:count]
    work.draft.blocks = tuple(path for path in found if path in least)
    drop_(work.module, work.draft.blocks)
    return Removed(settings.block_ratio, count, len(found))


def step_(
    work: Work, before: Groups, score: Scorer, losses: tuple[LossBatch, ...], share: float
) -> None:
    """Cut heads, then channels, until `share` of what was asked for is gone."""
    module, settings, draft = work.module, work.settings, work.draft
    differentiate_(module, losses, settings)
    graph, outputs = trace(module, work.inputs)
    groups = groups_of(module, graph, outputs, work.spared)
    if settings.head_ratio:
        counts = _head_counts(before, settings)
        ranked = rank_heads(groups.cuttable, score)
        for one, heads in choose_heads(ranked, counts, settings, settings.head_ratio * share):
            channels = one.of_heads(heads)
            draft.cut_(one, channels)
            left = draft.cut_heads_(one, heads)
            cut_faithfully_(module, graph, one, Cut(channels, left), work.inputs)
        groups = groups_of(module, graph, outputs, work.spared)
    ranked, ratio = rank_channels(groups.cuttable, score), settings.pruning_ratio * share
    draft.ranked |= {r.one.path for r in ranked}
    if work.widths is None:
        chosen = choose_channels(ranked, before.widths(), settings, ratio)
    else:
        chosen = narrowest(ranked, work.widths)
    for one, channels in chosen:
        draft.cut_(one, channels)
        cut_faithfully_(module, graph, one, Cut(channels), work.inputs)
    module.zero_grad(set_to_none=True)


def _head_counts(before: Groups, settings: PruneSettings) -> dict[str, int]:
    counts = {one.path: one.heads.count for one in before.cuttable if one.heads}
    if not counts:
        raise PruningError(
            "prune.head_ratio: no attention with heads that may be cut was found (a module with "
            "num_heads or heads around its linear layers); set it to 0"
        )
    return counts
