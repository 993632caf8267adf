"""What is learned, by whom, and from which data. It runs as it is: put your own in its place."""

import numpy as np

from edgecompress import Split, Task
from edgecompress.students.image import ResidualNet

CLASSES = ("flat", "rising", "upright", "falling")  # in the order of the labels


def gratings(samples: int, seed: int) -> Split:
    """Draw noisy 16 x 16 stripes at four angles, in the place of your own images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), samples)
    angle = (labels * np.pi / 4)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (samples, 1, 1))
    y, x = np.mgrid[:16, :16]
    stripes = np.sin(0.8 * (x * np.sin(angle) + y * np.cos(angle)) + phase)
    images = (stripes + rng.normal(0, 2.5, stripes.shape))[:, None].astype(np.float32)
    return Split(inputs={"image": images}, labels=labels)


def task() -> Task:
    """Return the task: three splits that share no sample, a large network and a small one."""
    return Task(
        name="gratings",
        train=gratings(4000, seed=0),
        validation=gratings(1000, seed=1),
        test=gratings(2000, seed=2),
        class_names=CLASSES,
        teacher=lambda: ResidualNet(1, 4, widths=(32, 64), blocks=(1, 1)),
        student=lambda: ResidualNet(1, 4, widths=(16, 32), blocks=(1, 1)),
    )
