"""Unstructured pruning: the smallest single weights become 0 and stay so through training.

The file compresses better; ONNX Runtime's CPU kernels multiply by zeros like by any other number,
so nothing runs faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.cutting import share_done
from edgecompress.pruning.graph import ROOTS
from edgecompress.pruning.groups import modules_at
from edgecompress.recipe import PruneSettings


@dataclass(frozen=True)
class Masks:
    """Hold which weights of each parameter are kept; called with a module before each step.

    With their gradients at zero, weights at zero stay there: weight decay scales them, and the
    moments of an optimizer made after pruning are zero too.
    """

    kept: Mapping[str, Tensor]

    @property
    def sparsity(self) -> float:
        """Return the share of weights that are masked."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / max(1, total)

    def __call__(self, module: nn.Module, step: int) -> None:
        """Take the masked weights out of the gradients that are there."""
        for name, mask in self.kept.items():
            gradient = module.get_parameter(name).grad
            if gradient is not None:
                gradient.mul_(mask.to(gradient.device))

    def apply_(self, module: nn.Module) -> None:
        """Set the masked weights to zero."""
        with torch.no_grad():
            for name, mask in self.kept.items():
                parameter = module.get_parameter(name)
                parameter.mul_(mask.to(parameter.device))

    def require_held(self, module: nn.Module) -> None:
        """Raise `PruningError` if a masked weight is no longer zero."""
        for name, mask in self.kept.items():
            if bool((module.get_parameter(name).detach()[~mask] != 0).any()):
                raise PruningError(
                    f"parameter {name!r}: training moved weights that pruning had set to 0; call "
                    "the masks with the module after each backward pass, and make the optimizer "
                    "after pruning"
                )


FineTune = Callable[[nn.Module, Masks], None]
"""Trains a network in place, calling the masks with it after each backward pass."""


@dataclass(frozen=True)
class Sparse:
    """Hold a network with weights at zero, their masks, and how sparse it was after each step."""

    module: nn.Module
    masks: Masks
    sparsities: tuple[float, ...]


def masks_of(module: nn.Module) -> Masks:
    """Return the masks of a sparse network: what is exactly zero stays zero."""
    return Masks({name: p.detach() != 0 for name, p in _weights(module, ()).items()})


def smallest_masked(module: nn.Module, ratio: float, settings: PruneSettings) -> Masks:
    """Return masks on the `ratio` of weights of least magnitude, of all layers or of each.

    Only weights of convolutions and linear layers count, no biases, norms or embeddings. Raise
    `PruningError` where a layer would lose its every weight, or where there is none.
    """
    weights = _weights(module, settings.ignore)
    if not weights:
        raise PruningError(
            f"prune: {type(module).__name__} has no convolution or linear layer outside of "
            "prune.ignore whose weights could go"
        )
    sizes = {name: weight.detach().abs().flatten() for name, weight in weights.items()}
    if settings.scope == "global":
        every = _largest(torch.cat(list(sizes.values())), ratio)
        flat = dict(zip(sizes, torch.split(every, [len(s) for s in sizes.values()]), strict=True))
    else:
        flat = {name: _largest(size, ratio) for name, size in sizes.items()}
    for name, mask in flat.items():
        if not bool(mask.any()):
            raise PruningError(
                f"prune.pruning_ratio: without {ratio:.0%} of the weights, {name!r} would have "
                'none left; lower it, set scope = "local", or name its module in prune.ignore'
            )
    return Masks({name: mask.view_as(weights[name]) for name, mask in flat.items()})


def prune_weights(
    module: nn.Module, settings: PruneSettings, fine_tune: FineTune | None = None
) -> Sparse:
    """Return a copy of `module` with its smallest weights at zero; `module` is not changed.

    With `steps`, sparsity grows step by step (schedule `cubic`: Zhu & Gupta 2017,
    arXiv:1710.01878), and `fine_tune` trains the copy after each of them.
    """
    sparse, reached = deepcopy(module), []
    for step in range(1, settings.steps + 1):
        ratio = settings.pruning_ratio * share_done(settings, step)
        masks = smallest_masked(sparse, ratio, settings)
        masks.apply_(sparse)
        if fine_tune is not None:
            fine_tune(sparse, masks)
            masks.require_held(sparse)
        reached.append(masks.sparsity)
    return Sparse(sparse, masks, tuple(reached))


def _weights(module: nn.Module, ignore: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers, by name."""
    spared = modules_at(module, ignore)
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, ROOTS) and m not in spared]
    return {
        f"{name}.weight".removeprefix("."): layer.weight
        for name, layer in layers
        if isinstance(layer.weight, nn.Parameter)
    }


def _largest(sizes: Tensor, ratio: float) -> Tensor:
    """Return a mask that leaves out exactly the `ratio` of least size; ties go in their order."""
    mask = torch.ones(len(sizes), dtype=torch.bool, device=sizes.device)
    mask[torch.argsort(sizes, stable=True)[: int(ratio * len(sizes) + 0.5)]] = False
    return mask
