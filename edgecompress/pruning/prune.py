"""Structured pruning: fewer channels, the same outputs, a plan to rebuild the network from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import (
    ROOTS,
    Inputs,
    differentiable,
    opened,
    positional,
    quiet,
    run,
    trace,
)
from edgecompress.pruning.plan import Cut, PruningPlan
from edgecompress.recipe import PruneSettings

LossBatch = Callable[[nn.Module], Tensor]
"""Given a network, returns its scalar loss on one batch."""


@dataclass(frozen=True)
class Pruned:
    """Hold the smaller network and what was asked against what was got.

    The ratios are shares of the channels that may be cut; the MACs are for one sample.
    """

    module: nn.Module
    plan: PruningPlan
    requested_ratio: float
    achieved_ratio: float
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int


def prune(
    module: nn.Module,
    example_inputs: Inputs,
    settings: PruneSettings,
    loss_batches: Iterable[LossBatch] | None = None,
    seed: int = 0,
) -> Pruned:
    """Return a smaller copy of `module`, which itself is not changed.

    The layers that make the outputs are protected. `loss_batches` serves `taylor` importance,
    `seed` serves `random`. Raise `PruningError` where nothing can go, or where the cut network no
    longer runs because its `forward` fixes a size.
    """
    inputs, losses = positional(example_inputs), _losses(settings, loss_batches)
    smaller = deepcopy(module)
    _require_finite(smaller)
    with opened(smaller):
        shapes = [tuple(o.shape) for o in run(smaller, inputs, "does not run before pruning")]
        macs_before, parameters_before = count_macs(smaller, inputs)
        kept = _protected(smaller, inputs) | _ignored(smaller, settings.ignore)
        pruner = _pruner(smaller, inputs, settings, kept, seed)
        before = _widths(smaller, pruner)
        cuts = tuple(c for _ in range(settings.steps) for c in _step_(smaller, pruner, losses))
        _require_shapes(smaller, inputs, shapes)
        macs_after, parameters_after = count_macs(smaller, inputs)
        after = _widths(smaller, pruner)
    if macs_after >= macs_before:
        raise PruningError(_why_nothing_went(smaller, before, settings))
    return Pruned(
        module=smaller,
        plan=PruningPlan(cuts=cuts),
        requested_ratio=settings.pruning_ratio,
        achieved_ratio=1 - sum(after.values()) / sum(before.values()),
        macs_before=macs_before,
        macs_after=macs_after,
        parameters_before=parameters_before,
        parameters_after=parameters_after,
    )


def count_macs(module: nn.Module, inputs: Inputs) -> tuple[int, int]:
    """Return the multiply-accumulates for one sample, and the number of parameters."""
    macs, parameters = tp.utils.count_ops_and_params(module, positional(inputs))
    return int(macs), int(parameters)


def reestimate_batchnorm_(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Measure the mean and variance of every batch-norm layer anew, averaged over `batches`.

    Pruning leaves the statistics of the wider network, which no longer hold. All else, dropout
    included, runs in evaluation mode; `module` comes back in the mode in which it came.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    batches = iter(batches)
    batch = next(batches, None)
    if batch is None:
        raise PruningError("batch-norm statistics need at least one batch; none was given")
    with opened(module), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
            norm.train()
        try:
            while batch is not None:
                module(*positional(batch))
                batch = next(batches, None)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _losses(
    settings: PruneSettings, loss_batches: Iterable[LossBatch] | None
) -> tuple[LossBatch, ...]:
    if settings.importance != "taylor":
        return ()
    losses = tuple(loss_batches or ())
    if not losses:
        raise PruningError(
            "prune.importance: 'taylor' ranks channels by gradients and needs loss_batches; give "
            "at least one, or choose 'l1', 'l2' or 'bn_scale'"
        )
    return losses


def _require_finite(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise PruningError(
                f"parameter {name!r} holds values that are not finite: channels cannot be ranked; "
                "train the network again before pruning it"
            )


def _protected(module: nn.Module, inputs: tuple[Tensor, ...]) -> set[nn.Module]:
    """Return the layers whose cut would change the shape of an output."""
    graph, outputs = trace(module, inputs)
    makers = {output.grad_fn for output in outputs}
    last = [n for n in graph.module2node.values() if not n.outputs or n.grad_fn in makers]
    protected: set[nn.Module] = set()
    for group in graph.get_all_groups(root_module_types=ROOTS):
        cut = [dep.target for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        if any(node is end for node in cut for end in last):
            protected |= {node.module for node in cut if isinstance(node.module, ROOTS)}
    return protected


def _ignored(module: nn.Module, paths: tuple[str, ...]) -> set[nn.Module]:
    """Return the modules at `paths` and all modules inside them."""
    modules = dict(module.named_modules())
    for path in paths:
        if path not in modules:
            near = get_close_matches(path, modules, n=1, cutoff=0.0)[0]
            raise PruningError(
                f"prune.ignore: the network has no module {path!r}; did you mean {near!r}?"
            )
    return {part for path in paths for part in modules[path].modules()}


def _pruner(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    settings: PruneSettings,
    kept: set[nn.Module],
    seed: int,
) -> Any:
    with quiet():
        return tp.pruner.BasePruner(
            module,
            inputs,
            importance=_importance(settings, seed),
            global_pruning=settings.scope == "global",
            pruning_ratio=settings.pruning_ratio,
            iterative_steps=settings.steps,
            ignored_layers=list(kept),
            round_to=settings.round_to,
            root_module_types=list(ROOTS),
            forward_fn=differentiable,
            # The defaults are dicts that all pruners of a process would share and write to.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
            channel_groups={},
        )


def _importance(settings: PruneSettings, seed: int) -> Callable[[Any], Tensor | None]:
    """Return what scores the channels of a group of coupled layers."""
    match settings.importance:
        case "l1":
            scorer = tp.importance.MagnitudeImportance(p=1)
        case "l2":
            scorer = tp.importance.MagnitudeImportance(p=2)
        case "bn_scale":
            scorer = tp.importance.BNScaleImportance()
        case "taylor":
            scorer = tp.importance.TaylorImportance()
        case "random":
            generator = torch.Generator().manual_seed(seed)

            def scorer(group: Any) -> Tensor:
                return torch.rand(len(group[0].idxs), generator=generator)

    return scorer  # type: ignore[no-any-return]


def _widths(module: nn.Module, pruner: Any) -> dict[str, int]:
    """Return the number of channels of each layer that may be cut, by its path."""
    names = {part: name for name, part in module.named_modules()}
    groups = pruner.DG.get_all_groups(pruner.ignored_layers, ROOTS)
    roots = [group[0].dep.target.module for group in groups]
    return {names[root]: pruner.DG.get_out_channels(root) for root in roots}


def _step_(module: nn.Module, pruner: Any, losses: tuple[LossBatch, ...]) -> list[Cut]:
    """Cut `module` by one step and return the cuts, each recorded just before it is made."""
    names = {part: name for name, part in module.named_modules()}
    graph, cuts = pruner.DG, []
    _differentiate_(module, losses)
    with torch.no_grad(), quiet():
        for group in pruner.step(interactive=True):
            (dep, channels), layer = group[0], group[0].dep.target.module
            if not channels:
                continue
            out = graph.is_out_channel_pruning_fn(dep.trigger)
            cuts.append(
                Cut(
                    module=names[layer],
                    side="out" if out else "in",
                    width=graph.get_out_channels(layer) if out else graph.get_in_channels(layer),
                    channels=tuple(channels),
                )
            )
            group.prune(record_history=False)
    module.zero_grad(set_to_none=True)
    return cuts


def _differentiate_(module: nn.Module, losses: tuple[LossBatch, ...]) -> None:
    """Leave the gradient of the summed losses in the parameters."""
    for loss in losses:
        value = loss(module)
        if not bool(torch.isfinite(value).all()):
            raise PruningError(
                "prune.importance: a loss for 'taylor' is not finite; check data and network"
            )
        value.backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        if losses and parameter.grad is None:
            raise PruningError(
                f"prune.importance: 'taylor' finds no gradient for {name!r}, which the loss does "
                "not depend on; choose 'l1' or 'l2'"
            )


def _require_shapes(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: list[tuple[int, ...]]
) -> None:
    remedy = (
        "where forward() fixes a size (view, reshape), take it from x.shape or use flatten(1); "
        "or name the layer before it in prune.ignore"
    )
    got = [tuple(o.shape) for o in run(module, inputs, f"no longer runs when pruned ({remedy})")]
    if got != shapes:
        raise PruningError(
            f"pruning changed the output shapes of {type(module).__name__} from {shapes} to {got}; "
            f"{remedy}"
        )


def _why_nothing_went(module: nn.Module, widths: dict[str, int], settings: PruneSettings) -> str:
    wanted = f"pruning {settings.pruning_ratio:g} of the channels removed nothing"
    if not widths:
        return f"{wanted}: every layer makes an output or is in prune.ignore; shorten prune.ignore"
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if settings.importance == "bn_scale" and not any(norm.affine for norm in norms):
        return f"{wanted}: 'bn_scale' needs batch-norm layers with scales; choose 'l2'"
    narrow = [
        f"{name} ({width})"
        for name, width in widths.items()
        if width * (1 - settings.pruning_ratio) < settings.round_to
    ]
    listed = ", ".join(narrow[:5]) + (f" and {len(narrow) - 5} more" if len(narrow) > 5 else "")
    if narrow:
        return (
            f"{wanted}: rounded down to a multiple of round_to = {settings.round_to} these layers "
            f"would keep no channel: {listed}; lower prune.round_to"
        )
    return (
        f"{wanted}: ranked over all layers, whole layers would go, which is never done (are all "
        "channels equal, in an untrained network?); choose scope = 'local'"
    )
