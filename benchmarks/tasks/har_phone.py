"""Activities from a phone in the pocket: 0.64 s of accelerometer and gyroscope, five classes.

Data: Matey-Sanz, Casteleyn, Granell 2023, Data in Brief 109809 (CC BY 4.0). People 1 to 12 train,
13 to 15 choose, 16 to 23 test: nobody stands on two sides.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgecompress import Split, Task
from edgecompress.students.sequence import sensor_net
from edgecompress.students.stacking import perceptron
from edgecompress.tasks.loaders import read_npz
from edgecompress.tasks.task import Arrays

CLASSES = ("seated", "standing up", "walking", "turning", "sitting down")
LENGTH, PURE = 64, 0.8  # samples at 100 Hz, and the share of a window that is one activity
STEP, TRAIN_STEP = 32, 8
VALIDATION_FROM, TEST_FROM, FEW_PEOPLE = 13, 16, 2


def task(data: Path, labelled: int = VALIDATION_FROM - 1) -> Task:
    """Read `har_phone.npz` in the folder `data`; only the first `labelled` people have labels."""
    path = data / "har_phone.npz"
    recorded = read_npz(path, ["samples", "label", "offsets", "subject"])
    people = recorded["subject"]
    in_train = people < VALIDATION_FROM
    scale = _scale(recorded, in_train)

    def split(chosen: NDArray[np.bool_], step: int) -> Split:
        windows, labels = _windows(recorded, np.flatnonzero(chosen), step)
        return Split({"motion": (windows - scale[0]) / scale[1]}, labels, (path,))

    known = in_train & (people <= labelled)
    pool = in_train & ~known
    return Task(
        name="har_phone",
        train=split(known, TRAIN_STEP),
        unlabelled=replace(split(pool, TRAIN_STEP), labels=None) if pool.any() else None,
        validation=split(~in_train & (people < TEST_FROM), STEP),
        test=split(people >= TEST_FROM, STEP),
        teacher=lambda: sensor_net(6, len(CLASSES), width=2.0),
        student=student,
        class_names=CLASSES,
    )


def few_labels(data: Path) -> Task:
    """Return the task with labels of few people, the windows of the others an unlabelled pool."""
    return task(data, labelled=FEW_PEOPLE)


def student() -> nn.Module:
    """Return a network without convolutions."""
    return nn.Sequential(nn.Flatten(), perceptron(6 * LENGTH, (24, 24), len(CLASSES)))


def _scale(recorded: Arrays, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return mean and deviation of each channel, shape (2, 6, 1), over the chosen recordings."""
    counts = np.diff(recorded["offsets"])
    samples = recorded["samples"][np.repeat(chosen, counts)]
    return np.stack([samples.mean(axis=0), samples.std(axis=0)])[:, :, None].astype(np.float32)


def _windows(
    recorded: Arrays, which: NDArray[np.intp], step: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut recordings into windows (count, 6, LENGTH) of which one activity fills the most."""
    windows, labels = [], []
    for place in which:
        start, end = recorded["offsets"][place : place + 2]
        for first in range(start, end - LENGTH + 1, step):
            counts = np.bincount(recorded["label"][first : first + LENGTH], minlength=len(CLASSES))
            if counts.max() >= PURE * LENGTH:
                windows.append(recorded["samples"][first : first + LENGTH].T)
                labels.append(int(counts.argmax()))
    return np.stack(windows).astype(np.float32), np.array(labels, dtype=np.int64)
