"""Ranges of activations that lose the least to rounding and clipping, from their histograms."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from edgecompress.quantizing.calibration import Reader
from edgecompress.tasks.task import Arrays

_BINS = 2048  # on both sides of 0 together: at least four for each of 256 levels
_SHARES = np.linspace(1.0, 0.1, 91).tolist()  # of a range's side, that are tried
_ROUNDS = 2

Histograms = dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]


def least_error_ranges(
    prepared: Path, calibration: Arrays, operators: Collection[str]
) -> dict[str, tuple[float, float]]:
    """Return for each activation of the operators the range of least squared error, by its name."""
    return {
        name: least_error_range(counts, edges)
        for name, (counts, edges) in _histograms(prepared, calibration, operators).items()
    }


def least_error_range(
    counts: NDArray[np.integer], edges: NDArray[np.floating], levels: int = 256
) -> tuple[float, float]:
    """Return the range (low, high), with 0 in it, whose `levels` steps fit a histogram best.

    Minimises the sum of squares of what rounding and clipping change (Banner et al. 2019,
    arXiv:1810.05723, minimise the same under an assumed distribution), one side after the other.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return 0.0, 0.0
    lowest = min(float(edges[filled[0]]), 0.0)
    highest = max(float(edges[filled[-1] + 1]), 0.0)
    # Where 0 lies inside the bin or at its edge, most of what it counts is a true 0 (of a Relu).
    values = (edges[:-1] + edges[1:])[filled].astype(np.float64) / 2
    values[(edges[filled] <= 0) & (edges[filled + 1] >= 0)] = 0.0
    weights = counts[filled].astype(np.float64)

    def error(ends: tuple[float, float]) -> float:
        low, high = ends
        step = (high - low) / (levels - 1)
        if step <= 0:
            return float(weights @ values**2)
        zero = np.rint(-low / step)
        whole = np.clip(np.rint(values / step) + zero, 0, levels - 1)
        return float(weights @ ((whole - zero) * step - values) ** 2)

    low, high = lowest, highest
    for _ in range(_ROUNDS):
        low, high = min([(low, share * highest) for share in _SHARES], key=error)
        low, high = min([(share * lowest, high) for share in _SHARES], key=error)
    return low, high


def _histograms(prepared: Path, calibration: Arrays, operators: Collection[str]) -> Histograms:
    """Count the values of the operators' activations, a batch at a time."""
    calibrator = create_calibrator(
        prepared,
        list(operators),
        str(prepared.with_name("histograms.onnx")),
        CalibrationMethod.Percentile,
        extra_options={"num_bins": _BINS, "symmetric": False},
    )
    reader = Reader(calibration, onnx.load(prepared))
    for batch in range(len(reader)):
        reader.set_range(batch, batch + 1)
        calibrator.collect_data(reader)
    return {
        name: (found[0], found[1]) for name, found in calibrator.collector.histogram_dict.items()
    }
