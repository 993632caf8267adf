"""Depth: residual blocks that can be passed by, and how little is lost with each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import ROOTS, run, tensors_in

# What mixes or scales channels by weights; a path without any of it hands its input through.
_WORK = ("convolution", "mm", "dot", "mul", "softmax", "embedding", "rnn", "lstm", "gru", "cat")


class Skip(nn.Module):
    """Stand in the place of a dropped block and return its first input."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return `x` as it is."""
        return x


def residual_blocks(
    module: nn.Module, inputs: tuple[Tensor, ...], spared: Collection[nn.Module] = ()
) -> tuple[str, ...]:
    """Return the paths of the innermost blocks that add to their input, in the order of running.

    A block is one if the network still answers in the same shape when the block is passed by, and
    if a path from its output back to its input crosses nothing but additions, norms and
    activations. Call it on an opened module.
    """
    found = [path for path, adds in _answers(module, inputs, _adds_to_input) if adds]
    inner = [p for p in found if not any(other.startswith(f"{p}.") for other in found)]
    shapes = [tensor.shape for tensor in run(module, inputs, "does not run before pruning")]
    return tuple(
        path
        for path in dict.fromkeys(inner)
        if not any(part in spared for part in module.get_submodule(path).modules())
        and _does_without(module, path, inputs, shapes)
    )


def influences(
    module: nn.Module, inputs: tuple[Tensor, ...], blocks: Collection[str]
) -> dict[str, float]:
    """Return how far each block turns what goes through it: 1 minus the cosine of in and output.

    Block influence (Men et al. 2024, arXiv:2403.03853), over whole samples.
    """
    turned = {path: turn for path, turn in _answers(module, inputs, _turn) if path in blocks}
    return {path: turned[path] for path in blocks}


def drop_(module: nn.Module, paths: Collection[str]) -> None:
    """Replace the blocks at `paths` by `Skip`, in place; raise `PruningError` for what is none."""
    for path in paths:
        try:
            if not path:
                raise AttributeError
            module.get_submodule(path)
        except AttributeError:
            raise PruningError(
                f"pruning plan: the network has no block {path!r}; construct the network that was "
                "pruned"
            ) from None
        module.set_submodule(path, Skip())


@contextmanager
def without(module: nn.Module, path: str) -> Iterator[None]:
    """Pass a block by inside the `with`."""
    block = module.get_submodule(path)
    module.set_submodule(path, Skip())
    try:
        yield
    finally:
        module.set_submodule(path, block)


def _does_without(
    module: nn.Module, path: str, inputs: tuple[Tensor, ...], shapes: list[torch.Size]
) -> bool:
    with without(module, path):
        try:
            return [t.shape for t in run(module, inputs, "does not run")] == shapes
        except PruningError:
            return False


def _answers(module: nn.Module, inputs: tuple[Tensor, ...], ask: Any) -> list[tuple[str, Any]]:
    """Return `ask(input, output)` for each inner module that keeps a shape, as they finish."""
    answers: list[tuple[str, Any]] = []

    def finished(path: str, part: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        x = next(iter(tensors_in(list(given))), None)
        if x is not None and isinstance(output, Tensor) and output.shape == x.shape:
            answers.append((path, ask(x, output)))

    hooks = [
        part.register_forward_hook(partial(finished, path))
        for path, part in module.named_modules()
        if path and any(isinstance(inner, ROOTS) for inner in list(part.modules())[1:])
    ]
    try:
        module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return answers


def _adds_to_input(x: Tensor, output: Tensor) -> bool:
    """Return whether a path leads from `output` to `x` that no weights lie on."""
    if x.grad_fn is None or x is output:
        return False
    todo, seen = [output.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is x.grad_fn:
            return True
        if node is None or node in seen or any(work in node.name().lower() for work in _WORK):
            continue
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
    return False


def _turn(x: Tensor, output: Tensor) -> float:
    similar = nn.functional.cosine_similarity(x.detach().flatten(1), output.detach().flatten(1))
    return float(1 - similar.mean())
