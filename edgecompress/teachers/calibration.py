"""Make a teacher's certainty honest: one temperature, kept only where held-out data gains by it.

A teacher that is too sure has little to say beside its answer; one that is too modest blurs it.
Dividing its logits by one temperature (`CheckedTeacher.temperature`) changes no answer and repairs
most of either (Guo, Pleiss,
Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgecompress.statistics import paired_drop

LOWEST, HIGHEST = 0.01, 100.0
FOLDS = 5
ERROR = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Hold what one temperature does for a teacher on samples that it was not fitted to.

    `gain` is how much the negative log-likelihood falls (nats an answer), `low` and `high` its
    one-sided 95 % bounds. `temperature` is fitted to all samples. `held_out` are the logits of
    each sample divided by the temperature that the other folds gave: what to judge it by.
    """

    temperature: float
    gain: float
    low: float
    high: float
    mistakes: int
    held_out: Floats = field(repr=False)

    @property
    def helps(self) -> bool:
        """Return whether the gain is real: beyond noise, and known from five mistakes or more.

        A teacher without a mistake looks as if it could never be sure enough.
        """
        return self.low > 0 and self.mistakes >= FOLDS


def calibrate(
    logits: NDArray[Any],
    labels: NDArray[Any],
    samples: NDArray[np.intp] | None = None,
    seed: int = 0,
) -> Calibration:
    """Return what one temperature would do for logits, shape (answers, classes).

    `samples` numbers the sample that each answer was given for, where one sample has several: they
    stay in one fold, and the gain is a mean over samples. These must be ones that the teacher was
    not trained on. The gain is measured on each of five folds with the temperature that the other
    four give. Needs at least five samples.
    """
    wide = np.asarray(logits, dtype=np.float64)
    names, of = np.unique(np.arange(len(wide)) if samples is None else samples, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[of]
    held_out = wide.copy()
    for part in range(FOLDS):
        others = fold != part
        held_out[~others] /= fit_temperature(wide[others], labels[others])
    before, after = (
        np.bincount(of, negative_log_likelihood(z, labels)) / np.bincount(of)
        for z in (wide, held_out)
    )
    gain, low, high = paired_drop(before, after, ERROR)
    mistakes = int((wide.argmax(axis=1) != labels).sum())
    return Calibration(fit_temperature(wide, labels), gain, low, high, mistakes, held_out)


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the temperature, 0.01 to 100, at which the labels are likeliest.

    The mean negative log-likelihood is convex in the inverse temperature b, and its slope there is
    `mean(sum_c softmax(b z)_c z_c - z_label)`, which rises: halving finds its zero.

    >>> round(fit_temperature(np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])), 3)
    3.641
    """
    z = torch.as_tensor(np.asarray(logits, dtype=np.float64))
    own = z.gather(1, torch.as_tensor(np.asarray(labels, dtype=np.int64))[:, None])[:, 0]
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)
    for _ in range(40):
        middle = (low + high) / 2
        expected = (torch.softmax(z * np.exp(middle), dim=1) * z).sum(dim=1)
        low, high = (middle, high) if float((expected - own).mean()) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def negative_log_likelihood(logits: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return each sample's negative log-likelihood in nats."""
    logs = torch.log_softmax(torch.as_tensor(np.asarray(logits, dtype=np.float64)), dim=1)
    own = logs.gather(1, torch.as_tensor(np.asarray(labels, dtype=np.int64))[:, None])
    found: Floats = -own[:, 0].numpy()
    return found
