"""Which layers go back to float: pure, given what 8 bits cost each of them and what float costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from edgecompress.quantizing.layers import constants, layers, makers

Names = frozenset[str]
Within = Callable[[Names], bool | None]
"""Say whether a model with these nodes in float loses little enough; None when no more may be
evaluated."""

_PATIENCE = 2
_CHEAPEST = 0.01  # of the dearest: what costs no time is not free of all doubt


@dataclass(frozen=True)
class Unit:
    """Hold what must be float for a node to see exact numbers.

    `heads` are the layers that its inputs come from, for a value is quantized while its maker is;
    `between` what lies on the way from them, which turns float with the node and all of them.
    """

    node: str
    heads: Names
    between: Names


@dataclass(frozen=True)
class Step:
    """Hold a set of nodes to keep float, and the share of all noise that this removes."""

    nodes: Names
    removed: float


def units(source: ModelProto, nodes: Sequence[str]) -> dict[str, Unit]:
    """Return the units of the nodes named."""
    made, weighted = makers(source.graph), {layer.node for layer in layers(source)}
    known = constants(source.graph)
    by_name = {node.name: node for node in source.graph.node}
    found = {}
    for name in nodes:
        heads, between = set[str](), set[str]()
        pending = [(value, 0) for value in by_name[name].input]
        while pending:
            value, joins = pending.pop()
            maker = made.get(value)
            if maker is None or maker.name in between:
                continue
            joins += sum(i not in known for i in maker.input if i) > 1
            if maker.name in weighted:
                heads.add(maker.name)
            elif joins < 2:  # behind a second sum or product lies another part of the network
                between.add(maker.name)
                pending += [(i, joins) for i in maker.input]
        found[name] = Unit(name, frozenset(heads), frozenset(between))
    return found


def closed(kept: Names, among: Mapping[str, Unit]) -> Names:
    """Return the nodes to keep float with what lies between those that are float on both sides.

    Elsewhere it stays int8, where it costs nothing: a ReLU is part of the layer before it.
    """
    chosen = [among[node] for node in kept if node in among]
    return kept.union(*(unit.between for unit in chosen if unit.heads <= kept))


def ordered(
    noise: Mapping[str, float], among: Mapping[str, Unit], cost_ms: Mapping[str, float]
) -> list[Step]:
    """Return growing sets of nodes, each next one the most noise removed per millisecond.

    `noise` of a node goes when it and its heads are float; the last step removes all of it.
    """
    dearest = max((cost_ms.get(node, 0.0) for node in noise), default=0.0)
    floor = _CHEAPEST * dearest if dearest > 0 else 1.0
    total = sum(noise.values()) or 1.0
    kept, open_nodes, steps = frozenset[str](), set(noise), list[Step]()
    while open_nodes:

        def worth(node: str, kept: Names = kept) -> tuple[float, str]:
            more = {node} | among[node].heads
            price = sum(max(cost_ms.get(n, 0.0), floor) for n in more - kept)
            return (noise[node] / price if price else float("inf"), node)

        best = max(sorted(open_nodes), key=worth)
        kept = kept | {best} | among[best].heads
        open_nodes = {n for n in open_nodes if not {n} | among[n].heads <= kept}
        removed = sum(noise[n] for n in noise if n not in open_nodes) / total
        steps.append(Step(kept, removed))
    return steps


def smallest(steps: Sequence[Step], layered: Collection[str], within: Within) -> Step | None:
    """Return the first step that is within, by halving; None where only a float model may be.

    Each question halves the noise, not the number of steps, that is still in doubt: where a few
    nodes do most of the harm it asks about few. A step that leaves none of the layers `layered` to
    int8 is within for certain, and no answer.
    """
    asked_about = [step for step in steps if not step.nodes >= set(layered)]
    below, above = -1, len(asked_about)
    while above - below > 1:
        start = asked_about[below].removed if below >= 0 else 0.0
        end = asked_about[above].removed if above < len(asked_about) else 1.0
        inner = range(below + 1, above)
        middle = next((i for i in inner if asked_about[i].removed >= (start + end) / 2), inner[-1])
        answer = within(asked_about[middle].nodes)
        if answer is None:
            break
        below, above = (below, middle) if answer else (middle, above)
    return asked_about[above] if above < len(asked_about) else None


def given_back(kept: Names, least_worth_first: Sequence[str], within: Within) -> Names:
    """Return the nodes that must stay float after trying to give the others back to int8.

    First half of them at once, then fewer; until `within` has said no twice in a row, or nothing
    any more.
    """
    left = [node for node in least_worth_first if node in kept]
    size, refused = max(1, len(left) // 2), 0
    while len(left) > 1 and refused < _PATIENCE:
        tried = kept - set(left[:size])
        answer = within(tried)
        if answer is None:
            break
        refused = 0 if answer else refused + 1
        if answer:
            kept, left = tried, left[size:]
        elif size == 1:
            left = left[1:]
        size = max(1, len(left) // 2) if answer else max(1, size // 4)
    return kept
