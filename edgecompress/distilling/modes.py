"""How a training computes on this machine: precision, memory layout, threads, found by timing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from edgecompress.distilling.loop import autocast, computing, logits_of, make_optimizer, placed
from edgecompress.distilling.views import tensors
from edgecompress.recipe import TrainSettings
from edgecompress.records import Mode
from edgecompress.tasks.task import Task

ROUNDS = 5


def fastest_mode(network: nn.Module, task: Task, settings: TrainSettings) -> Mode:
    """Time a few training steps in each mode that this machine has and return the fastest one.

    bfloat16 is tried only where the processor has instructions for it, channels-last only for
    images; then one thread against all, for small networks lose more by sharing out than they
    gain. The answer depends on the machine: a run records it, and a resumed run keeps it.
    """
    images = any(array.ndim == 4 for array in task.train.inputs.values())
    layouts = (False, True) if images else (False,)
    every = torch.get_num_threads()
    modes = [Mode(p, at, every) for p in _precisions(settings.precision) for at in layouts]
    best = _fastest(modes, network, task, settings)
    return _fastest([best, replace(best, threads=1)], network, task, settings)


def _precisions(wanted: Literal["auto", "fp32", "bf16"]) -> tuple[Literal["fp32", "bf16"], ...]:
    if wanted != "auto":
        return (wanted,)
    return ("fp32", "bf16") if _has_bf16() else ("fp32",)


def _has_bf16() -> bool:
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


def _fastest(
    modes: Sequence[Mode], network: nn.Module, task: Task, settings: TrainSettings
) -> Mode:
    """Return the mode with the fastest single step; they take turns, so that noise hits all."""
    if len(set(modes)) == 1:
        return modes[0]
    trials = [_trial(network, task, settings, mode) for mode in modes]
    times = [[trial() for trial in trials] for _ in range(ROUNDS)]
    best = [min(column) for column in zip(*times, strict=True)]
    return modes[best.index(min(best))]


def _trial(
    network: nn.Module, task: Task, settings: TrainSettings, mode: Mode
) -> Callable[[], float]:
    """Return a function that takes one training step in a mode and returns its seconds."""
    module = copy.deepcopy(network).train()
    if mode.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch, device = task.train.take(slice(0, settings.batch_size)), torch.device("cpu")
    inputs = [placed(tensor, mode, device) for tensor in tensors(batch.inputs).values()]
    optimizer = make_optimizer(module, settings.model_copy(update={"learning_rate": 1e-6}))

    def step() -> float:
        with computing(mode):
            started = time.perf_counter()
            with autocast(mode, device):
                logits = logits_of(module(*inputs))
            # Any loss will do: its own time is small, and the same in every mode.
            logits.float().square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return time.perf_counter() - started

    return step
