"""Run one recipe with several seeds and print what ships against its teacher.

    python benchmarks/seeds.py --seeds 0 1 2 3 4 --profile android-cpu [RECIPE] [--set KEY=VALUE]

Each seed is a full `edgecompress run` in a folder of its own, kept under --out, so that a stopped
benchmark goes on where it was. Scores are those of the test split.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

COLUMNS = ("seed", "verdict", "ships", "teacher", "shipped", "control", "kept", "bytes", "p50", "s")


def main() -> None:
    """Run the seeds and print a table with their mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--profile", default="android-cpu")
    parser.add_argument("--out", type=Path, default=Path("seeds"))
    parser.add_argument("--set", action="append", default=[])
    asked = parser.parse_args()
    rows = [run_seed(seed, asked) for seed in asked.seeds]
    print(table(rows))


def run_seed(seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Run one seed and return its row."""
    overrides = [word for value in (f"seed={seed}", *asked.set) for word in ("--set", value)]
    recipe = [asked.recipe] if asked.recipe else []
    command = ["edgecompress", "run", *recipe, "--profile", asked.profile, *overrides]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--out", str(asked.out / f"seed-{seed}"), "--json"],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1, 3):
        sys.exit(f"seed {seed}: `{' '.join(command)}` ended with {done.returncode}")
    return row(json.loads(done.stdout), seed, time.monotonic() - started)


def row(report: dict[str, Any], seed: int, seconds: float) -> dict[str, Any]:
    """Return what one report says of the model that ships, beside its teacher."""
    best = next(c for c in report["candidates"] if c["label"] == report["chosen"])
    teacher, control = report["teacher"], report["control"]
    score = {k: c["metrics"]["accuracy"]["value"] for k, c in (("b", best), ("t", teacher))}
    return {
        "seed": seed,
        "verdict": report["verdict"],
        "ships": report["chosen"],
        "teacher": score["t"],
        "shipped": score["b"],
        "control": control["metrics"]["accuracy"]["value"] if control else None,
        "kept": score["b"] / score["t"],
        "bytes": teacher["size_bytes"] / best["size_bytes"],
        "p50": teacher["host"]["latency_ms"]["p50"] / best["host"]["latency_ms"]["p50"],
        "s": seconds,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows and their mean as a Markdown table."""
    lines = [" | ".join(COLUMNS), " | ".join("--:" for _ in COLUMNS)]
    averages = {
        name: mean(r[name] for r in rows)
        for name in COLUMNS[3:]
        if all(r[name] is not None for r in rows)
    }
    for entry in (*rows, {"seed": "mean", "verdict": "", "ships": "", **averages}):
        lines.append(" | ".join(written(name, entry.get(name)) for name in COLUMNS))
    return "\n".join(f"| {line} |" for line in lines)


def written(name: str, value: Any) -> str:
    """Return one figure as text: scores in percent, ratios as factors, time in seconds."""
    if value is None or isinstance(value, str | int):
        return str(value if value is not None else "-")
    if name in ("bytes", "p50"):
        return f"{value:.1f}x"
    return f"{value:.0f}" if name == "s" else f"{value:.2%}"


if __name__ == "__main__":
    main()
