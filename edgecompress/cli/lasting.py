"""Show how a model's latency holds up while it runs on and on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from edgecompress.cli.models import OpenModel
from edgecompress.cli.show import table
from edgecompress.errors import UsageError
from edgecompress.measuring.sustained import (
    Slowdown,
    Sustained,
    Window,
    not_read,
    slowdown,
    sustain,
    windows,
)
from edgecompress.measuring.targets.machine import machine_of
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.report import words
from edgecompress.report.document import Json
from edgecompress.report.record import relative_to_folder

SHOWN = 10  # windows in the table
KEPT = 100  # and at most so many in the document
BAR = 24  # characters of the longest bar
TITLES = {"steady": "STEADY", "slower": "SLOWER", "open": "NOT CLEAR"}


def run_on(
    models: Sequence[OpenModel],
    seconds: float,
    threads: int,
    say: Callable[[str], None],
    target: Target = HOST,
) -> Sustained:
    """Return the run of the one model, on this host or on `target`."""
    if len(models) != 1:
        raise UsageError(f"--sustained: runs one model at a time, given {len(models)}")
    (model,) = models
    machine = machine_of(target)
    return sustain(
        model.label, model.facts.model, model.inputs, seconds, threads, say, machine=machine
    )


def render_run(label: str, run: Sustained) -> str:
    """Return the run for people: whether it held up, and ten windows with a bar each."""
    trend = slowdown(run)
    calls = len(run.running_ms)
    parts = windows(run, SHOWN)
    longest = max((w.p95_ms for w in parts), default=1.0)
    head = ("seconds", "calls", "p50 ms", "p95 ms", "wall p95", "waited", "MHz", "deg C", "")
    digits = 0 if run.seconds >= 60 else 1
    rows = [head, *(_row(w, longest, digits) for w in parts)]
    return "\n".join(
        [
            f"{TITLES[trend.trend]}: {label} ran {calls:,} times in {run.seconds:.0f} s: "
            f"{trend.reason}",
            "",
            table(rows, right=range(8)),
            "",
            f"# to the p50, - to the p95 (the longest: {words.number(longest)} ms)",
        ]
    )


def _row(window: Window, longest: float, digits: int) -> tuple[str, ...]:
    p50, p95 = (round(BAR * value / longest) for value in (window.p50_ms, window.p95_ms))
    return (
        f"{window.start_s:.{digits}f} to {window.end_s:.{digits}f}",
        f"{window.calls:,}",
        words.number(window.p50_ms),
        words.number(window.p95_ms),
        words.number(window.wall_p95_ms),
        f"{window.waited_ratio:.0%}",
        words.NOTHING if window.clock_mhz is None else f"{window.clock_mhz:.0f}",
        words.NOTHING if window.temperature_c is None else f"{window.temperature_c:.0f}",
        "#" * p50 + "-" * max(0, p95 - p50),
    )


def run_json(model: OpenModel, run: Sustained, batch: int) -> Json:
    """Return the run as JSON-ready data: the trend, and the windows it was read from."""
    trend: Slowdown = slowdown(run)
    file = model.facts.model
    kept = windows(run, max(SHOWN, min(KEPT, int(run.seconds))))
    return {
        "schema_version": 1,
        "model": {
            "label": model.label,
            "path": relative_to_folder(file.path, Path.cwd()).as_posix(),
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
        },
        "sustained": {
            "seconds": run.seconds,
            "calls": len(run.running_ms),
            "threads": run.threads,
            "batch": batch,
            "machine": run.machine,
            "trend": trend.trend,
            "slowdown_ratio": trend.value,
            "low": trend.low,
            "high": trend.high if trend.high < float("inf") else None,
            "reason": trend.reason,
            "not_known": list(not_read(run)),
            "throttled": list(run.throttled),
            "windows": [asdict(window) for window in kept],
        },
    }
