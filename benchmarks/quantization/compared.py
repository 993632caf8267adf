"""What became of one set: every file's score and time, the best of each side, and the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.statistics import paired_drop

OURS, PEER, BEST, FLOAT = "student-", "nncf-", "int8", "fp32"
COMPUTING = ("student-int8-static", "student-int8-dynamic", "student-int8-controlled")
PLAIN, CONTROLLED = "student-int8-static", "nncf-controlled"
POINT, LARGE = 0.005, 1000  # what int8 may lose, and the number of samples from which it is that
SLOWER = 0.03  # what the peer may be faster by
TWO_SIDED = 0.025
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class File:
    """Hold one model file: its samples that are right, its size, its time and its evaluations."""

    label: str
    validation: Hits
    test: Hits
    size_bytes: int
    p50_ms: float
    allowed: bool  # loses no more on validation than is allowed
    said: dict[str, Any]


@dataclass(frozen=True)
class Set:
    """Hold a set's float file and the int8 files of both sides."""

    name: str
    whole: File
    ours: tuple[File, ...]
    peers: tuple[File, ...]
    failed: dict[str, str]

    @property
    def best(self) -> File:
        """Return the best of ours that computes in 8 bits."""
        return best_of([f for f in self.ours if f.label.startswith(COMPUTING)])

    @staticmethod
    def read(folder: Path, name: str) -> Set:
        """Return what run.py has written."""
        times = json.loads((folder / "measured.json").read_text())
        kept = {path.stem: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}
        floor = kept[FLOAT]["validation"]
        said = {p.stem: json.loads(p.read_text()) for p in folder.glob(f"{PEER}*.json")}
        files = {
            label: File(
                label,
                hits["validation"],
                hits["test"],
                (folder / f"{label}.onnx").stat().st_size,
                times[label]["p50_ms"],
                within(floor, hits["validation"]),
                said.get(label, {}),
            )
            for label, hits in kept.items()
        }
        return Set(
            name,
            files[FLOAT],
            tuple(f for f in files.values() if f.label.startswith(OURS)),
            tuple(f for f in files.values() if f.label.startswith(PEER)),
            {label: one["failed"] for label, one in said.items() if "failed" in one},
        )

    def figures(self, best: File) -> dict[str, Any]:
        """Return the figures of the best int8 file."""
        drop, low, high = lost(self.whole, best)
        return {
            "label": best.label,
            "test_samples": len(best.test),
            "accuracy_fp32": float(self.whole.test.mean()),
            "accuracy_int8": float(best.test.mean()),
            "drop": [drop, low, high],
            "p50_ms_fp32": self.whole.p50_ms,
            "p50_ms_int8": best.p50_ms,
        }


def within(whole: Hits, small: Hits) -> bool:
    """Return whether no more is lost than half a point, or one sample where there are few."""
    most = POINT if len(whole) >= LARGE else 1 / len(whole)
    return float(whole.mean() - small.mean()) <= most + 1e-9


def best_of(files: Sequence[File]) -> File:
    """Return the fastest file that loses no more on validation than is allowed.

    Where none does: the one that is most often right there.
    """
    if allowed := [f for f in files if f.allowed]:
        return min(allowed, key=lambda f: f.p50_ms)
    return max(files, key=lambda f: float(f.validation.mean()))


def lost(one: File, other: File) -> tuple[float, float, float]:
    """Return by how much the other is less often right on test, with the paired 95 % interval."""
    return paired_drop(one.test, other.test, TWO_SIDED)


def tables(title: str, sets: Sequence[Set]) -> str:
    """Return the tables of some sets in Markdown."""
    if not sets:
        return ""
    parts = [summary(sets), against(sets), everything(sets)]
    return "\n".join([f"### {title}", *parts])


def summary(sets: Sequence[Set]) -> str:
    """Return the row `int8`: the best int8 file of each set beside its float."""
    rows = [
        "| set | test samples | best int8 | float | int8 | points lost, paired 95 % | "
        "float p50 ms | int8 p50 ms | faster | float bytes | int8 bytes | <= 0.5 lost |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    speeds = []
    for one in sets:
        best = one.best
        speeds.append(one.whole.p50_ms / best.p50_ms)
        cells = [
            one.name, f"{len(best.test):,}", best.label.removeprefix(OURS), right(one.whole),
            right(best), points(lost(one.whole, best)), f"{one.whole.p50_ms:.4f}",
            f"{best.p50_ms:.4f}", f"{speeds[-1]:.2f}x", f"{one.whole.size_bytes:,}",
            f"{best.size_bytes:,}", said(within(one.whole.test, best.test)),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    slower = sum(speed < 1 for speed in speeds)
    rows.append(f"\nMedian speed-up {median(speeds):.2f}x; {slower} of {len(sets)} slower.\n")
    return "\n".join(rows)


def against(sets: Sequence[Set]) -> str:
    """Return the row `against the peer`: the best of both sides, chosen by the same rule."""
    rows = [
        "| set | ours | NNCF's | ours | NNCF's | points that ours has more, paired 95 % | "
        "ours p50 ms | NNCF's p50 ms | ours takes | evaluations | NNCF's | no worse |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for one in (s for s in sets if s.peers):
        ours, theirs = one.best, best_of(one.peers)
        more = lost(ours, theirs)
        ratio = ours.p50_ms / theirs.p50_ms
        fine = more[2] >= 0 and ratio <= 1 + SLOWER
        cells = [
            one.name, ours.label.removeprefix(OURS), theirs.label.removeprefix(PEER),
            right(ours), right(theirs), points(more),
            f"{ours.p50_ms:.4f}", f"{theirs.p50_ms:.4f}", f"{ratio:.2f} of it",
            *evaluations(one), said(fine),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


def evaluations(one: Set) -> tuple[str, str]:
    """Return how many passes over validation, the float model's included, it took to be within.

    Plain int8 is tried first on both sides; ours was never beyond it here, or the cell is empty.
    """
    plain = next((f for f in one.ours if f.label == PLAIN), None)
    theirs = next((f for f in one.peers if f.label == CONTROLLED), None)
    mine = "2" if plain is not None and plain.allowed else ""
    return mine, str(theirs.said["full_evaluations"]) if theirs else ""


def everything(sets: Sequence[Set]) -> str:
    """Return every file of every set, failures included."""
    rows = [
        "| set | file | validation | test | points lost, paired 95 % | p50 ms | faster | bytes | "
        "full evaluations |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in sets:
        for file in (one.whole, *one.ours, *one.peers):
            cells = [
                one.name, file.label, f"{file.validation.mean():.2%}", right(file),
                points(lost(one.whole, file)), f"{file.p50_ms:.4f}",
                f"{one.whole.p50_ms / file.p50_ms:.2f}x", f"{file.size_bytes:,}",
                str(file.said.get("full_evaluations") or ""),
            ]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
        rows += [f"| {one.name} | {label} | failed: {why} |" for label, why in one.failed.items()]
    return "\n".join([*rows, ""])


def right(file: File) -> str:
    """Return how often a file is right on test."""
    return f"{file.test.mean():.2%}"


def points(interval: Sequence[float]) -> str:
    """Return a drop with its bounds, in points."""
    drop, low, high = (100 * value for value in interval)
    return f"{drop:+.2f} ({low:+.2f} to {high:+.2f})"


def said(fine: bool) -> str:
    """Return the answer, a failure so that it is seen."""
    return "yes" if fine else "**no**"
