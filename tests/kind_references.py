"""The losses of labels, numbers, vectors and tokens once more, from their formulas, in numpy alone.

Sample by sample and of analytic operations only, as in `loss_references`, whose complex step gives
the derivatives.
"""

from collections.abc import Sequence

import loss_references as ref
import numpy as np
from loss_references import Array
from numpy.typing import NDArray

Labels = NDArray[np.float64]


def log_sigmoid(z: Array) -> Array:
    """Return log(1 / (1 + exp(-z))), by whichever of two equal forms has no large exponential."""
    plain, turned = np.where(z.real > 0, z, 0), np.where(z.real > 0, 0, z)
    return np.where(z.real > 0, -np.log1p(np.exp(-plain)), turned - np.log1p(np.exp(turned)))


def labels_kd(student: Array, teacher: Array, temperature: float) -> complex:
    each = []
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        yes, no = log_sigmoid(t), log_sigmoid(-t)
        each.append(
            (np.exp(yes) * (yes - log_sigmoid(s)) + np.exp(no) * (no - log_sigmoid(-s))).sum()
        )
    return complex(np.mean(each)) * temperature**2


def labels_multi(student: Array, teacher: Array, temperatures: Sequence[float]) -> complex:
    return complex(np.mean([labels_kd(student, teacher, t) for t in temperatures]))


def labels_nll(student: Array, labels: Labels, smoothing: float = 0.0) -> complex:
    each = []
    for z, y in zip(student, labels, strict=True):
        target = (1 - smoothing) * y + smoothing / 2
        each.append(-(target * log_sigmoid(z) + (1 - target) * log_sigmoid(-z)).sum())
    return complex(np.mean(each))


def squared(student: Array, wanted: Array, variance: Labels) -> complex:
    each = [((s - w) ** 2 / variance).mean() for s, w in zip(student, wanted, strict=True)]
    return complex(np.mean(each))


def cosine(student: Array, wanted: Array) -> complex:
    def length(v: Array) -> complex:
        return complex(np.sqrt((v * v).sum()))

    pairs = zip(student, wanted, strict=True)
    return complex(np.mean([1 - (s * w).sum() / (length(s) * length(w)) for s, w in pairs]))


def tokens_nll(student: Array, labels: NDArray[np.int64], smoothing: float = 0.0) -> complex:
    """Return the mean over samples of the mean over a sample's tokens; axes: sample, class, token.

    -100 does not count.
    """
    each = []
    for z, told in zip(student, labels, strict=True):
        counting = [at for at in range(len(told)) if told[at] != -100]
        each.append(ref.nll(z.T[counting], told[counting], smoothing))
    return complex(np.mean(each))


def tokens_soft(
    student: Array, teacher: Array, labels: NDArray[np.int64], how: str, temperature: float
) -> complex:
    each = []
    for s, t, told in zip(student, teacher, labels, strict=True):
        counting = [at for at in range(len(told)) if told[at] != -100] or list(range(len(told)))
        ours, theirs = s.T[counting], t.T[counting]
        match how:
            case "kd":
                each.append(ref.kd(ours, theirs, temperature))
            case "standardized":
                each.append(ref.standardized(ours, theirs, temperature))
            case "mse":
                each.append(ref.mse(ours, theirs))
            case _:
                each.append(ref.multi(ours, theirs, (2.0, 3.0, 4.0, 5.0, 6.0)))
    return complex(np.mean(each))
