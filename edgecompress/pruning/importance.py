"""What tells an important channel: norms, distances, gradients; one score a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.recipe import PruneSettings

LossBatch = Callable[[nn.Module], Tensor]
"""Given a network, returns its scalar loss on one batch."""
Scorer = Callable[[Any], Tensor | None]
"""Given a group of torch-pruning, returns one score a channel; None where it cannot score it."""
BY_GRADIENT = ("taylor", "hessian")


def scorer(settings: PruneSettings, seed: int) -> Scorer:
    """Return what scores the channels of a group, least important lowest.

    l1, l2: norm of the weights that make the channel (Li et al. 2017, arXiv:1608.08710). group:
    squared L2 norm of all weights that go with it, layer by layer (Fang et al. 2023,
    arXiv:2301.12900). lamp: that, over the sum of all larger ones (Lee et al. 2021,
    arXiv:2010.07611). fpgm: distance to the other channels (He et al. 2019, arXiv:1811.00250).
    bn_scale: Liu et al. 2017, arXiv:1708.06519. taylor: Molchanov et al. 2019, arXiv:1906.10771.
    hessian: weights squared times the mean squared gradient of a batch, as a diagonal Fisher
    (LeCun et al. 1989).
    """
    if settings.importance == "random":
        generator = torch.Generator().manual_seed(seed)
        return lambda group: torch.rand(len(group[0].idxs), generator=generator)
    return _of_torch_pruning(settings.importance)


def _of_torch_pruning(importance: str) -> Scorer:
    kinds = tp.importance
    match importance:
        case "l1" | "l2" as norm:
            score = kinds.GroupMagnitudeImportance(int(norm[1]), group_reduction="first")
        case "group":
            score = kinds.GroupMagnitudeImportance(p=2)
        case "lamp":
            score = kinds.LAMPImportance()
        case "fpgm":
            score = kinds.FPGMImportance()
        case "bn_scale":
            score = kinds.BNScaleImportance()
        case "taylor":
            score = kinds.GroupTaylorImportance()
        case _:
            score = kinds.GroupHessianImportance()
    return score  # type: ignore[no-any-return]


def required_losses(
    settings: PruneSettings, loss_batches: Iterable[LossBatch] | None
) -> tuple[LossBatch, ...]:
    """Return the losses that an importance by gradients needs; none for the others."""
    if settings.importance not in BY_GRADIENT:
        return ()
    losses = tuple(loss_batches or ())
    if not losses:
        raise PruningError(
            f"prune.importance: {settings.importance!r} ranks channels by gradients and needs "
            "loss_batches; give at least one, or choose 'group', 'l1' or 'bn_scale'"
        )
    return losses


def differentiate_(
    module: nn.Module, losses: tuple[LossBatch, ...], settings: PruneSettings
) -> None:
    """Leave in the parameters what the importance looks for: a gradient, or its mean square.

    torch-pruning's own sum of squared gradients forgets all but the last batch, so the squares are
    summed here.
    """
    if not losses:
        return
    module.zero_grad(set_to_none=True)
    squares: dict[str, Tensor] = {}
    for loss in losses:
        value = loss(module)
        if not bool(torch.isfinite(value).all()):
            raise PruningError(
                f"prune.importance: a loss for {settings.importance!r} is not finite; check data "
                "and network"
            )
        value.backward()  # type: ignore[no-untyped-call]
        if settings.importance == "hessian":
            for name, gradient in _gradients(module, settings):
                squares[name] = squares.get(name, torch.zeros(())) + gradient.square()
            module.zero_grad(set_to_none=True)
    for name, square in squares.items():
        module.get_parameter(name).grad = square / len(losses)
    _gradients(module, settings)


def _gradients(module: nn.Module, settings: PruneSettings) -> list[tuple[str, Tensor]]:
    found = []
    for name, parameter in module.named_parameters():
        if parameter.grad is None:
            raise PruningError(
                f"prune.importance: {settings.importance!r} finds no gradient for {name!r}, which "
                "the loss does not depend on; choose 'group', 'l1' or 'l2'"
            )
        found.append((name, parameter.grad))
    return found
