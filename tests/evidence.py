"""Evidence to judge by, made up for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgecompress.records import (
    Evaluation,
    LatencySamples,
    Measurement,
    Metric,
    OnnxModel,
    Quantiles,
)

MODEL = OnnxModel(Path("/m.onnx"), "0" * 64, 2_000_000)


def evaluation(scores: Sequence[float], higher_is_better: bool = True) -> Evaluation:
    mean = float(np.mean(scores))
    metric = Metric("accuracy", mean, mean, mean, "validation", higher_is_better)
    return Evaluation(metric, tuple(scores))


def measured(
    running: Sequence[np.ndarray], waited: float = 0.0, uncontrolled: tuple[str, ...] = ()
) -> Measurement:
    """Return a measurement of these calls, each of which waited `waited` ms besides."""
    samples = tuple(
        LatencySamples(tuple(r + waited), (waited,) * len(r), 10, 50.0, 30_000_000, 20_000_000)
        for r in running
    )
    q = Quantiles(*(float(np.quantile(running[0], x)) for x in (0.5, 0.9, 0.95, 0.99)))
    return Measurement(samples, q, q, 50.0, 30_000_000, 1, 1, "host", uncontrolled)
