"""Structured pruning: fewer channels, the same outputs, a plan to rebuild the network from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import ROOTS, Inputs, opened, positional, run, trace
from edgecompress.pruning.plan import Cut, PruningPlan, apply_cut_
from edgecompress.pruning.ranking import Scorer, choose, coupled, scorer
from edgecompress.recipe import PruneSettings
from edgecompress.settings import did_you_mean

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
        graph, outputs = trace(smaller, inputs)
        kept = _protected(graph, outputs) | _ignored(smaller, settings.ignore)
        before = _widths(smaller, graph, kept)
        plan = _cut_(smaller, graph, kept, settings, scorer(settings, seed), losses)
        _require_shapes(smaller, inputs, shapes)
        macs_after, parameters_after = count_macs(smaller, inputs)
        after = _widths(smaller, graph, kept)
    if macs_after >= macs_before:
        raise PruningError(_why_nothing_went(smaller, before, settings))
    return Pruned(
        module=smaller,
        plan=plan,
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


def _protected(graph: tp.DependencyGraph, outputs: list[Tensor]) -> set[nn.Module]:
    """Return the layers whose cut would change the shape of an output."""
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
            raise PruningError(
                f"prune.ignore: the network has no module {path!r}, expected the path of one, such "
                f"as {next(filter(None, modules), '')!r}{did_you_mean(path, modules)}"
            )
    return {part for path in paths for part in modules[path].modules()}


def _widths(module: nn.Module, graph: tp.DependencyGraph, kept: set[nn.Module]) -> dict[str, int]:
    """Return the number of channels of each layer that may be cut, by its path."""
    paths = {part: path for path, part in module.named_modules()}
    roots = [group[0].dep.target.module for group in graph.get_all_groups(list(kept), ROOTS)]
    return {paths[root]: graph.get_out_channels(root) for root in roots}


def _cut_(
    module: nn.Module,
    graph: tp.DependencyGraph,
    kept: set[nn.Module],
    settings: PruneSettings,
    score: Scorer,
    losses: tuple[LossBatch, ...],
) -> PruningPlan:
    """Cut `module` in equal steps, ranking its channels anew at each, and return all cuts."""
    widths, cuts = _widths(module, graph, kept), []
    for step in range(1, settings.steps + 1):
        _differentiate_(module, losses)
        sets = coupled(module, graph, kept, score)
        ratio = settings.pruning_ratio * step / settings.steps
        for one, channels in choose(sets, widths, settings, ratio):
            cuts.append(Cut(module=one.path, width=one.width, channels=channels))
            apply_cut_(module, graph, cuts[-1])
        module.zero_grad(set_to_none=True)
    return PruningPlan(cuts=tuple(cuts))


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
    listed = [f"{path} ({width})" for path, width in widths.items()]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return (
        f"{wanted}: rounded to multiples of round_to = {settings.round_to}, every layer keeps all "
        f"its channels: {', '.join(listed[:5])}{more}; lower prune.round_to or raise "
        "prune.pruning_ratio"
    )
