"""Work out the figures that every rendering shows: medians and shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Candidate, LatencySamples, Measurement, Metric


def final_metric(candidate: Candidate | None) -> Metric | None:
    """Return the score on the test split where that was read, else on validation."""
    if candidate is None:
        return None
    found = candidate.evaluation("test") or candidate.evaluation("validation")
    found = found or next(iter(candidate.evaluations), None)
    return found.metric if found else None


def net_ms(samples: LatencySamples) -> NDArray[np.float64]:
    """Return a process's call times with the waiting for a core taken out, in milliseconds."""
    wall = np.asarray(samples.wall_ms, dtype=np.float64)
    with np.errstate(over="ignore"):  # what overflows is not finite and falls out below
        net = wall - np.nan_to_num(np.asarray(samples.waited_ms, dtype=np.float64))
    return net[np.isfinite(net)]


def process_medians(measurement: Measurement) -> tuple[float, ...]:
    """Return the median call time of each process, in milliseconds."""
    samples = (net_ms(process) for process in measurement.processes)
    return tuple(float(np.median(found)) for found in samples if len(found))


def median_pace(measurement: Measurement) -> float | None:
    """Return how many times as long as usual the machine took meanwhile, None where not known."""
    return None if measurement.pace is None else float(np.median(measurement.pace))


def load_memory_bytes(measurement: Measurement) -> int | None:
    """Return the median over processes of the memory that opening the model took."""
    loads = [process.load_memory_bytes for process in measurement.processes]
    return round(float(np.median(loads))) if loads else None


def samples_per_s(call_ms: float, batch: int) -> float | None:
    """Return how many samples a second calls of this length and batch work off.

    >>> samples_per_s(4.0, 8)
    2000.0
    """
    return 1e3 * batch / call_ms if call_ms > 0 else None


def removed_ratio(before: int, after: int) -> float:
    """Return the share that is gone.

    >>> removed_ratio(200, 150), removed_ratio(0, 0)
    (0.25, 0.0)
    """
    return 1 - after / before if before else 0.0
