"""The distillation losses once more, straight from their papers, in numpy alone.

Written for clarity: sample by sample, in float64, and of analytic operations only, so that a
complex step gives each derivative to the last digit: f'(x) = Im f(x + ih) / h with h = 1e-30
(Squire, Trapp 1998, "Using Complex Variables to Estimate Derivatives of Real Functions").
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.complex128]
STEP = 1e-30


def derivatives(
    f: Callable[[Array], complex], x: NDArray[np.float64], places: Sequence[tuple[int, ...]]
) -> NDArray[np.float64]:
    """Return the partial derivatives of `f` at `x` by the elements at `places`."""
    found = []
    for place in places:
        moved = x.astype(np.complex128)
        moved[place] += 1j * STEP
        found.append(f(moved).imag / STEP)
    return np.array(found)


def log_softmax(z: Array) -> Array:
    shifted = z - z.real.max()
    return shifted - np.log(np.exp(shifted).sum())


def kl(teacher: Array, student: Array) -> complex:
    p, q = log_softmax(teacher), log_softmax(student)
    return complex((np.exp(p) * (p - q)).sum())


def nll(student: Array, labels: NDArray[np.int64], smoothing: float = 0.0) -> complex:
    each = []
    for z, label in zip(student, labels, strict=True):
        target = np.full(len(z), smoothing / len(z))
        target[label] += 1 - smoothing
        each.append(-(target * log_softmax(z)).sum())
    return complex(np.mean(each))


def kd(student: Array, teacher: Array, temperature: float) -> complex:
    each = [kl(t / temperature, s / temperature) for s, t in zip(student, teacher, strict=True)]
    return complex(np.mean(each)) * temperature**2


def entropy_form(
    student: Array, teacher: Array, labels: NDArray[np.int64], a: float, temperature: float
) -> complex:
    each = [
        -(np.exp(log_softmax(t / temperature)) * log_softmax(s / temperature)).sum()
        for s, t in zip(student, teacher, strict=True)
    ]
    return nll(student, labels) + a * complex(np.mean(each))


def dkd(
    student: Array,
    teacher: Array,
    labels: NDArray[np.int64],
    temperature: float,
    alpha: float,
    beta: float,
) -> complex:
    """Follow equations 3 to 7: the binary pair (p, 1 - p), and p-hat among the others."""
    each = []
    for s, t, label in zip(student / temperature, teacher / temperature, labels, strict=True):
        rest_s, rest_t = np.delete(s, label), np.delete(t, label)
        pair_s, pair_t = (
            np.array([z[label], rest.real.max() + np.log(np.exp(rest - rest.real.max()).sum())])
            for z, rest in ((s, rest_s), (t, rest_t))
        )
        each.append(alpha * kl(pair_t, pair_s) + beta * kl(rest_t, rest_s))
    return complex(np.mean(each)) * temperature**2


def dist(student: Array, teacher: Array, temperature: float, beta: float, gamma: float) -> complex:
    q = np.array([np.exp(log_softmax(z / temperature)) for z in student])
    p = np.array([np.exp(log_softmax(z / temperature)) for z in teacher])
    inter = np.mean([1 - pearson(a, b) for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - pearson(a, b) for a, b in zip(q.T, p.T, strict=True)])
    return complex(beta * inter + gamma * intra) * temperature**2


def pearson(a: Array, b: Array, smallest: float = 1e-8) -> complex:
    a, b = a - a.mean(), b - b.mean()
    norms = [np.sqrt((v * v).sum()) for v in (a, b)]
    first, second = (n if n.real > smallest else smallest for n in norms)
    return complex((a * b).sum() / (first * second))


def standardized(student: Array, teacher: Array, temperature: float) -> complex:
    def z_score(z: Array) -> Array:
        centred = z - z.mean()
        return centred / np.sqrt((centred * centred).mean() + 1e-6)

    return kd(
        np.array([z_score(z) for z in student]), np.array([z_score(z) for z in teacher]),
        temperature,
    )  # fmt: skip


def mse(student: Array, teacher: Array) -> complex:
    return complex(((student - teacher) ** 2).mean()) / 2


def multi(student: Array, teacher: Array, temperatures: Sequence[float]) -> complex:
    return complex(np.mean([kd(student, teacher, t) for t in temperatures]))
