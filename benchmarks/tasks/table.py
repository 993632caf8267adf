"""Print what run folders say of the model that ships, beside its teacher's float ONNX file.

python benchmarks/tasks/table.py RUN...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "| set | ships | metric | teacher | shipped | control | kept | teacher bytes | bytes | "
    "smaller | teacher p50 ms | p50 ms | faster |"
)


def row(report: dict[str, Any]) -> str:
    """Return one run as a row of the table."""
    best = next(c for c in report["candidates"] if c["label"] == report["chosen"])
    teacher, control = report["teacher"], report["control"]
    name = next(iter(best["metrics"]))
    ours = best["metrics"][name]["value"]
    theirs = teacher["metrics"][name]["value"] if teacher else None
    fair = f"{control['metrics'][name]['value']:.4f}" if control else "-"
    sizes, times = zip(_costs(teacher), _costs(best), strict=True)
    cells = [
        report["task"], best["label"], name, f"{theirs:.4f}" if theirs else "-", f"{ours:.4f}",
        fair, f"{ours / theirs:.1%}" if theirs else "-",
        *_compared(*sizes, ",.0f"), *_compared(*times, ".4f"),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _costs(candidate: dict[str, Any] | None) -> tuple[float | None, float | None]:
    """Return bytes and median latency; None for a teacher that is no ONNX file."""
    if candidate is None:
        return None, None
    host = candidate.get("host") or {}
    return candidate["size_bytes"], (host.get("latency_ms") or {}).get("p50")


def _compared(theirs: float | None, ours: float | None, form: str) -> tuple[str, str, str]:
    """Return both values and how many times the teacher's is ours."""
    times = f"{theirs / ours:.1f}x" if theirs and ours else "-"
    return *(format(v, form) if v else "-" for v in (theirs, ours)), times


def main(folders: list[str]) -> None:
    """Print a row for each run folder."""
    print(HEAD, "|---|---|---|" + "--:|" * 10, sep="\n")
    for folder in folders:
        print(row(json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(sys.argv[1:])
