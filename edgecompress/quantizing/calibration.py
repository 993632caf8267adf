"""Calibration data: enough, varied and finite, or refused; handed out in bounded batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader

from edgecompress.errors import DataError
from edgecompress.tasks.task import Arrays

_MIN_SAMPLES = 16
_MIN_VARYING_CHANNELS = 0.99
_MIN_VARYING_FEATURES = 0.5  # of a feature vector, where some columns may rightly never change
_BATCH = 64


def calibration_sample(calibration: Arrays, model: ModelProto, count: int) -> Arrays:
    """Return `count` evenly spaced samples of each input; raise DataError if they cannot serve."""
    constants = {tensor.name for tensor in model.graph.initializer}
    wanted = [value.name for value in model.graph.input if value.name not in constants]
    if missing := [name for name in wanted if name not in calibration]:
        raise DataError(
            f"quantize: no calibration data for the model's input {missing[0]!r}; "
            f"given: {', '.join(calibration) or 'none'}"
        )
    total = min(len(calibration[name]) for name in wanted)
    rows = np.linspace(0, total - 1, min(count, total)).astype(np.intp)
    if len(rows) < _MIN_SAMPLES:
        raise DataError(
            f"quantize: {len(rows)} calibration samples, at least {_MIN_SAMPLES} needed; give more "
            "training data, raise quantize.calibration_samples, or set quantize.schemes to dynamic"
        )
    sample = {name: np.ascontiguousarray(calibration[name][rows]) for name in wanted}
    for name, array in sample.items():
        _check_variety(name, array)
    return sample


def _check_variety(name: str, array: NDArray[np.generic]) -> None:
    """Raise DataError when calibration data are not finite or hardly vary between samples.

    A channel is a position of axis 1, and varies if any of its values differs between samples.
    Integers (categories, tokens) only have to differ somewhere.
    """
    if not array.size:
        raise DataError(f"quantize: calibration input {name!r} has shape {array.shape}: no values")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"quantize: calibration input {name!r} holds values that are not finite")
    differs = (array != array[:1]).any(axis=0)
    channels = differs.reshape(differs.shape[0], -1).any(axis=1) if differs.ndim else differs
    share = float(channels.mean())
    if array.dtype.kind != "f":
        needed = 1.0 / max(channels.size, 1)
    else:
        needed = _MIN_VARYING_CHANNELS if array.ndim > 2 else _MIN_VARYING_FEATURES
    if share < needed:
        raise DataError(
            f"quantize: only {share:.0%} of the channels of calibration input {name!r} vary over "
            f"{len(array)} samples, expected at least {needed:.0%}; give real, varied training data"
        )


class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Hand calibration data to the quantizer, one batch a range, in its calling convention.

    A `model` that fixes its batch is fed that many samples at a time.
    """

    def __init__(self, inputs: Arrays, model: ModelProto | None = None) -> None:
        self._inputs = inputs
        self._samples = len(next(iter(inputs.values())))
        self._fixed = _fixed_batch(model) if model is not None else 0
        self._batch = self._fixed or _BATCH
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return -(-self._samples // self._batch)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Point at the batches from `start_index` up to before `end_index`."""
        self._batches = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the next batch, or None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        rows = np.arange(batch * self._batch, (batch + 1) * self._batch)
        last = self._samples - 1  # repeated where the model fixes its batch
        rows = np.minimum(rows, last) if self._fixed else rows[rows <= last]
        return {name: array[rows] for name, array in self._inputs.items()}


def _fixed_batch(model: ModelProto) -> int:
    """Return how many samples the model takes at a time, 0 where it takes any number."""
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = [v.type.tensor_type.shape for v in model.graph.input if v.name not in constants]
    return max((shape.dim[0].dim_value for shape in shapes if shape.dim), default=0)
