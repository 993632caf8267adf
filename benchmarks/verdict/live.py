"""Run `edgecompress check` for real at limits whose right answer is known.

    python benchmarks/verdict/live.py [--out live.jsonl] [--rounds 5]

In each round, for each of four models: thirty quiet processes say what is true; then three checks
at a limit that the true p95 exceeds by 2 % (none may pass), and one at a limit that it keeps by
10 % (to be decided at the first look). Sixty runs at 2 % over in five rounds, about 50 minutes on
a machine that does nothing else. Every answer is appended when it is there, and a run that was
stopped goes on where it was; a truth older than half an hour is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from models import SIZES, build

from edgecompress.measuring.latency import measure
from edgecompress.recipe import MeasureSettings

TRUTH_PROCESSES = 30
FRESH_S = 1800.0
RUNS = {"over": (1.02, 3), "under": (0.90, 1)}  # the true p95 over the limit, runs a round
PROFILE = """
name = "limit"
[device]
description = "this machine"
host = true
[budget]
latency_ms.p95 = {limit!r}
"""
Record = dict[str, Any]


def main() -> None:
    """Do what is missing, then print the summary."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--out", type=Path, default=Path("live.jsonl"))
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for round_, model in ((r, m) for r in range(given.rounds) for m in SIZES):
            for kind, number in _missing(read(given.out), round_, model):
                truth = _truth(given.out, round_, model, Path(folder))
                done = {"kind": kind, "number": number, "round": round_, "model": model}
                append(given.out, done | check(model, truth / RUNS[kind][0], Path(folder)))
    print(summary(read(given.out)))


def _missing(records: list[Record], round_: int, model: str) -> Iterator[tuple[str, int]]:
    done = {
        (r["kind"], r.get("number")) for r in records if (r["round"], r["model"]) == (round_, model)
    }
    for kind, (_, runs) in RUNS.items():
        yield from ((kind, number) for number in range(runs) if (kind, number) not in done)


def _truth(out: Path, round_: int, model: str, folder: Path) -> float:
    """Return the p95 of thirty processes of this round, measured now unless they are fresh."""
    for record in reversed(read(out)):
        known = (record["kind"], record["round"], record["model"]) == ("truth", round_, model)
        if known and time.time() - record["at"] < FRESH_S:
            return float(record["p95"])
    onnx, inputs = build(model, folder)
    settings = MeasureSettings(processes=(TRUTH_PROCESSES,))
    p95 = measure({model: onnx}, {model: inputs}, settings)[model].latency_ms.p95
    append(out, {"kind": "truth", "round": round_, "model": model, "p95": p95, "at": time.time()})
    return p95


def check(model: str, limit: float, folder: Path) -> Record:
    """Run the command; return its check of the p95, its exit code and its time."""
    onnx, inputs = build(model, folder)
    profile, arrays = folder / "limit.toml", folder / "inputs.npz"
    profile.write_text(PROFILE.format(limit=limit))
    np.savez(arrays, **inputs)
    command = [sys.executable, "-m", "edgecompress", "check", str(onnx.path), "--json"]
    options = ["--profile", str(profile), "--inputs", str(arrays)]
    start = time.monotonic()
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    try:
        answer = json.loads(done.stdout)["checks"][0]
    except (ValueError, LookupError):
        sys.exit(f"check ended with {done.returncode}: {done.stderr.strip()}")
    kept = {name: answer[name] for name in ("limit", "value", "low", "high", "status", "reason")}
    return {**kept, "exit": done.returncode, "seconds": seconds, "at": time.time()}


def append(out: Path, record: Record) -> None:
    """Add one line, wholly or, at a kill, as a torn line that `read` leaves out."""
    torn = out.exists() and not out.read_bytes().endswith(b"\n")
    with out.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(json.dumps(record), file=sys.stderr, flush=True)


def read(out: Path) -> list[Record]:
    """Return every whole record."""
    records = []
    for line in out.read_text().splitlines() if out.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def summary(records: list[Record]) -> str:
    """Return a table: one row a model and a distance from the limit."""
    lines = ["| model | true p95 against the limit | runs | PASS | FAIL | INCONCLUSIVE | s a run |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    for kind, (factor, _) in RUNS.items():
        for model in SIZES:
            those = [r for r in records if (r["kind"], r["model"]) == (kind, model)]
            found = Counter(r["status"] for r in those)
            counts = " | ".join(str(found[s]) for s in ("pass", "fail", "inconclusive"))
            seconds = f"{np.median([r['seconds'] for r in those]):.1f}" if those else "-"
            lines.append(f"| {model} | {factor - 1:+.0%} | {len(those)} | {counts} | {seconds} |")
    under = [r for r in records if r["kind"] == "under"]
    first = sum("over 5 processes" in r["reason"] for r in under)
    wrong = sum(r["kind"] == "over" and r["status"] == "pass" for r in records)
    lines += ["", f"false PASS at 2 % over: {wrong}"]
    lines += [f"decided at the first look at 10 % under: {first} of {len(under)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
