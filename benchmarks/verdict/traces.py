"""Keep recorded sets of processes: every sample of every process, small enough for git.

One npz file a set, named MODEL-CONDITION-NUMBER.npz. Times are whole tenths of a microsecond;
`others` is the share of all cores' time that work outside the measurement took meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import LatencySamples, Measurement, Quantiles

FOLDER = Path(__file__).with_name("traces")
TICK_MS = 1e-4
CONDITIONS = {"idle": 0, "one": 1, "two": 2}  # busy neighbours


@dataclass(frozen=True)
class Trace:
    """Hold one set: the measurement, when it began (Unix time), what else the machine did."""

    model: str
    condition: str
    number: int
    measurement: Measurement
    started: float
    others: float


def path_of(model: str, condition: str, number: int, folder: Path = FOLDER) -> Path:
    return folder / f"{model}-{condition}-{number:02d}.npz"


def save(trace: Trace, folder: Path = FOLDER) -> None:
    """Write a set; a kill at any instant leaves the whole file or none."""
    processes = trace.measurement.processes
    columns = {
        "wall": np.concatenate([_ticks(p.wall_ms) for p in processes]),
        "waited": np.concatenate([_ticks(p.waited_ms) for p in processes]),
        "calls": np.array([len(p.wall_ms) for p in processes], np.uint16),
        "reference": np.concatenate([_ticks(p.reference_ms) for p in processes]),
        "looks": np.array([len(p.reference_ms) for p in processes], np.uint16),
        "warmup_calls": np.array([p.warmup_calls for p in processes], np.uint32),
        "cold_start_ms": np.array([p.cold_start_ms for p in processes], np.float32),
        "peak_memory_bytes": np.array([p.peak_memory_bytes for p in processes], np.int64),
        "load_memory_bytes": np.array([p.load_memory_bytes for p in processes], np.int64),
        "about": np.array([trace.started, trace.others]),
        "host": np.array(trace.measurement.host),
    }
    final = path_of(trace.model, trace.condition, trace.number, folder)
    partial = final.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **columns)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(final)


def load(path: Path) -> Trace:
    """Read a set back as the measurement that it was."""
    model, condition, number = path.stem.rsplit("-", 2)
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    walls, waits, references = (
        np.split(columns[name] * TICK_MS, np.cumsum(columns[lengths].astype(int))[:-1])
        for name, lengths in (("wall", "calls"), ("waited", "calls"), ("reference", "looks"))
    )
    processes = tuple(
        LatencySamples(
            wall_ms=tuple(wall.tolist()),
            waited_ms=tuple(waited.tolist()),
            warmup_calls=int(columns["warmup_calls"][i]),
            cold_start_ms=float(columns["cold_start_ms"][i]),
            peak_memory_bytes=int(columns["peak_memory_bytes"][i]),
            load_memory_bytes=int(columns["load_memory_bytes"][i]),
            reference_ms=tuple(reference.tolist()),
        )
        for i, (wall, waited, reference) in enumerate(zip(walls, waits, references, strict=True))
    )
    started, others = columns["about"].tolist()
    found = as_measurement(processes, str(columns["host"]))
    return Trace(model, condition, int(number), found, started, others)


def as_measurement(processes: tuple[LatencySamples, ...], host: str = "") -> Measurement:
    """Return what these processes are together; the judge reads the processes alone."""
    unused = Quantiles(*[float("nan")] * 4)
    return Measurement(processes, unused, unused, float("nan"), 0, threads=1, batch=1, host=host)


def _ticks(times_ms: tuple[float, ...]) -> NDArray[np.uint32]:
    return np.rint(np.asarray(times_ms) / TICK_MS).astype(np.uint32)
