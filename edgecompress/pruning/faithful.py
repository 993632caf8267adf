"""Is a cut what it should be? A pruned network computes what the whole one does without channels.

torch-pruning follows operations by their names; a view that shuffles channels, or a size of a head
that is written down, leads it astray without an error. The outputs tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import ROOTS, Graph, run
from edgecompress.pruning.groups import Coupled, cut_, set_heads_

TOLERANCE = 1e-3  # of the largest output; rounding makes 1e-6, channels that meet wrongly all of it
# What handles each channel on its own. A layer norm does not: what goes changes what stays.
_CHANNELWISE = (
    *ROOTS,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.PReLU,
    nn.Embedding,
)


@dataclass(frozen=True)
class Cut:
    """Name the channels that go, and how many heads are left where whole heads go."""

    channels: Sequence[int]
    heads: int | None = None


def cut_faithfully_(
    module: nn.Module,
    graph: Graph,
    one: Coupled,
    cut: Cut,
    inputs: tuple[Tensor, ...],
) -> None:
    """Cut channels of a group, in place; raise `PruningError` if more than they are gone.

    The outputs must be those of the network before the cut with the weights to these channels at
    zero. Where a norm takes channels together, or the network only runs again after further cuts,
    there is nothing to compare with.
    """
    expected = None
    if _is_channelwise(one):
        with _silenced(graph, one, cut.channels):
            expected = _outputs(module, inputs)
    cut_(module, graph, one, cut.channels)
    if cut.heads is not None:
        set_heads_(module, one, cut.heads)
    got = None if expected is None else _outputs(module, inputs)
    if expected and got and not all(map(_close, expected, got)):
        raise PruningError(
            f"cutting channels of {one.path!r} changes more than them: forward() moves channels in "
            "a way that torch-pruning does not follow (a shuffle, a view, a softmax over "
            "channels); name the module in prune.ignore"
        )


def _is_channelwise(one: Coupled) -> bool:
    parts = (dep.target.module for dep, _ in one.group)
    owners = (part for part in parts if isinstance(part, nn.Module) and list(part.parameters()))
    return all(isinstance(part, _CHANNELWISE) for part in owners)


def _outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor] | None:
    """Return the outputs, or None where the network does not run between two cuts."""
    try:
        with torch.no_grad():
            return run(module, inputs, "does not run")
    except PruningError:
        return None


def _close(expected: Tensor, got: Tensor) -> bool:
    if expected.shape != got.shape:  # a wider or narrower output is told apart later
        return True
    worst = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(expected, got, rtol=0, atol=TOLERANCE * worst + 1e-9))


@contextmanager
def _silenced(graph: Graph, one: Coupled, channels: Sequence[int]) -> Iterator[None]:
    """Hold at zero, inside the `with`, all weights that make or take the channels."""
    make = graph.get_pruner_of_module(one.layer).prune_out_channels
    before: list[tuple[nn.Parameter, Tensor]] = []
    with torch.no_grad():
        for dep, indices in graph.get_pruning_group(one.layer, make, list(channels)):
            layer = dep.target.module
            if isinstance(layer, ROOTS):
                makes = graph.is_out_channel_pruning_fn(dep.handler)
                before += [(p, p.detach().clone()) for p in layer.parameters()]
                _silence_(layer, makes, indices)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in reversed(before):
                parameter.copy_(values)


def _silence_(layer: nn.Module, makes: bool, indices: Sequence[int]) -> None:
    assert isinstance(layer.weight, Tensor)
    transposed = bool(getattr(layer, "transposed", False))
    if makes:
        axis = 1 if transposed and layer.groups == 1 else 0
        layer.weight.index_fill_(axis, torch.tensor(indices), 0)
        if isinstance(layer.bias, Tensor):
            layer.bias.index_fill_(0, torch.tensor(indices), 0)
    else:  # of a grouped convolution, each part takes the same places
        axis = 0 if transposed else 1
        size = layer.weight.shape[axis]
        layer.weight.index_fill_(axis, torch.tensor([index % size for index in indices]), 0)
