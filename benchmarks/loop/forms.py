"""Train the same students from soft targets kept as fp32, fp16 and top-K; print what that costs.

    python benchmarks/loop/forms.py [--seeds 10]

scikit-learn's digits, a residual net as the teacher, a perceptron of 2,410 parameters as the
student. The teacher is trained once, then every form teaches one student for each seed;
differences to fp32 are paired by seed. Accuracy is that of the test split.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from loops import perceptron

from edgecompress.builtin import digits_task
from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import score
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.students.image import ResidualNet
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher

FORMS = ("fp32", "fp16", "top-5", "top-3", "top-1")


def taught(task: Task, teacher: CheckedTeacher, form: str, seed: int) -> tuple[float, str, int]:
    """Return a student's test accuracy, what its soft targets lost, and their bytes."""
    settings = DistillSettings(
        epochs=40, learning_rate=5e-3, precision="fp32", views=8, soft_targets=form
    )
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(seed=seed, soft_folder=Path(name))
        arm = train_arm("distilled", perceptron(64, 32, 10), task, settings, bench, teacher)
        kept = sum(file.stat().st_size for file in Path(name).glob("*.npy"))
    return score(arm.module, task, "test").metric.value, arm.note, kept


def main() -> None:
    """Print a table: a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    task = digits_task()
    torch.manual_seed(0)
    settings = TrainSettings(epochs=15, learning_rate=5e-3, precision="fp32")
    made = train_arm("teacher", ResidualNet(1, 10, (24,), (1,)), task, settings)
    teacher = as_teacher(made.module, task.class_names)
    print(f"teacher: {score(made.module, task, 'test').metric.value:.4f} on the test split\n")
    print("| form | bytes a view | accuracy | against fp32, paired | of the first seed |")
    print("|---|--:|--:|--:|---|")
    exact = np.zeros(len(seeds))
    for form in FORMS:
        runs = [taught(task, teacher, form, seed) for seed in seeds]
        found = np.array([accuracy for accuracy, _, _ in runs])
        exact = found if form == "fp32" else exact
        gain, error = (found - exact).mean(), (found - exact).std(ddof=1) / len(seeds) ** 0.5
        against = "" if form == "fp32" else f"{100 * gain:+.2f} ± {100 * error:.2f} points"
        note = runs[0][1].partition(": ")[2]
        print(
            f"| {form} | {runs[0][2] // 8} | {found.mean():.4f} | {against} | {note} |", flush=True
        )


if __name__ == "__main__":
    main()
