"""Record real sets of twenty fresh processes, by the product's own `measure`.

    python benchmarks/verdict/record.py [--seconds 105] [--rounds 7]

Four models (see models.py), on a machine that is idle, has one or two busy neighbours: processes
that are bound to no core, half of their time in the interpreter, half going through 8 MB. Models
and conditions take turns, so that a machine that changes meets all alike. Stops before `--seconds`
would be exceeded and goes on where it stopped when started again; a kill loses the set in progress.
Exits 3 while there is more to record.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from models import SIZES, build
from others import OTHERS
from traces import CONDITIONS, FOLDER, Trace, path_of, save

from edgecompress.measuring.latency import measure
from edgecompress.recipe import MeasureSettings

PROCESSES = 20
EXPECTED_S = {"50ms": 46.0}  # a set, at the most
USUALLY_S = 20.0
NEIGHBOUR = """
import os, sys, time
import numpy
block = numpy.ones(1_000_000)
while os.getppid() == int(sys.argv[1]):  # ends with its parent
    stop = time.perf_counter() + 0.005
    while time.perf_counter() < stop:
        block *= 1.0000001
    for _ in range(100_000):
        pass
"""


def main() -> None:
    """Record what is missing, as long as it may take."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=float, default=float("inf"))
    asked.add_argument("--rounds", type=int, default=7)
    given = asked.parse_args()
    end = time.monotonic() + given.seconds
    FOLDER.mkdir(exist_ok=True)
    for condition, number, model in _plan(given.rounds):
        if path_of(model, condition, number).exists():
            continue
        expected = EXPECTED_S.get(model, USUALLY_S) * (2 if condition == "two" else 1)
        if time.monotonic() + expected > end:
            sys.exit(3)
        with busy(CONDITIONS[condition]):
            record(model, condition, number)


def _plan(rounds: int) -> Iterator[tuple[str, int, str]]:
    """Yield the sets in turn; two neighbours and other kinds of models every other round."""
    for number in range(rounds):
        conditions = ("idle", "one", "two") if number % 2 == 0 else ("one", "idle")
        for condition in conditions:
            for model in SIZES:
                yield condition, number // 2 if condition == "two" else number, model
            if number % 2 and condition != "two":
                yield from ((condition, number // 2, model) for model in OTHERS)


def record(name: str, condition: str, number: int) -> None:
    """Measure one set and keep it."""
    model, inputs = build(name, Path(tempfile.gettempdir()) / "edgecompress-trial-models")
    started, before = time.time(), _busy_ticks()
    own = sum(os.times()[2:4])
    settings = MeasureSettings(processes=(PROCESSES,))
    found = measure({name: model}, {name: inputs}, settings)[name]
    ticks = _busy_ticks() - before
    own = sum(os.times()[2:4]) - own
    available = (time.time() - started) * (os.cpu_count() or 1)
    others = ticks / os.sysconf("SC_CLK_TCK") - own
    trace = Trace(name, condition, number, found, started, others / available)
    save(trace)
    print(
        f"{time.strftime('%H:%M:%S')} {name} {condition} {number}: "
        f"p50 {found.latency_ms.p50:.4f} p95 {found.latency_ms.p95:.4f} ms, "
        f"{time.time() - started:.0f} s, others {trace.others:.1%}",
        flush=True,
    )


@contextlib.contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """Keep so many other processes busy meanwhile."""
    command = [sys.executable, "-c", NEIGHBOUR, str(os.getpid())]
    running = [subprocess.Popen(command) for _ in range(neighbours)]
    time.sleep(0.5 if running else 0)
    try:
        yield
    finally:
        for neighbour in running:
            neighbour.kill()
            neighbour.wait()


def _busy_ticks() -> int:
    """Return the time that all cores together have spent busy, or taken by the hypervisor."""
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]  # but for idle and waiting for disks


if __name__ == "__main__":
    main()
