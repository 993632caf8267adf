"""How a network is opened, run and traced while it is cut; torch-pruning's graph of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch_pruning import DependencyGraph

from edgecompress.errors import PruningError

Graph: TypeAlias = DependencyGraph  # which layers touch, as torch-pruning has traced them
Inputs = Mapping[str, Any] | tuple[Any, ...]  # tensors, or arrays that become tensors
ROOTS = (nn.modules.conv._ConvNd, nn.Linear)
"""The layers whose output channels may be cut; everything else follows them."""


def positional(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return named inputs in their order, as a network's `forward` takes them."""
    given = inputs.values() if isinstance(inputs, Mapping) else inputs
    return tuple(torch.as_tensor(value) for value in given)


@contextmanager
def opened(module: nn.Module) -> Iterator[None]:
    """Hold `module` in evaluation mode with every parameter differentiable, then put both back.

    torch-pruning follows gradients to see which layers touch: a frozen parameter would hide them.
    """
    modes = {n: p.training for n, p in module.named_modules(remove_duplicate=False)}
    trained = {n: p.requires_grad for n, p in module.named_parameters(remove_duplicate=False)}
    try:
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        for name, part in module.named_modules():
            part.training = modes[name]
        for name, parameter in module.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(trained[name])


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value for tensor in tensors_in(part)]


def run(module: nn.Module, inputs: tuple[Tensor, ...], moment: str) -> list[Tensor]:
    """Return the outputs of `module`, or raise `PruningError` naming the module that failed."""
    path: list[str] = []

    def enter(name: str, *_: Any) -> None:
        path.append(name)

    def leave(*_: Any) -> None:
        path.pop()

    hooks = []
    for name, part in module.named_modules():
        described = f"{name!r} ({type(part).__name__})" if name else type(part).__name__
        hooks.append(part.register_forward_pre_hook(partial(enter, described)))
        hooks.append(part.register_forward_hook(leave))
    try:
        return tensors_in(module(*inputs))
    except Exception as error:  # whatever the user's forward raises
        where = " inside ".join(reversed(path[:1] + path[1:][-1:])) or type(module).__name__
        cause = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise PruningError(f"{where} {moment}: {cause[0]}") from error
    finally:
        for hook in hooks:
            hook.remove()


def count_macs(module: nn.Module, inputs: Inputs) -> tuple[int, int]:
    """Return the multiply-accumulates of matrix products for one sample, and the parameters.

    Counted where PyTorch runs them, those of attention included.
    """
    tensors = positional(inputs)
    with opened(module), FlopCounterMode(display=False) as counter:
        module(*tensors)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return counter.get_total_flops() // 2 // len(tensors[0]), parameters


def differentiable(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the outputs that depend on parameters: the ones that a graph can be followed from."""
    return [tensor for tensor in tensors_in(module(*inputs)) if tensor.grad_fn is not None]


def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Graph, list[Tensor]]:
    """Return torch-pruning's graph of an opened module, and the outputs that it was traced from."""
    outputs: list[Tensor] = []

    def forward(network: nn.Module, arguments: tuple[Tensor, ...]) -> list[Tensor]:
        outputs.extend(differentiable(network, arguments))
        return outputs

    with torch_pruning_at_work(module):
        graph = Graph().build_dependency(module, inputs, forward_fn=forward)
    if not outputs:
        raise PruningError(
            f"{type(module).__name__} returns nothing that depends on its parameters "
            "differentiably; return logits, not classes, and run it with gradients on"
        )
    return graph, outputs


@contextmanager
def torch_pruning_at_work(module: nn.Module) -> Iterator[None]:
    """Make one line of whatever torch-pruning raises, and silence its warnings.

    What it warns of (parameters outside layers, operations that it does not know) is caught when
    the cut network is run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            cause = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise PruningError(
                f"torch-pruning cannot follow {type(module).__name__}: {cause[0]}; name the layers "
                "around it in prune.ignore, or leave pruning out"
            ) from error
