"""Structured pruning: fewer channels, heads and blocks, and a plan to rebuild the network from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.attention import split_, splittable
from edgecompress.pruning.cutting import (
    Draft,
    Work,
    drop_blocks_,
    look,
    share_done,
    step_,
)
from edgecompress.pruning.graph import Inputs, count_macs, opened, positional, run
from edgecompress.pruning.groups import Coupled, Groups, modules_at
from edgecompress.pruning.importance import LossBatch, required_losses, scorer
from edgecompress.pruning.masks import Masks, prune_weights
from edgecompress.pruning.plan import PruningPlan, apply_plan
from edgecompress.pruning.ranking import multiple_of
from edgecompress.recipe import PruneSettings
from edgecompress.records import Removed

Recover = Callable[[nn.Module], None]
"""Trains a network in place, between two steps of pruning."""


@dataclass(frozen=True)
class Pruned:
    """Hold the smaller network and what was asked against what was got.

    The ratios are shares of the channels that may be cut, of what blocks are left; the MACs are
    for one sample. `whole` says of layers that kept all channels why, by the layer's path.
    """

    module: nn.Module
    plan: PruningPlan
    requested_ratio: float
    achieved_ratio: float
    heads: Removed
    blocks: Removed
    whole: Mapping[str, str]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int

    def in_words(self) -> str:
        """Return what was asked beside what went, and how many layers kept all channels and why."""
        what = "channels" if self.macs_after < self.macs_before else "weights"
        words = [f"{self.achieved_ratio:.1%} of the {what} went ({self.requested_ratio:.1%} asked)"]
        for name, gone in (("heads", self.heads), ("blocks", self.blocks)):
            if gone.requested_ratio:
                asked = f"({gone.requested_ratio:.1%} asked)"
                words.append(f"{gone.removed} of {gone.of} {name} {asked}")
        for reason, count in Counter(self.whole.values()).items():
            if reason not in ("makes an output", "is in prune.ignore"):
                path = next(path for path, why in self.whole.items() if why == reason)
                more = f" and {count - 1} like it" if count > 1 else ""
                words.append(f"{path!r}{more} stays whole: it {reason}")
        return "; ".join(words)


def prune(
    module: nn.Module,
    example_inputs: Inputs,
    settings: PruneSettings,
    loss_batches: Iterable[LossBatch] | None = None,
    seed: int = 0,
    recover: Recover | None = None,
) -> Pruned:
    """Return a smaller copy of `module`, which itself is not changed.

    Unstructured, it has as many weights, of which the smallest are 0.

    The layers that make the outputs are protected. `loss_batches` serve the importances by
    gradient, `seed` serves `random`, and `recover` trains the copy between two steps; zeros of
    unstructured pruning it must hold (`masks_of`). Raise `PruningError` where nothing can go, where
    the cut network no longer runs because its `forward` fixes a size, or where it computes
    something else than without the channels that went.
    """
    inputs, losses = positional(example_inputs), required_losses(settings, loss_batches)
    if settings.kind == "unstructured":
        return _sparse(module, inputs, settings, recover)
    return _pruned(module, inputs, _Order(settings, losses, seed, recover))


def prune_to(
    module: nn.Module,
    example_inputs: Inputs,
    widths: Mapping[str, int],
    settings: PruneSettings,
    loss_batches: Iterable[LossBatch] | None = None,
    seed: int = 0,
) -> Pruned:
    """Return a copy of `module` whose groups of channels have these widths.

    Groups are named as by `survey`; those that are not named stay as they are. Of the settings,
    `importance` and `ignore` count. Raise `PruningError` as `prune` does, and for a width that
    cannot be.
    """
    inputs, losses = positional(example_inputs), required_losses(settings, loss_batches)
    plain = {"kind": "structured", "head_ratio": 0.0, "block_ratio": 0.0, "steps": 1}
    settings = settings.model_copy(update=plain)
    return _pruned(module, inputs, _Order(settings, losses, seed, None, widths))


@dataclass(frozen=True)
class _Order:
    """Hold what is to go, by the settings' ratios or to given widths."""

    settings: PruneSettings
    losses: tuple[LossBatch, ...]
    seed: int
    recover: Recover | None = None
    widths: Mapping[str, int] | None = None


def _pruned(module: nn.Module, inputs: tuple[Tensor, ...], order: _Order) -> Pruned:
    """Return the smaller copy, once it has passed every gate."""
    settings, smaller = order.settings, deepcopy(module)
    spared = modules_at(smaller, settings.ignore)
    draft = Draft(split=splittable(smaller, spared))
    split_(smaller, draft.split)
    work = Work(
        smaller, inputs, settings, modules_at(smaller, settings.ignore), draft, order.widths
    )
    with opened(smaller):
        shapes = [tuple(o.shape) for o in run(smaller, inputs, "does not run before pruning")]
        macs_before, parameters_before = count_macs(smaller, inputs)
        blocks = drop_blocks_(work, order.seed)
        before = look(work)
    score = scorer(settings, order.seed)
    for step in range(1, settings.steps + 1):
        _require_finite(smaller)
        with opened(smaller):
            step_(work, before, score, order.losses, share_done(settings, step))
        if order.recover is not None and step < settings.steps:
            order.recover(smaller)
    with opened(smaller):
        _require_shapes(smaller, inputs, shapes)
        macs_after, parameters_after = count_macs(smaller, inputs)
        after = look(work)
    heads = _heads_removed(before, draft, settings)
    if macs_after >= macs_before:
        raise PruningError(_why_nothing_went(before, draft, order, (heads, blocks)))
    plan = draft.plan()
    _require_rebuilt(module, plan, inputs, smaller)
    return Pruned(
        module=smaller,
        plan=plan,
        requested_ratio=_requested(before, order),
        achieved_ratio=_achieved(before, after),
        heads=heads,
        blocks=blocks,
        whole=before.whole | _unchanged(before, draft, order),
        macs_before=macs_before,
        macs_after=macs_after,
        parameters_before=parameters_before,
        parameters_after=parameters_after,
    )


def unpruned(module: nn.Module, example_inputs: Inputs) -> Pruned:
    """Return a copy of the whole network as a pruning of which nothing came."""
    macs, parameters = count_macs(module, example_inputs)
    none, copy = Removed(0.0, 0, 0), deepcopy(module)
    return Pruned(copy, PruningPlan(), 0.0, 0.0, none, none, {}, macs, macs, parameters, parameters)


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


def _sparse(
    module: nn.Module, inputs: tuple[Tensor, ...], settings: PruneSettings, recover: Recover | None
) -> Pruned:
    """Return the same network with weights at zero; an empty plan, for the weights tell all."""
    _require_finite(module)
    steps = iter(range(1, settings.steps))

    def tune(network: nn.Module, _: Masks) -> None:
        if recover is not None and next(steps, None) is not None:
            recover(network)

    sparse = prune_weights(module, settings, tune)
    macs, parameters = count_macs(sparse.module, inputs)
    zeros = sum(int((~mask).sum()) for mask in sparse.masks.kept.values())
    return Pruned(
        module=sparse.module,
        plan=PruningPlan(),
        requested_ratio=settings.pruning_ratio,
        achieved_ratio=sparse.masks.sparsity,
        heads=Removed(),
        blocks=Removed(),
        whole={},
        macs_before=macs,
        macs_after=macs,
        parameters_before=parameters,
        parameters_after=parameters - zeros,
    )


def _heads_removed(before: Groups, draft: Draft, settings: PruneSettings) -> Removed:
    total = sum(one.heads.count for one in before.cuttable if one.heads)
    return Removed(
        settings.head_ratio, sum(k.of - len(k.kept) for k in draft.heads.values()), total
    )


def _achieved(before: Groups, after: Groups) -> float:
    had = sum(before.widths().values())
    return 1 - sum(after.widths().values()) / had if had else 0.0


def _requested(before: Groups, order: _Order) -> float:
    if order.widths is None:
        return order.settings.pruning_ratio
    had = before.widths()
    return 1 - sum((had | dict(order.widths)).values()) / sum(had.values())


def _unchanged(before: Groups, draft: Draft, order: _Order) -> dict[str, str]:
    if order.widths is not None or not order.settings.pruning_ratio:
        return {}
    return {
        one.path: _why_whole(one, draft, order.settings)
        for one in before.cuttable
        if one.path not in draft.channels
    }


def _why_whole(one: Coupled, draft: Draft, settings: PruneSettings) -> str:
    if one.path not in draft.ranked:
        return f"has nothing that importance {settings.importance!r} could rank it by"
    multiples = f"(multiples of {multiple_of(one, settings)})"
    if settings.scope == "local":
        return f"rounds to all of its {one.width} channels {multiples}"
    return f"keeps all of its {one.width} channels, ranked among those of others {multiples}"


def _require_finite(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise PruningError(
                f"parameter {name!r} holds values that are not finite: channels cannot be ranked; "
                "train the network again before pruning it"
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


def _require_rebuilt(
    module: nn.Module, plan: PruningPlan, inputs: tuple[Tensor, ...], smaller: nn.Module
) -> None:
    """Raise `PruningError` if the plan does not make the same network out of the original."""
    try:
        rebuilt = apply_plan(module, plan, inputs)
        ours, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in (smaller, rebuilt))
        cause = "" if ours == theirs else "weights of other shapes"
    except PruningError as error:
        cause = str(error).removeprefix("pruning plan: ")
    if cause:
        raise PruningError(
            f"this pruning could not be rebuilt from its plan ({cause}); set prune.steps = 1, or "
            "name what it is about in prune.ignore"
        )


def _why_nothing_went(
    before: Groups, draft: Draft, order: _Order, others: tuple[Removed, Removed]
) -> str:
    """Say why; `others` are the heads and the blocks."""
    settings = order.settings
    if order.widths is not None:
        return "widths: they leave every layer as wide as it was; ask for fewer channels"
    if not settings.pruning_ratio:
        named = zip(("heads", "blocks"), others, strict=True)
        asked = [f"{o.requested_ratio:g} of {o.of} {n}" for n, o in named if o.requested_ratio]
        return f"pruning removed nothing: {' and '.join(asked)} rounds to none; ask for more"
    wanted = f"pruning {settings.pruning_ratio:g} of the channels removed nothing"
    widths = before.widths()
    if not widths:
        reasons = sorted(set(before.whole.values())) or ["is of a kind that cannot be cut"]
        remedy = "shorten prune.ignore" if settings.ignore else "leave pruning out"
        return f"{wanted}: every layer {' or '.join(reasons)}; {remedy}"
    if not draft.ranked:
        return (
            f"{wanted}: no layer has what importance {settings.importance!r} ranks by "
            "('bn_scale' needs batch-norm layers with scales); choose 'group'"
        )
    listed = [f"{path} ({width})" for path, width in widths.items()]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return (
        f"{wanted}: rounded to multiples of round_to = {settings.round_to}, every layer keeps all "
        f"its channels: {', '.join(listed[:5])}{more}; lower prune.round_to or raise "
        "prune.pruning_ratio"
    )
