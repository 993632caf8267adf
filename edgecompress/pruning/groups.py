"""Which channels hang together: groups that are cut as one, and those that nobody may cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import ROOTS, Graph, torch_pruning_at_work
from edgecompress.settings import did_you_mean

HEAD_COUNTS = ("num_heads", "heads", "num_attention_heads", "n_heads", "n_head", "nhead")
_PRODUCTS = ("bmm", "scaleddotproduct")


@dataclass(frozen=True)
class Heads:
    """Hold where an attention keeps the number of its heads.

    `fused` is 3 where one layer makes queries, keys and values, one after another; else 1.
    """

    path: str
    attribute: str
    count: int
    fused: int


@dataclass(frozen=True)
class Coupled:
    """Hold the output channels of one layer, which all layers coupled to it lose with it.

    `parts` equal parts (of a grouped convolution, a group norm, the heads of an attention) must
    lose alike: a unit is one channel of each. `kind` tells groups of one build from others, and
    `group` is torch-pruning's own.
    """

    path: str
    layer: nn.Module
    width: int
    parts: int
    heads: Heads | None
    kind: tuple[str, ...]
    group: Any

    def channels(self, units: Collection[int]) -> tuple[int, ...]:
        """Return the channels that the units stand for."""
        size = self.width // self.parts
        return tuple(unit + part * size for part in range(self.parts) for unit in sorted(units))

    def of_heads(self, gone: Collection[int]) -> tuple[int, ...]:
        """Return all channels of these heads."""
        assert self.heads is not None
        size = self.width // (self.heads.fused * self.heads.count)
        starts = [
            (part * self.heads.count + head) * size
            for part in range(self.heads.fused)
            for head in sorted(gone)
        ]
        return tuple(start + i for start in starts for i in range(size))


@dataclass(frozen=True)
class Groups:
    """Hold the groups that may be cut, and why each of the others may not, by the layer's path."""

    cuttable: tuple[Coupled, ...]
    whole: dict[str, str]

    def widths(self) -> dict[str, int]:
        """Return the number of channels of each group that may be cut, by its path."""
        return {one.path: one.width for one in self.cuttable}


def groups_of(
    module: nn.Module,
    graph: Graph,
    outputs: list[Tensor],
    spared: Collection[nn.Module] = (),
) -> Groups:
    """Return the groups of an opened module; those that make an output or are spared stay whole."""
    paths = {part: path for path, part in module.named_modules()}
    ends, cuttable, whole = _ends(graph, outputs), [], {}
    with torch_pruning_at_work(module):
        found = list(graph.get_all_groups(root_module_types=ROOTS))
    for group in found:
        root = group[0].dep.target.module
        cut = [dep.target for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        heads = _heads(module, graph, group, paths) if _multiplies(group) else None
        if any(node is end for node in cut for end in ends):
            whole[paths[root]] = "makes an output"
        elif any(node.module is part for node in cut for part in spared):
            whole[paths[root]] = "is in prune.ignore"
        elif not _is_sound(graph, group) or not (together := _together(graph, root)):
            whole[paths[root]] = "has channels that torch-pruning cannot follow"
        elif _multiplies(group) and not heads and not _tells_parts(group):
            whole[paths[root]] = "is an attention whose number of heads is not told"
        else:
            width, parts = graph.get_out_channels(root), _parts(graph, group, heads)
            parts = lcm(parts, together)
            kind = tuple(_kinds(graph, group))
            cuttable.append(Coupled(paths[root], root, width, parts, heads, kind, group))
    return Groups(tuple(cuttable), whole)


def _ends(graph: Graph, outputs: list[Tensor]) -> list[Any]:
    """Return the nodes that make the outputs."""
    makers = {output.grad_fn for output in outputs}
    return [n for n in graph.module2node.values() if not n.outputs or n.grad_fn in makers]


def modules_at(module: nn.Module, paths: Collection[str]) -> set[nn.Module]:
    """Return the modules at `paths` and all modules inside them; raise for a path of none."""
    modules = dict(module.named_modules())
    for path in paths:
        if path not in modules:
            raise PruningError(
                f"prune.ignore: the network has no module {path!r}, expected the path of one, such "
                f"as {next(filter(None, modules), '')!r}{did_you_mean(path, modules)}"
            )
    return {part for path in paths for part in modules[path].modules()}


def cut_(module: nn.Module, graph: Graph, one: Coupled, channels: Sequence[int]) -> None:
    """Cut channels of a group, in place."""
    pruner = graph.get_pruner_of_module(one.layer)
    with torch.no_grad(), torch_pruning_at_work(module):
        group = graph.get_pruning_group(one.layer, pruner.prune_out_channels, list(channels))
        if set(group[0].idxs) != set(channels):
            raise PruningError(
                f"cutting channels of {one.path!r} would take others of its own along; name it in "
                "prune.ignore"
            )
        group.prune(record_history=False)


def set_heads_(module: nn.Module, one: Coupled, count: int) -> None:
    """Tell an attention how many heads it has left."""
    assert one.heads is not None
    setattr(module.get_submodule(one.heads.path), one.heads.attribute, count)
    for dep, _ in one.group:
        layer = dep.target.module
        if getattr(layer, "channel_parts", 0) == one.heads.fused * one.heads.count:
            layer.channel_parts = one.heads.fused * count


def _is_sound(graph: Graph, group: Any) -> bool:
    """Return whether every layer of the group has the channels that torch-pruning would take."""
    for dep, indices in group:
        layer = dep.target.module
        if isinstance(layer, nn.Module | nn.Parameter):
            out = graph.is_out_channel_pruning_fn(dep.handler)
            width = graph.get_out_channels(dep.target) if out else graph.get_in_channels(dep.target)
            if width is not None and max(indices) >= width:
                return False
    return True


def _together(graph: Graph, root: nn.Module) -> int:
    """Return how many evenly spaced channels of a layer go with its first; 0 where not even.

    A gate that multiplies one half of a layer's channels with the other makes two.
    """
    make = graph.get_pruner_of_module(root).prune_out_channels
    first = sorted(graph.get_pruning_group(root, make, [0])[0].idxs)
    width, count = graph.get_out_channels(root), len(first)
    even = width % count == 0 and first == list(range(0, width, width // count))
    return count if even else 0


def _multiplies(group: Any) -> bool:
    """Return whether channels of the group are multiplied with one another, as in attention."""
    names = (dep.target.grad_fn.name().lower() for dep, _ in group if dep.target.grad_fn)
    return any(product in name for name in names for product in _PRODUCTS)


def _tells_parts(group: Any) -> bool:
    """Return whether a layer of the group, or an attention of PyTorch's, tells its parts."""
    layers = [dep.target.module for dep, _ in group]
    return any(
        isinstance(layer, nn.MultiheadAttention) or hasattr(layer, "channel_parts")
        for layer in layers
    )


def _heads(
    module: nn.Module, graph: Graph, group: Any, paths: dict[nn.Module, str]
) -> Heads | None:
    """Return the heads that a group's channels fall into, from the module around its layers."""
    made: list[nn.Module] = []
    taken: list[nn.Module] = []
    for dep, _ in group:
        if isinstance(dep.target.module, ROOTS):
            out = graph.is_out_channel_pruning_fn(dep.handler)
            (made if out else taken).append(dep.target.module)
    widths = {graph.get_out_channels(layer) for layer in made}
    inner = {graph.get_in_channels(layer) for layer in taken}
    if len(widths) != 1 or len(inner) != 1:
        return None
    width, fused = widths.pop(), 0
    if width % (narrow := inner.pop()) == 0:
        fused = width // narrow
    for path in _around([paths[layer] for layer in made]):
        for attribute in HEAD_COUNTS:
            count = getattr(module.get_submodule(path), attribute, None)
            if type(count) is int and count > 0 and fused in (1, 3):
                return Heads(path, attribute, count, fused) if narrow % count == 0 else None
    return None


def _around(paths: list[str]) -> Iterator[str]:
    """Yield the paths of the modules that hold all of `paths`, the innermost first."""
    parents = [path.split(".")[:-1] for path in paths]
    shared = 0
    while all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
        shared += 1
    for depth in range(shared, -1, -1):
        yield ".".join(parents[0][:depth])


def _parts(graph: Graph, group: Any, heads: Heads | None) -> int:
    """Return into how many parts that must lose alike the group's channels fall.

    A layer tells by `channel_parts` of parts of its outputs that its type does not show.
    """
    parts = heads.count * heads.fused if heads else 1
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


def _kinds(graph: Graph, group: Any) -> Iterator[str]:
    """Yield what the group is built of: isomorphic groups yield the same (arXiv:2407.04616)."""
    for dep, _ in group:
        end = "out" if graph.is_out_channel_pruning_fn(dep.handler) else "in"
        yield f"{type(dep.target.module).__name__} {end}"


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.out_channels
