"""Parity: does the ONNX model say what its reference says, on real samples, at any batch size?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import ModelError
from edgecompress.records import Kind, OnnxModel, Parity
from edgecompress.runtime import run, session
from edgecompress.tasks.inspection import agreement, has_classes
from edgecompress.tasks.task import Arrays

_BATCHES = (1, 3)  # a batch size baked in by an exporter fails at one of them


@dataclass(frozen=True)
class Tolerance:
    """Say how far from its reference a model may lie.

    `max_rel_error` is relative to the reference's largest magnitude; None where rounding is the
    point (int8) and the share of the same answers, `agreement`, decides: of numbers their R2, of
    vectors their cosine. `any_batch` asks that the model takes any number of samples.
    """

    max_rel_error: float | None
    agreement: float
    any_batch: bool = True


FLOAT = Tolerance(max_rel_error=1e-4, agreement=0.999)
INT8 = Tolerance(max_rel_error=None, agreement=0.9)


def check_parity(
    reference: NDArray[Any],
    model: OnnxModel,
    inputs: Arrays,
    reference_name: str,
    tolerance: Tolerance = FLOAT,
    kind: Kind | None = None,
) -> Parity:
    """Compare the model's outputs on `inputs` with `reference`, shape (samples, ...).

    `kind` is the task's; without one, outputs (samples, classes) are taken for those of classes.

    Runs all samples at once and the first few one by one and three by three. A model that cannot
    run so, answers in another shape or not in finite numbers does not pass; the reason says why.
    """
    try:
        outputs = (
            _outputs_in_all_batches(model, inputs) if tolerance.any_batch else run(model, inputs)
        )
    except ModelError as error:
        return _failed(reference_name, 0, str(error))
    samples = len(outputs)
    if outputs.shape != reference.shape:
        return _failed(
            reference_name, samples, f"outputs {outputs.shape}, {reference_name} {reference.shape}"
        )
    for name, values in ((reference_name, reference), ("the model", outputs)):
        if bad := int((~np.isfinite(values)).any(axis=_features(values)).sum()):
            return _failed(
                reference_name, samples, f"{name} is not finite on {bad} of {samples} samples"
            )
    return _compare(reference, outputs, reference_name, tolerance, kind)


def _compare(
    reference: NDArray[Any],
    outputs: NDArray[Any],
    reference_name: str,
    tolerance: Tolerance,
    kind: Kind | None,
) -> Parity:
    expected = reference.astype(np.float64)
    error = float(np.abs(outputs - expected).max(initial=0.0))
    relative = error / max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    agreed = _agreement(expected, outputs, kind)
    reasons = []
    if tolerance.max_rel_error is not None and relative > tolerance.max_rel_error:
        reasons.append(f"relative error {relative:.2g} > {tolerance.max_rel_error:g}")
    # Of float numbers the error says it all: R2 would judge noise where they hardly vary.
    if agreed < tolerance.agreement and (_chooses(kind) or tolerance.max_rel_error is None):
        reasons.append(_disagreement(agreed, tolerance.agreement, kind))
    return Parity(
        reference=reference_name,
        samples=len(outputs),
        max_abs_error=error,
        max_rel_error=relative,
        agreement=agreed,
        passed=not reasons,
        reason="; ".join(reasons) or f"agrees with {reference_name}",
    )


def _outputs_in_all_batches(model: OnnxModel, inputs: Arrays) -> NDArray[Any]:
    """Return the outputs for all samples; raise ModelError if a batch of 1 or 3 cannot run."""
    for tensor in session(model.path).get_inputs():
        if tensor.shape and isinstance(tensor.shape[0], int):
            raise ModelError(f"batch size fixed to {tensor.shape[0]} in input {tensor.name!r}")
    for batch in _BATCHES:
        few = {name: array[:batch] for name, array in inputs.items()}
        if len(run(model, few, batch=batch)) != len(next(iter(few.values()))):
            raise ModelError(f"a batch of {batch} does not give {batch} outputs")
    return run(model, inputs)


def _agreement(reference: NDArray[Any], outputs: NDArray[Any], kind: Kind | None) -> float:
    """Return the share of the same answers, R2 of numbers or the cosine of vectors, 0 to 1.

    Without a kind 1 for what cannot be classes.
    """
    if (reference == outputs).all():
        return 1.0
    if kind is None:
        if reference.ndim < 2 or reference.shape[-1] < 2:
            return 1.0
        return float(np.mean(reference.argmax(axis=-1) == outputs.argmax(axis=-1)))
    every = np.zeros((len(outputs), *outputs.shape[2:]))  # no token is left out
    return max(0.0, agreement(kind, outputs, reference, every))


def _chooses(kind: Kind | None) -> bool:
    return kind is None or has_classes(kind)


def _disagreement(agreed: float, wanted: float, kind: Kind | None) -> str:
    if not _chooses(kind):
        what = "cosine of its vectors" if kind == "embedding" else "R2 of its numbers"
        return f"{what} {agreed:.3f} < {wanted:g}"
    match kind:
        case "binary" | "multilabel":
            return f"same labels on {agreed:.1%} < {wanted:.1%} of samples"
        case "tokens":
            return f"same top class on {agreed:.1%} < {wanted:.1%} of tokens"
        case _:
            return f"same top class on {agreed:.1%} < {wanted:.1%} of samples"


def _features(values: NDArray[Any]) -> tuple[int, ...]:
    return tuple(range(1, values.ndim))


def _failed(reference_name: str, samples: int, reason: str) -> Parity:
    worst = float("inf")
    return Parity(reference_name, samples, worst, worst, 0.0, passed=False, reason=reason)
