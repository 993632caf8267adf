"""Distillation: a student learns from its teacher, beside a control that has only the labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecompress.distilling.hints import Hints, require_torch
from edgecompress.distilling.lesson import Lesson
from edgecompress.distilling.loop import Bench, computing, logits_of, train_
from edgecompress.distilling.losses import Loss
from edgecompress.distilling.tuning import choice_in_words, tuned
from edgecompress.distilling.views import SoftTargets, task_views, tensors
from edgecompress.errors import TrainingError
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.records import EpochPoint, Evaluation, SplitName, Trial
from edgecompress.statistics import paired_drop
from edgecompress.tasks.checks import check_task, check_teacher_outputs
from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.task import Arrays, Task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits

DISTILLED, CONTROL = "distilled", "control"


@dataclass(frozen=True)
class TrainedArm:
    """Hold one trained arm: the network, its validation score and its curve."""

    name: str
    module: nn.Module
    evaluation: Evaluation
    curve: tuple[EpochPoint, ...]


@dataclass(frozen=True)
class Distilled:
    """Hold both arms of a distillation, and which of them goes on and why."""

    arms: tuple[TrainedArm, ...]
    shipped: str
    reason: str
    trials: tuple[Trial, ...] = ()

    @property
    def module(self) -> nn.Module:
        """Return the network that goes on."""
        return next(arm.module for arm in self.arms if arm.name == self.shipped)


def distill(
    student: nn.Module,
    teacher: object,
    task: Task,
    settings: DistillSettings = DistillSettings(),
    bench: Bench = Bench(),
    loss: Loss | None = None,
) -> Distilled:
    """Train `student` from `teacher`, and its hard-label control, and keep the better one.

    `teacher` is whatever `as_teacher` takes: a torch module, an estimator, an ONNX file.
    Both arms start from the same weights and see the same number of samples in the same order,
    augmented alike. The arguments are left as they were. Data and teacher are checked first, as
    `check_task` and `check_teacher_outputs` do. `loss` takes the place of the recipe's losses: any
    function (student_logits, teacher_logits, labels) -> a scalar. With `settings.tune`, short
    trials choose temperature and weight first. Each training has a checkpoint of its own name.
    """
    bench = bench if loss is None else replace(bench, loss=loss)
    check_task(task)
    asked = as_teacher(teacher, task.class_names)
    check_teacher_outputs(task, predict_logits(asked, task.validation.inputs))

    def train(name: str, lesson: DistillSettings, training: str) -> TrainedArm:
        return train_arm(name, student, task, lesson, bench.keeping(training), asked)

    settings, trials = tuned(
        settings,
        lambda short: (
            train(DISTILLED, short, f"trial-{short.temperature}-{short.kd_weight}").evaluation
        ),
    )
    arms = tuple(train(name, settings, name) for name in (DISTILLED, CONTROL))
    shipped, reason = pick_arm({arm.name: arm.evaluation for arm in arms})
    return Distilled(arms, shipped, choice_in_words(trials) + reason, trials)


def train_arm(
    name: str,
    network: nn.Module,
    task: Task,
    settings: TrainSettings,
    bench: Bench = Bench(),
    teacher: CheckedTeacher | None = None,
) -> TrainedArm:
    """Train a copy of `network` as one arm: `distilled` asks the teacher, every other does not.

    A pool of unlabelled samples is shown to the distilled arm; the others see as many samples,
    all labelled.
    """
    module = copy.deepcopy(network)
    lesson = _lesson(name, task, settings, bench, teacher)
    with computing(bench.mode):
        curve = train_(
            module, lesson, settings, lambda m: score(m, task, "validation").metric.value, bench
        )
    module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module.eval()
    return TrainedArm(name, module, score(module, task, "validation"), curve)


def _lesson(
    name: str,
    task: Task,
    settings: TrainSettings,
    bench: Bench,
    teacher: CheckedTeacher | None,
) -> Lesson:
    pooled = isinstance(settings, DistillSettings) and task.unlabelled is not None
    extra = len(task.unlabelled) if pooled and task.unlabelled is not None else 0
    samples = len(task.train) + extra
    if name != DISTILLED or not isinstance(settings, DistillSettings):
        return Lesson(task_views(task, settings.views, bench.seed, pool=False), samples)
    if teacher is None:
        raise TrainingError("distill: no teacher was given; the distilled arm needs one")
    if extra and settings.loss == "dkd":
        raise TrainingError(
            "distill.loss: 'dkd' needs the label of every sample, but the task has unlabelled "
            'ones; take loss = "kd"'
        )
    views = task_views(task, settings.views, bench.seed, pool=True)
    autocast = bench.mode.precision == "bf16"
    if settings.features is not None:
        require_torch(teacher)
        hints = Hints(teacher, settings.features, bench.seed, autocast)
        return Lesson(views, samples, settings, hints=hints, own=bench.loss)
    soft = SoftTargets(teacher, views, bench.soft_folder, autocast, bench.tick)
    return Lesson(views, samples, settings, soft, own=bench.loss)


def pick_arm(evaluations: Mapping[str, Evaluation]) -> tuple[str, str]:
    """Return the arm to keep, judged on validation, and whether distillation helped, in words."""
    distilled, control = evaluations[DISTILLED], evaluations[CONTROL]
    gain, low, high = paired_drop(distilled.scores, control.scores)
    if not distilled.metric.higher_is_better:
        gain, low, high = -gain, -high, -low
    figure = f"{gain:+.4f} {distilled.metric.name} [{low:+.4f}, {high:+.4f}]"
    if low > 0:
        words = f"distillation helped: {figure} over hard labels alone"
    elif high < 0:
        words = f"distillation hurt: {figure} against hard labels alone"
    else:
        words = f"distillation made no difference that this validation set can show: {figure}"
    shipped = DISTILLED if gain >= 0 else CONTROL
    return shipped, f"{words}; the {shipped} student goes on"


def forward(module: nn.Module, inputs: Arrays, batch: int = 500) -> NDArray[np.float32]:
    """Return the network's outputs on named arrays, in eval mode and float32, without gradients."""
    was_training = module.training
    module.eval()
    whole = tensors(inputs)
    total = len(next(iter(whole.values())))
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    parts = []
    with torch.no_grad():
        for start in range(0, total, batch):
            part = [tensor[start : start + batch].to(device) for tensor in whole.values()]
            parts.append(logits_of(module(*part)).float().cpu().numpy())
    module.train(was_training)
    return np.concatenate(parts)


def score(module: nn.Module, task: Task, split: SplitName) -> Evaluation:
    """Return the task's metric for a network on one split."""
    data = {"train": task.train, "validation": task.validation, "test": task.test}[split]
    return evaluate(task.metric, forward(module, data.inputs), _labels(data.labels), split)


def _labels(labels: NDArray[np.generic] | None) -> NDArray[np.generic]:
    if labels is None:
        raise TrainingError("task: a split to score on has no labels; expected one per sample")
    return labels
