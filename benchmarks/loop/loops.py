"""Time the training loop beside one written by hand for the very same step.

    python benchmarks/loop/loops.py [--seconds 12]

Both train the same student on the same samples with the same batches, losses, optimizer, warm-up
and clipping, in float32 on one thread. They take turns, one training each, so that whatever else
the machine does hits both; times are the processor's for this process, and the figure is the
median of the ratios of neighbouring ones. The same is done with soft targets that are kept, and
with a teacher that is asked for each view anew.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.augmentations import Noise
from edgecompress.distilling.loop import Bench
from edgecompress.recipe import DistillSettings
from edgecompress.students.image import ResidualNet
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher

BATCH, CLASSES, T, WEIGHT = 128, 10, 4.0, 0.9
SETTINGS = DistillSettings(
    batch_size=BATCH, precision="fp32", learning_rate=2e-3, temperature=T,
    kd_weight=WEIGHT, views=1,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Hold what is trained: a name, the shape of a sample, and the two networks."""

    name: str
    shape: tuple[int, ...]
    samples: int
    epochs: int
    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module]

    @property
    def steps(self) -> int:
        """Return the steps of one training."""
        return self.epochs * (self.samples // BATCH)

    def task(self) -> Task:
        """Return random samples with random labels: speed does not depend on what they say."""
        rng = np.random.default_rng(0)

        def split(rows: int) -> Split:
            x = rng.normal(size=(rows, *self.shape)).astype(np.float32)
            return Split({"x": x}, rng.integers(0, CLASSES, rows))

        names = tuple(map(str, range(CLASSES)))
        few = split(CLASSES)
        return Task(self.name, split(self.samples), few, few, self.teacher, self.student, names)


@dataclass(frozen=True)
class Times:
    """Hold the seconds of a training, and those of a step: the first, which sets up, left out."""

    whole: float
    step: float


def perceptron(*widths: int) -> nn.Module:
    """Return a perceptron of these widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    for one, other in itertools.pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


CASES = (
    Case("perceptron 64-64-32-10", (64,), 6400, 10, lambda: perceptron(64, 64, 32, 10),
         lambda: perceptron(64, 1024, 1024, 10)),
    Case("residual net 16 x 8 x 8", (1, 8, 8), 2560, 4, lambda: ResidualNet(1, 10, (16,), (1,)),
         lambda: ResidualNet(1, 10, (48,), (2,))),
    Case("residual net 16-32 x 28 x 28", (1, 28, 28), 1280, 2,
         lambda: ResidualNet(1, 10, (16, 32), (1, 1)),
         lambda: ResidualNet(1, 10, (32, 64), (2, 2))),
)  # fmt: skip


def ours(case: Case, task: Task, teacher: CheckedTeacher, folder: Path, views: int = 1) -> Times:
    """Train with edgecompress; `views` as in a recipe."""
    torch.manual_seed(0)
    settings = SETTINGS.model_copy(update={"epochs": case.epochs, "views": views})
    times = [time.process_time()]

    def tick(text: str, done: int, total: int) -> None:
        if text.startswith("epoch"):
            times.append(time.process_time())

    bench = Bench(soft_folder=folder, tick=tick)
    train_arm("distilled", case.student(), task, settings, bench, teacher)
    return Times(times[-1] - times[0], (times[-1] - times[1]) / (case.steps - 1))


def by_hand(case: Case, task: Task, soft: Tensor) -> Times:
    """Train with the shortest loop that takes the same steps."""
    torch.manual_seed(0)
    times = [time.process_time()]
    student = case.student()
    x = torch.from_numpy(task.train.inputs["x"])
    y = torch.from_numpy(np.asarray(task.train.labels))
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    matrices = [p for p in student.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=2e-3,
    )
    steps, total = len(x) // BATCH, case.steps
    student.train()
    for epoch in range(case.epochs):
        order, summed = torch.randperm(len(x)), 0.0
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            done = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, (done + 1) / max(1, round(0.05 * total)))
                group["lr"] *= 0.5 * (1 + math.cos(math.pi * done / total))
            logits = student(x[rows])
            kd = F.kl_div(
                F.log_softmax(logits / T, dim=1), F.log_softmax(soft[rows] / T, dim=1),
                reduction="batchmean", log_target=True,
            )  # fmt: skip
            loss = WEIGHT * T * T * kd + (1 - WEIGHT) * F.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            summed += loss.item()
            times.append(time.process_time())
    return Times(times[-1] - times[0], (times[-1] - times[1]) / (total - 1))


def step_and_answer(case: Case, task: Task, teacher: CheckedTeacher, soft: Tensor) -> float:
    """Return how many student steps, taken by hand, one answer of the teacher to a batch lasts."""
    batch = {"x": torch.from_numpy(task.train.inputs["x"][:BATCH])}
    answers, steps = [], []
    for _ in range(3):
        started = time.process_time()
        teacher.logits(batch)
        answers.append(time.process_time() - started)
        steps.append(by_hand(case, task, soft).step)
    return median(answers) / median(steps)


def turns(one: Callable[[], float], other: Callable[[], float], seconds: float) -> list[float]:
    """Return the ratios other / one of trainings that take turns, each with both neighbours."""
    one(), other()  # what is made once is made now
    ratios, before, end = [], one(), time.monotonic() + seconds
    while time.monotonic() < end or len(ratios) < 4:
        between, after = other(), one()
        ratios.append(2 * between / (before + after))
        before = after
    return ratios


def row(case: Case, seconds: float) -> str:
    """Return one case's line of the table."""
    task = case.task()
    teacher = as_teacher(case.teacher(), task.class_names)
    soft = teacher.logits({"x": torch.from_numpy(task.train.inputs["x"])})
    fresh = replace(task, augment=Noise("x", 0.1))
    step = by_hand(case, task, soft).step
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed = turns(
            lambda: ours(case, task, teacher, folder).step,
            lambda: by_hand(case, task, soft).step,
            seconds,
        )
        cache = turns(
            lambda: ours(case, fresh, teacher, folder).whole,
            lambda: ours(case, fresh, teacher, folder, views=0).whole,
            seconds,
        )
    share = step_and_answer(case, task, teacher, soft)
    figures = [f"{1e3 * step:.2f} ms", _spread(speed), f"{share:.2f}", _spread(cache)]
    return f"| {case.name} | " + " | ".join(figures) + " |"


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} turns)"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each comparison")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="one case alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| student | step by hand | by hand / ours | teacher / step | online / kept |")
    print("|---|--:|--:|--:|--:|")
    for case in CASES if asked.case is None else [CASES[asked.case]]:
        print(row(case, asked.seconds), flush=True)


if __name__ == "__main__":
    main()
