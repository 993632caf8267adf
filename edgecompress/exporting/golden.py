"""Golden calls: inputs that travel with a model, and what it answered to them here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import ModelError
from edgecompress.records import OnnxModel
from edgecompress.runtime import main_output, session
from edgecompress.tasks.task import Arrays

FILE = "golden.bin"


@dataclass(frozen=True)
class Golden:
    """Hold calls of a model, all of the same shapes, and its main output for each.

    `max_rel_error` is how far another device may miss an answer, relative to the largest magnitude
    of them all. The first `texts` calls are those of the golden texts.
    """

    calls: tuple[Arrays, ...]
    answers: tuple[NDArray[Any], ...]
    output: str
    max_rel_error: float
    texts: int = 0

    def to_bytes(self) -> bytes:
        """Return call after call: each input in order, then the answer; little-endian, C order.

        An app reads it with nothing but a loop.
        """
        tensors = (
            array
            for call, answer in zip(self.calls, self.answers, strict=True)
            for array in (*call.values(), answer)
        )
        return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in tensors)

    def described(self) -> dict[str, object]:
        """Return what the manifest says of the file."""
        tensors = [_entry("input", name, array) for name, array in self.calls[0].items()]
        return {
            "file": FILE,
            "calls": len(self.calls),
            "texts": self.texts,
            "tensors": [*tensors, _entry("output", self.output, self.answers[0])],
            "max_rel_error": self.max_rel_error,
        }

    def error_of(self, model: OnnxModel) -> float:
        """Return how far a model misses the answers at most, relative to their magnitude."""
        _, found = answers_of(model, self.calls, model.path.name)
        pairs = list(zip(found, self.answers, strict=True))
        if any(one.shape != other.shape for one, other in pairs):
            return float("inf")
        largest = max(float(np.abs(answer).max()) for answer in self.answers)
        error = max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in pairs)
        return error / max(largest, 1e-12)


def rows_as_calls(samples: Arrays, count: int, rows: int = 1) -> tuple[Arrays, ...]:
    """Return up to `count` calls of `rows` samples each, as an app makes them one by one."""
    whole = min(count, len(next(iter(samples.values()))) // rows)
    return tuple(
        {name: np.ascontiguousarray(a[i * rows : (i + 1) * rows]) for name, a in samples.items()}
        for i in range(whole)
    )


def record(
    model: OnnxModel, calls: Sequence[Arrays], texts: Sequence[Arrays], scheme: str, name: str
) -> Golden:
    """Run the model on every call and keep its answers; calls of golden `texts` come first.

    Raise ModelError, which says `name`, for inputs or answers that are no numbers a file can hold.
    """
    for given, array in calls[0].items():
        if array.dtype.kind not in "fiub" or not array.size:
            raise ModelError(
                f"{name}: input {given!r} is {array.dtype} of shape {array.shape}; golden "
                "inputs must be numbers: bundle the part of the model that starts from numbers"
            )
    every = (*texts, *calls)
    output, answers = answers_of(model, every, name)
    for answer in answers:
        _check_answer(name, output, answer)
    kept = [answer.shape == answers[0].shape for answer in answers]  # shapes that follow the data
    return Golden(
        calls=tuple(call for call, same in zip(every, kept, strict=True) if same),
        answers=tuple(answer for answer, same in zip(answers, kept, strict=True) if same),
        output=output,
        max_rel_error=tolerance_of(scheme),
        texts=len(texts),
    )


def tolerance_of(scheme: str) -> float:
    """Return how far other processors may lie from this one, relative to the largest answer.

    They round and saturate 8-bit products differently, and sum halves in another order.

    >>> tolerance_of("fp32"), tolerance_of("fp16"), tolerance_of("int8-static")
    (0.001, 0.01, 0.05)
    """
    if scheme.startswith("int"):
        return 5e-2
    return 1e-2 if scheme.startswith("fp16") else 1e-3


def answers_of(
    model: OnnxModel, calls: Sequence[Arrays], name: str
) -> tuple[str, tuple[NDArray[Any], ...]]:
    """Return the name of the model's main output and its value for each call.

    Raise ModelError, which says `name`, when that is no tensor or ONNX Runtime refuses a call.
    """
    opened = session(model.path)
    output = main_output(opened)
    if not output.type.startswith("tensor("):
        raise ModelError(
            f"{name}: output {output.name!r} is a {output.type}; a bundle needs a tensor of numbers"
        )
    try:
        answers = tuple(opened.run([output.name], dict(call))[0] for call in calls)
    except Exception as error:  # ONNX Runtime's exceptions have no useful common class
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"{name}: cannot run on the golden inputs: {cause}") from error
    return output.name, answers


def _check_answer(name: str, output: str, answer: NDArray[Any]) -> None:
    if answer.dtype.kind not in "fiub" or not answer.size:
        raise ModelError(
            f"{name}: output {output!r} is {answer.dtype} of shape {answer.shape} on the golden "
            "inputs; a bundle needs an answer in numbers: give other inputs, or bundle the part of "
            "the model that ends in numbers"
        )
    if not np.isfinite(answer).all():
        raise ModelError(
            f"{name}: output {output!r} is not finite on the golden inputs; give others"
        )


def _entry(role: str, name: str, array: NDArray[Any]) -> Mapping[str, object]:
    return {"role": role, "name": name, "type": array.dtype.name, "shape": list(array.shape)}
