"""Compare a model's outputs on two processors, and say whether they lie within the bounds. Pure.

The bounds (arm64 against this host): a float output within 1e-5 of the reference's largest
magnitude; an output of an 8-bit model within one quantization step; the top class the same on
every sample that the reference itself decides by more than the bound. One step is the scale of the
output's last DequantizeLinear. An 8-bit model that ends in floats has no such scale: there a step
is 1/255 of the output's range, as if it were quantized itself. What an x86 without VNNI changes is
reported and fails nothing, for its 8-bit products saturate by design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Kind
from edgecompress.runtime import Arrays
from edgecompress.verifying.steps import Quantization

FLOAT_BOUND = 1e-5
_ROUNDING = 1e-3  # of a step: floats that stand for the same code differ by their own rounding
Status = Literal["pass", "fail", "reported", "skipped", "error"]


@dataclass(frozen=True)
class OutputDifference:
    """Hold how far one output lies from the reference's, over all samples.

    `max_rel_error` is relative to the reference's largest magnitude; `step` is what one
    quantization step is worth, None in a float model. `agreement` is the share of samples with
    the same top class (or label), None where the output is no row of scores; `changed` counts the
    samples whose class is another although the reference decides it by more than the bound.
    `bound` is the relative error allowed in a float model.
    """

    output: str
    samples: int
    max_abs_error: float
    max_rel_error: float
    step: float | None
    agreement: float | None
    changed: int
    problem: str = ""
    bound: float = FLOAT_BOUND

    @property
    def steps(self) -> float | None:
        """Return the largest error in quantization steps."""
        return None if self.step is None else self.max_abs_error / self.step


@dataclass(frozen=True)
class Verification:
    """Hold the answer for one model on one processor; `outputs` is empty where nothing ran."""

    label: str
    isa: str
    processor: str
    status: Status
    reason: str
    outputs: tuple[OutputDifference, ...] = ()

    @property
    def worst(self) -> OutputDifference | None:
        """Return the output that lies farthest off: by a problem, then steps, then error."""
        return max(
            self.outputs,
            key=lambda o: (bool(o.problem), o.steps or 0.0, o.max_rel_error),
            default=None,
        )


def compare(
    reference: Arrays, found: Arrays, quantization: Quantization
) -> tuple[OutputDifference, ...]:
    """Compare each output of `found` with the reference's, both of shape (samples, ...)."""
    return tuple(
        _difference(name, expected, found[name], quantization)
        for name, expected in reference.items()
    )


def judge(differences: Sequence[OutputDifference], bounded: bool) -> tuple[Status, str]:
    """Return the status and its reason; without `bounded` only what no app could use fails."""
    problems = [f"output {d.output!r}: {d.problem}" for d in differences if d.problem]
    if bounded and not problems:
        problems = [words for d in differences for words in _excesses(d)]
    if problems:
        return "fail", "; ".join(problems)
    return ("pass", "within the bounds") if bounded else ("reported", "no bounds apply")


def _difference(
    name: str, expected: NDArray[Any], found: NDArray[Any], quantization: Quantization
) -> OutputDifference:
    samples = len(expected)
    if problem := _problem(expected, found):
        return OutputDifference(name, samples, 0.0, 0.0, None, None, 0, problem)
    kind = expected.dtype.kind
    if kind == "b" or (kind != "f" and expected.dtype.itemsize != 1):  # labels, not numbers
        differs = (expected != found).reshape(samples, -1).any(axis=1)
        changed = int(differs.sum())
        return OutputDifference(name, samples, 0.0, 0.0, None, 1 - changed / samples, changed)
    first, second = expected.astype(np.float64), found.astype(np.float64)
    error, scale = _largest(first - second), _largest(first)
    step = _step(name, expected, quantization)
    allowed = _float_bound(expected.dtype)
    bound = allowed * scale if step is None else step
    agreement, changed = _choices(first, second, bound, quantization.kind)
    relative = error / max(scale, 1e-12)
    return OutputDifference(name, samples, error, relative, step, agreement, changed, bound=allowed)


def _float_bound(dtype: np.dtype[Any]) -> float:
    """Return the relative error allowed in a float output; a half-precision one is coarser.

    >>> _float_bound(np.dtype("float32")), _float_bound(np.dtype("float16"))
    (1e-05, 0.00390625)
    """
    if dtype.kind != "f":
        return FLOAT_BOUND
    return max(FLOAT_BOUND, 4 * float(np.finfo(dtype).eps))


def _problem(expected: NDArray[Any], found: NDArray[Any]) -> str:
    """Return what makes an output useless, whatever its values, or nothing."""
    if expected.shape != found.shape:
        return f"has shape {found.shape} there and {expected.shape} here"
    for where, values in (("there", found), ("here", expected)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
            return f"is not finite {where} on {bad} of {len(values)} samples"
    return ""


def _step(name: str, expected: NDArray[Any], quantization: Quantization) -> float | None:
    if not quantization.int8:
        return None
    if expected.dtype.kind != "f":  # the codes themselves
        return 1.0
    widest = max(float(expected.max(initial=0.0)), 0.0) - min(float(expected.min(initial=0.0)), 0.0)
    return quantization.steps.get(name) or max(widest, 1e-12) / 255


def _choices(
    first: NDArray[np.float64], second: NDArray[np.float64], bound: float, kind: Kind | None
) -> tuple[float | None, int]:
    """Return the share of rows that choose alike, and how many decided ones choose otherwise.

    Numbers and vectors choose nothing; logits of labels choose by their signs; rows of scores, and
    those of tokens on their second axis, by the largest.
    """
    match kind:
        case "regression" | "embedding":
            return None, 0
        case "binary" | "multilabel" if first.size:
            rows = first.reshape(len(first), -1), second.reshape(len(second), -1)
            differs = (rows[0] > 0) != (rows[1] > 0)
            changed = (differs & (np.abs(rows[0]) > bound)).any(axis=1)
            return 1 - float(differs.any(axis=1).mean()), int(changed.sum())
        case "tokens" if first.ndim > 2:
            first, second = (np.moveaxis(v, 1, -1).reshape(-1, v.shape[1]) for v in (first, second))
    if first.ndim != 2 or first.shape[1] < 2:
        return None, 0
    differs = first.argmax(axis=1) != second.argmax(axis=1)
    top = np.sort(first, axis=1)
    decided = top[:, -1] - top[:, -2] > bound
    return 1 - float(differs.mean()), int((differs & decided).sum())


def _largest(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).max(initial=0.0))


def _excesses(found: OutputDifference) -> list[str]:
    """Return in words each bound that an output exceeds."""
    words = []
    if found.steps is not None:
        if found.steps > 1 + _ROUNDING:
            words.append(f"{found.steps:.2f} quantization steps off, 1 allowed")
    elif found.max_rel_error > found.bound:
        words.append(f"relative error {found.max_rel_error:.2g}, {found.bound:g} allowed")
    if found.changed:
        words.append(f"another class or label on {found.changed} of {found.samples} samples")
    return [f"output {found.output!r}: {each}" for each in words]
