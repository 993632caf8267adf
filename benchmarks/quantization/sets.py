"""The five sets on which int8 is judged: each with its task, its calibration and its test samples.

DATA is a folder with one folder a set, as `benchmarks/tasks/README.md` lists them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecompress import Split, Task
from edgecompress.tasks.load import load_task
from edgecompress.verifying.golden import evenly

ROOT = Path(__file__).parents[2]
# The task that made each set's student, and its data below DATA; `-larger` is a larger student.
SETS = {
    "fashion_mnist": (
        "examples/fashion_mnist/fashion_mnist.py:task",
        "fashion_mnist/fashion_mnist.npz",
    ),
    "cifar10": ("benchmarks/tasks/cifar10.py:task", "cifar10"),
    "fsdd": ("examples/spoken_digits/spoken_digits.py:task", "fsdd/fsdd.npz"),
    "har_phone": ("benchmarks/tasks/har_phone.py:task", "har_phone"),
    "banking77": ("benchmarks/tasks/intents.py:task", "banking77"),
    "cifar10-larger": ("benchmarks/tasks/cifar10.py:task", "cifar10"),
    "fsdd-larger": ("benchmarks/tasks/fsdd.py:task", "fsdd"),
    "har_phone-larger": ("benchmarks/tasks/har_phone.py:task", "har_phone"),
    "banking77-larger": ("benchmarks/tasks/intents.py:in_order", "banking77"),
}
SMALL = ("fashion_mnist", "cifar10", "fsdd", "har_phone", "banking77")
# Fashion-MNIST's student is the same in both: it is no small one.
LARGER = ("fashion_mnist", *(f"{name}-larger" for name in SMALL[1:]))
CALIBRATION, SEED = 512, 0


def load_set(name: str, data: Path) -> Task:
    """Return the task of a set, read from the folder DATA."""
    spec, below = SETS[name]
    return load_task(spec, ROOT, data / below)


def calibration_of(task: Task, samples: int = CALIBRATION, seed: int = SEED) -> Split:
    """Return the training samples that a run with this seed would calibrate with."""
    rows = np.random.default_rng(seed).permutation(len(task.train))
    return task.train.take(np.sort(rows[:samples]))


def test_of(task: Task, most: int | None = None) -> Split:
    """Return the test split, or `most` evenly spaced samples of it."""
    return task.test.take(evenly(len(task.test), most))
