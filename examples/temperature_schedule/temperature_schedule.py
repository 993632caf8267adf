"""Does a falling temperature teach better than a constant one? Convolutional nets on 8 x 8 digits.

`task` is what the recipe names. Run as a script, this file trains the student in six ways with
several seeds; all ways share first weights, order of samples and number of steps, seed by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from edgecompress import Task
from edgecompress.builtin import digits_task
from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.choice import CONTROL, DISTILLED
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import forward
from edgecompress.lessons import TemperatureSchedule
from edgecompress.recipe import DistillSettings, load_recipe
from edgecompress.records import Mode
from edgecompress.statistics import paired_drop
from edgecompress.students.image import DepthwiseNet, ResidualNet
from edgecompress.tasks.inspection import negative_log_likelihood
from edgecompress.tasks.metrics import evaluate
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits

Outcomes = dict[str, np.ndarray]

LABELS, FALLING = "hard labels alone", "T from 5 to 1"
WAYS: Mapping[str, float | TemperatureSchedule | None] = {
    LABELS: None,
    "T = 1": 1.0,
    "T = 2.5": 2.5,
    "T = 5": 5.0,
    FALLING: TemperatureSchedule(start=5.0, end=1.0),
    "T from 1 to 5": TemperatureSchedule(start=1.0, end=5.0),
}


def task() -> Task:
    """Return the built-in digits without augmentation, with networks of this example."""
    return replace(
        digits_task(), name="temperature-schedule", teacher=teacher, student=student, augment=None
    )


def teacher() -> nn.Module:
    """Return the untrained teacher, a residual net of 126,010 weights."""
    return ResidualNet(1, 10, widths=(48,), blocks=(3,))


def student() -> nn.Module:
    """Return an untrained student: depthwise separable convolutions, 674 weights."""
    return DepthwiseNet(1, 10, widths=(8, 16), blocks=(1, 1))


def taught(seed: int, digits: Task, asked: CheckedTeacher, settings: DistillSettings) -> Outcomes:
    """Return the test logits of a student trained in each way."""
    bench, outcomes = Bench(seed=seed, mode=Mode(threads=1)), {}
    for way, temperature in WAYS.items():
        asks = settings.model_copy(update={"temperature": temperature} if temperature else {})
        arm = train_arm(DISTILLED if temperature else CONTROL, student, digits, asks, bench, asked)
        outcomes[way] = forward(arm.module, digits.test.inputs)
    return outcomes


def report(digits: Task, outcomes: Sequence[Outcomes], said: np.ndarray) -> None:
    """Print a line a way: means and deviations over the seeds, and what it is to T from 5 to 1."""

    def scores(way: str) -> np.ndarray:
        rows = [evaluate(digits.metric, o[way], digits.test.labels, "test") for o in outcomes]
        return np.array([row.scores for row in rows])

    def nll(logits: np.ndarray) -> float:
        return negative_log_likelihood(digits.kind, logits, digits.test.labels) or 0.0

    right = (said.argmax(axis=1) == digits.test.labels).mean()
    print(f"\n  {'the teacher':18}  accuracy {right:7.2%}           NLL {nll(said):.3f}")
    ours = scores(FALLING)
    for way in WAYS:
        each = scores(way).mean(axis=1)
        line = f"  {way:18}  accuracy {each.mean():7.2%} ({each.std(ddof=1):.2%})"
        line += f"   NLL {np.mean([nll(o[way]) for o in outcomes]):.3f}"
        if way != FALLING:
            gain, low, high = paired_drop(ours.mean(axis=0), scores(way).mean(axis=0))
            better = int((ours.mean(axis=1) > each).sum())
            line += (
                f"   {FALLING} is better by {gain:+.2%} [{low:+.2%}, {high:+.2%}], "
                f"in {better} of {len(each)} seeds"
            )
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="a falling temperature against constant ones")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of the students, instead of the recipe's")
    seeds, epochs = vars(parser.parse_args()).values()
    recipe, digits = load_recipe(Path(__file__).parent / "recipe.toml"), task()
    assert recipe.teacher is not None
    assert recipe.distill is not None
    settings = recipe.distill.model_copy(update={"epochs": epochs or recipe.distill.epochs})
    learned = train_arm("teacher", teacher, digits, recipe.teacher, Bench(mode=Mode(threads=1)))
    asked = as_teacher(learned.module, digits.class_names)
    outcomes = []
    for seed in range(seeds):
        outcomes.append(taught(seed, digits, asked, settings))
        print(f"seed {seed} is done", flush=True)
    report(digits, outcomes, predict_logits(asked, digits.test.inputs))


if __name__ == "__main__":
    main()
