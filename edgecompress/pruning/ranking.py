"""Which heads and channels go: ranked within a layer, among layers of one build, or among all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, lcm

import torch
from torch import Tensor

from edgecompress.errors import PruningError
from edgecompress.pruning.groups import Coupled
from edgecompress.pruning.importance import Scorer
from edgecompress.recipe import PruneSettings


@dataclass(frozen=True)
class Ranked:
    """Hold a group and its scores, one a unit: a channel of each of the parts that lose alike."""

    one: Coupled
    scores: Tensor

    @property
    def unit(self) -> int:
        """Return how many channels go with one unit."""
        return self.one.width // len(self.scores)


def rank_channels(groups: Iterable[Coupled], score: Scorer) -> list[Ranked]:
    """Return the groups that can be scored, with the mean score over the parts of each unit."""
    scored = ((one, score(one.group)) for one in groups)
    return [
        Ranked(one, scores.detach().cpu().view(one.parts, -1).mean(0))
        for one, scores in scored
        if scores is not None
    ]


def rank_heads(groups: Iterable[Coupled], score: Scorer) -> list[Ranked]:
    """Return the attentions with the mean score over all channels of each head."""
    ranked = []
    for one in groups:
        scores = score(one.group) if one.heads else None
        if one.heads and scores is not None:
            by_head = scores.detach().cpu().view(one.heads.fused, one.heads.count, -1)
            ranked.append(Ranked(one, by_head.mean((0, 2))))
    return ranked


def multiple_of(one: Coupled, settings: PruneSettings) -> int:
    """Return what a group's channels are rounded to multiples of: its parts must lose alike."""
    return lcm(settings.round_to, one.parts)


def choose_channels(
    ranked: Sequence[Ranked], widths: Mapping[str, int], settings: PruneSettings, ratio: float
) -> list[tuple[Coupled, tuple[int, ...]]]:
    """Return the channels to cut so that `ratio` of the original `widths` is gone.

    Each layer's rest is rounded to the nearest multiple of `multiple_of`, at least one multiple.
    """
    wanted = {r.one.path: widths[r.one.path] * (1 - ratio) for r in ranked}
    for scope in _scopes(ranked, settings) if settings.scope != "local" else ():
        wanted |= _kept_together(scope, sum(wanted[r.one.path] for r in scope))
    chosen = []
    for r in ranked:
        step = multiple_of(r.one, settings)
        kept = max(step, step * floor(wanted[r.one.path] / step + 0.5))
        lost = (r.one.width - kept) // r.one.parts
        if lost > 0:
            chosen.append((r.one, r.one.channels(_least(r.scores, lost))))
    return chosen


def narrowest(
    ranked: Sequence[Ranked], widths: Mapping[str, int]
) -> list[tuple[Coupled, tuple[int, ...]]]:
    """Return the channels to cut so that the groups have these widths; others stay as they are."""
    found = {r.one.path: r for r in ranked}
    chosen = []
    for path, width in widths.items():
        r = found.get(path)
        if r is None:
            raise PruningError(
                f"widths: no channels of {path!r} may be cut, expected one of {', '.join(found)}"
            )
        if width % r.unit or not r.unit <= width <= r.one.width:
            raise PruningError(
                f"widths: given {width} channels for {path!r}, expected a multiple of {r.unit} "
                f"from {r.unit} to {r.one.width}"
            )
        if lost := (r.one.width - width) // r.unit:
            chosen.append((r.one, r.one.channels(_least(r.scores, lost))))
    return chosen


def choose_heads(
    ranked: Sequence[Ranked], counts: Mapping[str, int], settings: PruneSettings, ratio: float
) -> list[tuple[Coupled, list[int]]]:
    """Return the heads to cut so that `ratio` of the original `counts` is gone, one left at least.

    `counts` are by the path of the attention's group.
    """
    wanted = {r.one.path: counts[r.one.path] * (1 - ratio) for r in ranked}
    chosen = []
    for scope in _scopes(ranked, settings):
        total = sum(len(r.scores) for r in scope)
        lost = total - floor(sum(wanted[r.one.path] for r in scope) + 0.5)
        for index, heads in _lowest(scope, lost).items():
            chosen.append((scope[index].one, heads))
    return chosen


def _scopes(ranked: Sequence[Ranked], settings: PruneSettings) -> list[list[Ranked]]:
    """Return the groups that compete with one another."""
    scopes: dict[object, list[Ranked]] = {}
    for r in ranked:
        match settings.scope:
            case "local":
                rival: object = r.one.path
            case "global":
                rival = ""
            case "isomorphic":
                rival = r.one.kind
        scopes.setdefault(rival, []).append(r)
    return list(scopes.values())


def _kept_together(scope: Sequence[Ranked], left: float) -> dict[str, float]:
    """Return how many channels each group keeps when `left` are kept and all are ranked as one."""
    kept: dict[str, float] = {r.one.path: r.one.width for r in scope}
    surplus = sum(kept.values()) - left
    owners = [r for r in scope for _ in r.scores]
    for index in torch.argsort(torch.cat([r.scores for r in scope]), stable=True).tolist():
        if surplus >= owners[index].unit:
            kept[owners[index].one.path] -= owners[index].unit
            surplus -= owners[index].unit
    return kept


def _lowest(scope: Sequence[Ranked], lost: int) -> dict[int, list[int]]:
    """Return the `lost` lowest entries by their place in the scope, one left in each at least."""
    entries = [(i, j) for i, r in enumerate(scope) for j in range(len(r.scores))]
    gone: dict[int, list[int]] = {}
    for index in torch.argsort(torch.cat([r.scores for r in scope]), stable=True).tolist():
        i, j = entries[index]
        if lost > 0 and len(gone.get(i, ())) < len(scope[i].scores) - 1:
            gone.setdefault(i, []).append(j)
            lost -= 1
    return gone


def _least(scores: Tensor, count: int) -> list[int]:
    order: list[int] = torch.argsort(scores, stable=True)[:count].tolist()
    return order
