"""Write every sample that a measurement took, for whoever wants to look for themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgecompress.errors import UsageError
from edgecompress.measuring.sustained import Sustained
from edgecompress.records import Candidate
from edgecompress.store import write_atomic

Calls = Iterator[tuple[str, ArrayLike, ArrayLike]]


def refuse_unwritable(path: Path | None) -> None:
    """Refuse a `--raw` that cannot or should not be written, before anything is measured."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--raw {path}: is a folder, expected a file to write")
    if path.suffix != ".npz":  # it may be a model, for whoever takes this for a flag
        raise UsageError(f"--raw {path}: expected a file to write, its name ending in .npz")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(f"--raw {path}: {folder} is no folder that can be written to")


def calls_of(candidates: Sequence[Candidate]) -> Calls:
    """Yield each process: its name, the wall time of its calls, what each waited for a core."""
    for candidate in candidates:
        cost = candidate.device or candidate.measurement
        for number, found in enumerate(cost.processes if cost else ()):
            yield f"{candidate.label}.{number}", found.wall_ms, found.waited_ms


def calls_of_run(label: str, run: Sustained) -> Calls:
    """Yield the one process of a long run, as `calls_of` does."""
    yield f"{label}.0", run.running_ms + run.waited_ms, run.waited_ms


def write_raw(path: Path, calls: Calls) -> None:
    """Write an npz file with `LABEL.PROCESS.wall_ms` and `.waited_ms` for each process."""
    arrays: dict[str, Any] = {
        f"{name}.{what}_ms": np.asarray(values)
        for name, wall, waited in calls
        for what, values in (("wall", wall), ("waited", waited))
    }
    held = BytesIO()
    np.savez_compressed(held, **arrays)
    write_atomic(path, held.getvalue())
