"""The training loop, on accelerate: one process or several, resumable at any step.

Every random draw is a function of (seed, epoch, step) and never of what ran before, so a
checkpoint needs no generator state and a resumed training ends in the same bits.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from edgecompress.distilling.checkpoint import (
    State,
    read_checkpoint,
    restore_,
    snapshot,
    write_checkpoint,
)
from edgecompress.distilling.hints import PROBE_SAMPLES, Answer
from edgecompress.distilling.kinds import labelled
from edgecompress.distilling.lesson import Lesson, Moment
from edgecompress.distilling.losses import Loss
from edgecompress.distilling.views import generator, mixed_seed
from edgecompress.errors import TrainingError
from edgecompress.recipe import TrainSettings
from edgecompress.records import EpochPoint, Mode
from edgecompress.store import Crew

CHECKPOINT_SECONDS = 30.0
MAX_ROLLBACKS = 3


def _no_tick(text: str, done: int, total: int) -> None:
    """Tell nobody."""


def _no_watch(point: EpochPoint, module: nn.Module) -> None:
    """Show it to nobody."""


def _no_change(module: nn.Module, step: int) -> None:
    """Leave the gradients as they are."""


@dataclass(frozen=True)
class Bench:
    """Hold what a training needs from outside: its seed, how it computes, whom it tells.

    `tick(text, done, total)` hears of each step and may raise to stop the training; what was
    trained until the last checkpoint (30 s at most) is kept in `checkpoint`. `soft_folder` keeps
    the teacher's logits for a later arm or run. `loss` is a user's own, in the place of the
    recipe's: (student_logits, teacher_logits, labels) -> a scalar; label -1 means unlabelled.
    `watch(point, module)` is shown the network after each epoch, in eval mode.
    `adjust(module, step)` may change the gradients in place before each step of the optimizer; to
    resume in the same bits it must be a function of the weights and the step. `section` of the
    recipe holds the settings, for what errors advise.
    """

    seed: int = 0
    mode: Mode = field(default_factory=Mode)
    checkpoint: Path | None = None
    soft_folder: Path | None = None
    tick: Callable[[str, int, int], None] = _no_tick
    loss: Loss | None = None
    watch: Callable[[EpochPoint, nn.Module], None] = _no_watch
    adjust: Callable[[nn.Module, int], None] = _no_change
    section: str = ""

    def keeping(self, training: str) -> Bench:
        """Return the bench with a checkpoint for one of several trainings, beside the others."""
        if self.checkpoint is None:
            return self
        return replace(
            self, checkpoint=self.checkpoint.with_name(f"{training}-{self.checkpoint.name}")
        )


def crew_of_launch() -> Crew:
    """Return the processes that `accelerate launch` started; this one alone without it."""
    accelerator = Accelerator()
    if accelerator.num_processes == 1:
        return Crew()

    def agree(value: Any) -> Any:
        return broadcast_object_list([value])[0]

    return Crew(accelerator.process_index, accelerator.num_processes, agree)


def learning_rate(settings: TrainSettings, step: int, total: int) -> float:
    """Return the rate at a step: linear warm-up, then a half cosine down to zero.

    >>> s = TrainSettings(learning_rate=1.0, warmup_ratio=0.1)
    >>> [round(learning_rate(s, step, 100), 3) for step in (0, 9, 54, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    warmup = max(1, round(settings.warmup_ratio * total))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup + 1) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def train_(
    module: nn.Module,
    lesson: Lesson,
    settings: TrainSettings,
    score: Callable[[nn.Module], float],
    bench: Bench = Bench(),
) -> tuple[EpochPoint, ...]:
    """Train `module` in place and return its curve; `score(module)` is the validation metric.

    Raises TrainingError when the loss or a gradient is not finite even after going back to the
    last good state with half the learning rate three times.
    """
    trainer = _Trainer(module, lesson, settings, bench)
    if bench.checkpoint is not None and bench.checkpoint.exists():
        trainer.state = read_checkpoint(bench.checkpoint, trainer.module, trainer.optimizer)
    while trainer.state.epoch < settings.epochs:
        trainer.epoch_(score)
    return tuple(trainer.state.curve)


class _Trainer:
    """Hold the live handles of one training; `state` is all that a checkpoint holds beside."""

    def __init__(
        self, module: nn.Module, lesson: Lesson, settings: TrainSettings, bench: Bench
    ) -> None:
        self.lesson, self.settings, self.bench = lesson, settings, bench
        self.accelerator = Accelerator()
        if bench.mode.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        require_trainable(module)
        # What learns is the student, and projections beside it where the lesson has some.
        first = lesson.views.samples.slice(slice(0, PROBE_SAMPLES))
        self.student, self.module = module, lesson.pupil(module, first)
        self.prepared = self.accelerator.prepare(self.module)
        self.optimizer = make_optimizer(self.module, settings)
        self.learning = [p for p in self.module.parameters() if p.requires_grad]
        self.batch = min(settings.batch_size * settings.accumulate, lesson.samples)
        self.steps = lesson.samples // self.batch
        require_rows_for_all(self.batch, self.accelerator.num_processes)
        self.state = State()
        self.saved = time.monotonic()

    def epoch_(self, score: Callable[[nn.Module], float]) -> None:
        """Run one epoch from wherever the state stands, rolling back if it breaks."""
        started = time.monotonic()
        good = snapshot(self.state, self.module, self.optimizer)
        self.prepared.train()
        try:
            for rows in self._batches():
                self.state.loss_sum += self._step_(rows)
                self.state.step += 1
                self._report_and_save()
        except _NotFiniteError as error:
            self.state = restore_(good, self.module, self.optimizer)
            self.state.lower_rate_(str(error), MAX_ROLLBACKS, self._remedy())
            return
        self.state.close_epoch_(self.steps, self._scored(score), time.monotonic() - started)
        self.bench.watch(self.state.curve[-1], self.student)

    def _remedy(self) -> str:
        """Return which keys of the recipe to change when the training breaks."""
        section = f"{self.bench.section}." if self.bench.section else ""
        more = "" if self.bench.mode.precision == "fp32" else f', or {section}precision = "fp32"'
        return f"give a lower {section}learning_rate{more}"

    def _scored(self, score: Callable[[nn.Module], float]) -> float:
        self.module.eval()
        return score(self.student)

    def _batches(self) -> Iterator[Tensor]:
        """Yield this process's rows of each global batch left in the epoch."""
        epoch, seen = self.state.epoch, self.steps * self.batch
        order = sample_order(len(self.lesson.views), seen, self.bench.seed, epoch)
        for step in range(self.state.step, self.steps):
            rows = order[step * self.batch : (step + 1) * self.batch]
            yield rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def _step_(self, rows: Tensor) -> float:
        """Take one optimizer step on `rows`, in as many parts as the recipe accumulates."""
        done, total = self.state.epoch * self.steps + self.state.step, self._total()
        _seed_dropout(mixed_seed(self.bench.seed, done), self.accelerator.device)
        rate = learning_rate(self.settings, done, total) * self._growth()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.state.rate_scale
        self.optimizer.zero_grad()
        moment = Moment(done / max(1, total - 1), self._labelled(rows))
        summed = sum(self._backward_(part, rows, moment) for part in self._parts(rows))
        self.bench.adjust(self.student, done)
        self._clip_(summed)
        self.optimizer.step()
        return summed

    def _parts(self, rows: Tensor) -> Sequence[Tensor]:
        """Return the rows of a step in as many parts as the recipe accumulates."""
        if self.settings.accumulate == 1:
            return (rows,)
        return [part for part in rows.chunk(self.settings.accumulate) if len(part)]

    def _backward_(self, part: Tensor, rows: Tensor, moment: Moment) -> float:
        """Add the gradient of a part of a step's rows; only its last part meets other processes."""
        if part is rows:
            loss = self._loss(rows, moment)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())
        last = int(part[-1]) == int(rows[-1])
        waits = contextlib.nullcontext() if last else self.accelerator.no_sync(self.prepared)
        with waits:
            loss = self._loss(part, moment) * (len(part) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _clip_(self, loss: float) -> None:
        """Bring the gradient's norm down to the limit, where it is finite and above it."""
        gradients = [p.grad for p in self.learning if p.grad is not None]
        at_once = self.accelerator.device.type == "cpu" or None  # elsewhere torch knows best
        norm = nn.utils.get_total_norm(gradients, foreach=at_once)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            raise _NotFiniteError(_cause(self.module, loss))
        if float(norm) > self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(
                self.learning, self.settings.clip_norm, norm, foreach=at_once
            )

    def _total(self) -> int:
        return self.settings.epochs * self.steps

    def _growth(self) -> float:
        """Return by what the learning rate grows with the effective batch.

        In proportion: Goyal et al. 2017; with the root: Malladi et al. 2022, for Adam.
        """
        ratio = max(1.0, self.batch / self.settings.batch_size)
        match self.settings.lr_scaling:
            case "none":
                return 1.0
            case "linear":
                return ratio
            case "sqrt":
                return math.sqrt(ratio)

    def _labelled(self, rows: Tensor) -> float | None:
        """Return the share of labelled samples where a batch comes in parts, which may differ."""
        if self.settings.accumulate == 1:
            return None
        known = int(labelled(self.lesson.kind, self.lesson.views.labels[rows]).sum())
        return known / len(rows) if known else None

    def _loss(self, rows: Tensor, moment: Moment) -> Tensor:
        lesson, mode, device = self.lesson, self.bench.mode, self.accelerator.device
        view = lesson.views.index(self.state.epoch)
        batch, labels = lesson.views.view(view).take(rows)
        word = lesson.word(view, rows, batch)
        with autocast(mode, device):
            output = self.prepared(*(placed(tensor, mode, device) for tensor in batch.values()))
        output, features = output if lesson.hints else (output, ())
        answer = Answer(logits_of(output), features)
        return lesson.loss(answer, word, labels.to(device), self.settings.label_smoothing, moment)

    def _report_and_save(self) -> None:
        state, total = self.state, self._total()
        done = state.epoch * self.steps + state.step
        text = f"epoch {state.epoch + 1}/{self.settings.epochs}"
        if state.curve:
            text += f", validation {state.curve[-1].validation:.4f}"
        due = time.monotonic() - self.saved >= CHECKPOINT_SECONDS
        if due and self.bench.checkpoint is not None and self.accelerator.is_main_process:
            write_checkpoint(self.bench.checkpoint, state, self.module, self.optimizer)
            self.saved = time.monotonic()
        self.bench.tick(text, done, total)


class _NotFiniteError(Exception):
    """Say what was not finite in a step."""


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from: `torch.manual_seed`, but quick.

    That one also prepares seeds for devices that are not there, at a third of a small step's time.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def sample_order(available: int, wanted: int, seed: int, epoch: int) -> Tensor:
    """Return `wanted` row numbers: whole permutations of the samples, one after another.

    >>> sorted(sample_order(3, 6, seed=0, epoch=1).tolist())
    [0, 0, 1, 1, 2, 2]
    """
    rounds = math.ceil(wanted / available)
    orders = [torch.randperm(available, generator=generator(seed, epoch, r)) for r in range(rounds)]
    return torch.cat(orders)[:wanted]


def require_rows_for_all(batch: int, processes: int) -> None:
    """Raise TrainingError if a batch leaves a process without samples."""
    if batch < processes:
        raise TrainingError(
            f"training: a batch of {batch} samples for {processes} processes; expected one sample "
            "or more for each; give a larger batch_size, or start fewer processes"
        )


def require_trainable(module: nn.Module) -> None:
    """Raise TrainingError if no parameter can learn."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise TrainingError(
            "student: all of its parameters are frozen; expected some with requires_grad; "
            "unfreeze what should learn"
        )


def make_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the recipe's optimizer; vectors (biases, norms) carry no weight decay."""
    require_trainable(module)
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=0.9, nesterov=True, fused=True
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def logits_of(output: Any) -> Tensor:
    """Return the logits of a network's answer: the tensor itself or its `.logits`."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise TrainingError(
            f"network: it returned {type(output).__name__}; expected one tensor of logits "
            "(batch, classes), or an object with `.logits`"
        )
    return logits


def placed(tensor: Tensor, mode: Mode, device: torch.device) -> Tensor:
    """Return a batch where and how the network wants it."""
    if mode.channels_last and tensor.ndim == 4:
        return tensor.to(device, memory_format=torch.channels_last)
    return tensor.to(device)


def autocast(mode: Mode, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context that runs a forward pass in the mode's precision."""
    if mode.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def computing(mode: Mode) -> Iterator[None]:
    """Use the mode's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(mode.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cause(module: nn.Module, loss: float) -> str:
    if not math.isfinite(loss):
        return "the loss is not finite"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name} is not finite"
    return "the gradient's norm is not finite"
