"""The one thing a teacher must do, and what every kind of teacher needs to do it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.errors import TeacherError

# Keeps the logarithm of a probability of zero finite; far below what any loss can tell from zero.
SMALLEST_PROBABILITY = 1e-12


class Teacher(Protocol):
    """Answer a batch of named tensors with logits; the one thing a teacher must do."""

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits (batch, classes), or what the task's kind has in their place."""


def log_probabilities(probabilities: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithms, so that `softmax(log_probabilities(p)) == p`; zero becomes 1e-12.

    >>> log_probabilities(np.array([1.0, 0.0])).round(1).tolist()
    [0.0, -27.6]
    """
    logs: NDArray[Any] = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, None))
    return logs


def log_odds(probabilities: NDArray[Any]) -> NDArray[Any]:
    """Return log(p / (1 - p)), so that `sigmoid(log_odds(p)) == p`; 0 and 1 are 1e-12 from there.

    >>> log_odds(np.array([0.5, 1.0])).round(1).tolist()
    [0.0, 27.6]
    """
    odds: NDArray[Any] = log_probabilities(probabilities) - log_probabilities(1 - probabilities)
    return odds


def are_shares(answer: NDArray[Any]) -> bool:
    """Return whether every number lies in 0..1, as independent probabilities do.

    >>> are_shares(np.array([[0.2, 0.9]])), are_shares(np.array([[0.2, -0.9]]))
    (True, False)
    """
    return bool(((answer >= 0) & (answer <= 1)).all())


def are_probabilities(answer: NDArray[Any], tolerance: float = 0.02) -> bool:
    """Return whether every row sums to one within `tolerance`, by default as an int8 softmax does.

    >>> are_probabilities(np.array([[0.2, 0.8]])), are_probabilities(np.array([[1.2, -0.2]]))
    (True, False)
    """
    if answer.ndim != 2 or answer.dtype.kind != "f" or (answer < 0).any():
        return False
    return bool((np.abs(answer.sum(axis=1, dtype=np.float64) - 1) < tolerance).all())


def column_order(
    known: Iterable[object], class_names: tuple[str, ...], whose: str
) -> tuple[int, ...]:
    """Return which of the `known` classes stands for each class name, in the names' order.

    Whole numbers are indices of the class names; anything else is matched by name. `whose` says
    whose classes they are. Raises TeacherError where they are not the same classes.
    """
    keys = [class_key(c) for c in known]
    for wanted in (list(range(len(class_names))), list(class_names)):
        if len(keys) == len(wanted) and set(keys) == set(wanted):
            return tuple(keys.index(key) for key in wanted)
    unseen = set(keys) < set(class_names) or set(keys) < set(range(len(class_names)))
    remedy = "; a teacher of some of the classes stands in ClassSubsets" if unseen else ""
    raise TeacherError(
        f"teacher: {whose} {len(keys)} classes ({listed(keys)}); expected the {len(class_names)} "
        f"class names ({listed(class_names)}) or their indices 0..{len(class_names) - 1}{remedy}"
    )


def class_key(value: object) -> object:
    """Return 1 for 1, 1.0 and True, and text for everything that is no whole number."""
    if isinstance(value, bool | int | float) and float(value).is_integer():
        return int(value)
    return str(value)


@contextlib.contextmanager
def named(inputs: Mapping[str, Tensor], teacher: str = "") -> Iterator[None]:
    """Turn what a foreign model raises into one line that names the inputs it was given."""
    try:
        yield
    except TeacherError:
        raise
    except Exception as error:  # foreign code: each library has exceptions of its own
        given = ", ".join(
            f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            for name, t in inputs.items()
        )
        raise TeacherError(
            f"teacher{' ' + teacher if teacher else ''}: failed on {given}: {reason(error)}"
        ) from error


def listed(values: Any) -> str:
    """Return the first few of some values, as a message shows them."""
    return ", ".join(map(str, list(values)[:4])) + (", ..." if len(values) > 4 else "")


def reason(error: BaseException) -> str:
    """Return what a foreign error says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"
