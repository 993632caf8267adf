"""Training towards channels that can go: a penalty on whole groups, added to the gradient.

The training loop calls `penalty(module, step)` after the backward pass. What is added is a
function of the weights and the step alone, so that a resumed training ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import ROOTS, Graph, Inputs, opened, positional, trace
from edgecompress.pruning.groups import Coupled, groups_of, modules_at
from edgecompress.recipe import PruneSettings

GROWS_EVERY = 10
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Slices:
    """Hold where the weights of a group lie in one parameter.

    Slice `index[i]` along `axis` of the parameter `name` belongs to the group's unit `unit[i]`.
    """

    name: str
    axis: int
    index: Tensor
    unit: Tensor
    scales: bool

    def on(self, device: torch.device) -> Slices:
        """Return the same on the device of the training."""
        return replace(self, index=self.index.to(device), unit=self.unit.to(device))

    def of(self, tensor: Tensor) -> Tensor:
        """Return the slices of a parameter or its gradient, one row each."""
        rows = tensor.index_select(self.axis, self.index).movedim(self.axis, 0)
        return rows.reshape(len(self.index), -1)

    def add_(self, gradient: Tensor, weight: Tensor, factors: Tensor) -> None:
        """Add `factors`, one a unit, times the weights to the gradient."""
        rows = weight.index_select(self.axis, self.index)
        shape = [-1 if axis == self.axis else 1 for axis in range(weight.dim())]
        gradient.index_add_(self.axis, self.index, rows * factors[self.unit].view(shape))


@dataclass(frozen=True)
class Penalty:
    """Push the units of each group towards zero; called with a module and the training's step.

    group_lasso: `strength` times the sum of the units' L2 norms over all coupled weights, which
    makes whole units vanish (Yuan & Lin 2006; on groups: Fang et al. 2023, arXiv:2301.12900).
    bn_scale: `strength` times the sum of the absolute scales of batch norms (Liu et al. 2017,
    arXiv:1708.06519). growing: half of `strength` times the squares of the units in `weak`, once
    more each `GROWS_EVERY` steps (Wang et al. 2021, arXiv:2012.09243).
    """

    settings: PruneSettings
    groups: tuple[tuple[Slices, ...], ...]
    weak: tuple[Tensor, ...]

    def __call__(self, module: nn.Module, step: int) -> None:
        """Add the penalty's gradient to the gradients that are there."""
        parameters = dict(module.named_parameters())
        device = next(iter(parameters.values())).device
        with torch.no_grad():
            for group, weak in zip(self.groups, self.weak, strict=True):
                slices = tuple(part.on(device) for part in group)
                self._add_(parameters, slices, weak.to(device), step)

    def _add_(
        self,
        parameters: dict[str, nn.Parameter],
        slices: tuple[Slices, ...],
        weak: Tensor,
        step: int,
    ) -> None:
        match self.settings.penalty:
            case "group_lasso":
                norms = _squares(parameters, slices, len(weak)).sqrt()
                factors = self.settings.penalty_strength / norms.clamp(min=1e-12)
            case "growing":
                factors = weak * self.settings.penalty_strength * (1 + step // GROWS_EVERY)
            case _:
                factors = torch.full_like(weak, self.settings.penalty_strength)
        for part in slices:
            weight, gradient = parameters[part.name], parameters[part.name].grad
            if gradient is None:
                continue
            if self.settings.penalty != "bn_scale":
                part.add_(gradient, weight, factors)
            elif part.scales:
                part.add_(gradient, weight.sign(), factors)


def penalty_on(module: nn.Module, example_inputs: Inputs, settings: PruneSettings) -> Penalty:
    """Return the penalty that `settings` ask for, on the groups that they would prune.

    What `growing` takes for weak are the `pruning_ratio` units of least L1 norm in each group as
    the weights are now (that paper's own choice). `module` is not changed.
    """
    with opened(module):
        graph, outputs = trace(module, positional(example_inputs))
        groups = groups_of(module, graph, outputs, modules_at(module, settings.ignore)).cuttable
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = [(one, tuple(_slices(graph, one, names))) for one in groups]
    found = [(one, slices) for one, slices in found if slices]
    if settings.penalty == "bn_scale" and not any(s.scales for _, part in found for s in part):
        raise PruningError(
            "prune.penalty: 'bn_scale' needs batch-norm layers with scales; choose 'group_lasso'"
        )
    parameters = dict(module.named_parameters())
    weak = [_weak(parameters, slices, _units(one), settings) for one, slices in found]
    return Penalty(settings, tuple(slices for _, slices in found), tuple(weak))


def _units(one: Coupled) -> int:
    return one.width // one.parts


def _slices(graph: Graph, one: Coupled, names: dict[int, str]) -> Iterator[Slices]:
    """Yield the slices of all weights that go with the channels of a group."""
    for item in one.group:
        layer, makes = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, ROOTS + _NORMS) or weight is None or None in item.root_idxs:
            continue
        axis = int(not makes and not isinstance(layer, _NORMS))
        if getattr(layer, "transposed", False) and layer.groups == 1:
            axis = 1 - axis
        pairs = zip(item.idxs, item.root_idxs, strict=True)
        # A grouped convolution has inputs for one part only; the other parts share their places.
        index, root = zip(*((i, r) for i, r in pairs if i < weight.shape[axis]), strict=True)
        unit = torch.tensor(root) % _units(one)
        scales = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        yield Slices(names[id(weight)], axis, torch.tensor(index), unit, scales)


def _squares(parameters: dict[str, Any], slices: Sequence[Slices], units: int) -> Tensor:
    """Return the squared L2 norm of each unit over all of its weights."""
    total = torch.zeros(units, device=slices[0].index.device)
    for part in slices:
        rows = part.of(parameters[part.name].detach()).float().square().sum(1)
        total.index_add_(0, part.unit, rows)
    return total


def _weak(
    parameters: dict[str, Any], slices: Sequence[Slices], units: int, settings: PruneSettings
) -> Tensor:
    """Return 1 for each unit of least L1 norm, 0 for the others."""
    total = torch.zeros(units)
    for part in slices:
        total.index_add_(0, part.unit, part.of(parameters[part.name].detach()).abs().sum(1))
    weak = torch.zeros(units)
    weak[torch.argsort(total, stable=True)[: floor(settings.pruning_ratio * units)]] = 1
    return weak
