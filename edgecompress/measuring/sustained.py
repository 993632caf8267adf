"""Run one model on and on, and see whether it slows down: heat, a quota, or other work."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import ChildFailedError
from edgecompress.measuring.latency import Bench, Machine, Progress, task_for, this_host
from edgecompress.measuring.lock import alone
from edgecompress.recipe import MeasureSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import Arrays
from edgecompress.statistics import quantile, walsh_bounds

SLOWER = 1.05  # a slow-down beyond it is flagged
WINDOWS = 20  # compared: the last quarter of them with the first
ERROR = 0.05
WAITING = 0.05  # the share of time spent waiting for a core that is worth a word
CLOCK = 0.03  # the fall of the clock that is
HEAT_C = 5.0  # and the rise of the temperature

Floats = NDArray[np.float64]
Trend = Literal["steady", "slower", "open"]


@dataclass(frozen=True)
class Reading:
    """Hold what the sensors said after so many seconds and calls; None where they say nothing."""

    seconds: float
    calls: int
    clock_mhz: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class Sustained:
    """Hold every call of one long run, in order, and the readings between them.

    `running_ms` is the wall time of a call less what it waited for a core, `waited_ms`.
    """

    running_ms: Floats
    waited_ms: Floats
    readings: tuple[Reading, ...]
    threads: int
    machine: str
    uncontrolled: tuple[str, ...]
    throttled: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Return how long it ran."""
        return self.readings[-1].seconds


@dataclass(frozen=True)
class Window:
    """Hold what a stretch of the run was like; waiting is taken out of `p50_ms` and `p95_ms`."""

    start_s: float
    end_s: float
    calls: int
    p50_ms: float
    p95_ms: float
    wall_p95_ms: float
    waited_ratio: float
    clock_mhz: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class Slowdown:
    """Hold how many times slower the end is than the start, and what may explain it.

    `low` and `high` are one-sided bounds; `reason` says all of it in words.
    """

    trend: Trend
    value: float
    low: float
    high: float
    reason: str


def sustain(  # noqa: PLR0913 - the last two say to whom and where
    label: str,
    model: OnnxModel,
    inputs: Arrays,
    seconds: float,
    threads: int = 1,
    progress: Progress | None = None,
    machine: Machine = this_host,
) -> Sustained:
    """Run the model for `seconds` in one fresh pinned process; no other measurement runs meanwhile.

    Raise ModelError when it does not run, ChildFailedError when its process dies.
    """
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder, alone(say):
        task = task_for(model, inputs, Path(folder) / "0.npz", MeasureSettings(), threads)
        task = replace(task, request={**task.request, "sustained_seconds": seconds})
        with machine({label: task}) as bench:
            say(f"running {label} for {seconds:g} s")
            return _read(model, bench.run(label), bench, threads)


def _read(model: OnnxModel, answer: Mapping[str, Any], bench: Bench, threads: int) -> Sustained:
    if "readings" not in answer:
        raise ChildFailedError(
            f"{model.path}: what runs models on that device takes no --sustained; it needs a "
            "Python there"
        )
    wall, waited = (_unpacked(answer[f"sustained_{name}_ms"]) for name in ("wall", "waited"))
    now = bench.surroundings()
    return Sustained(
        running_ms=wall - waited,
        waited_ms=waited,
        readings=tuple(Reading(*reading) for reading in answer["readings"]),
        threads=threads,
        machine=now.machine,
        uncontrolled=tuple(answer["uncontrolled"]),
        throttled=now.uncontrolled,
    )


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)


def windows(run: Sustained, count: int) -> tuple[Window, ...]:
    """Return the run as at most `count` stretches of equal length, between readings.

    A stretch in which no call ended joins the next one.
    """
    ends = np.linspace(0, run.seconds, count + 1)[1:]
    found, first = [], 0
    for end in ends:
        last = max(i for i, r in enumerate(run.readings) if r.seconds <= end + 1e-9)
        if run.readings[last].calls > run.readings[first].calls:
            found.append(_window(run, run.readings[first : last + 1]))
            first = last
    return tuple(found)


def _window(run: Sustained, readings: Sequence[Reading]) -> Window:
    first, last = readings[0], readings[-1]
    running = run.running_ms[first.calls : last.calls]
    waited = run.waited_ms[first.calls : last.calls]
    wall = running + waited
    return Window(
        start_s=first.seconds,
        end_s=last.seconds,
        calls=last.calls - first.calls,
        p50_ms=quantile(running, 0.5),
        p95_ms=quantile(running, 0.95),
        wall_p95_ms=quantile(wall, 0.95),
        waited_ratio=float(waited.sum() / wall.sum()),
        clock_mhz=_middle(r.clock_mhz for r in readings[1:]),
        temperature_c=_middle(r.temperature_c for r in readings[1:]),
    )


def _middle(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def slowdown(run: Sustained) -> Slowdown:
    """Return whether the model became slower, by how much, and what this system knows of why.

    The typical call of each window of the last quarter over that of its partner in the first; the
    signed-rank bounds of their logarithms say what is beyond the windows' own noise.
    """
    parts = windows(run, WINDOWS)
    quarter = len(parts) // 4
    if quarter == 0:
        return Slowdown("open", 1.0, 0.0, inf, "too few calls to see a trend; run it for longer")
    first, last = parts[:quarter], parts[-quarter:]
    logs = [float(np.log(b.p50_ms / a.p50_ms)) for a, b in zip(first, last, strict=True)]
    low, high = (exp(bound) if abs(bound) < inf else bound for bound in walsh_bounds(logs, ERROR))
    value, low = exp(median(logs)), max(0.0, low)
    change = f"{abs(value - 1):.1%} {'slower' if value >= 1 else 'faster'} at the end"
    between = f"{low:.3g} to {high:.3g} times the start"
    if high <= SLOWER:
        return Slowdown("steady", value, low, high, f"{change} ({between}): no slow-down")
    if low > SLOWER:
        why = "; ".join(_causes(run, first, last)) or "nothing that could be read explains it"
        return Slowdown("slower", value, low, high, f"{change} ({between}): {why}")
    return Slowdown("open", value, low, high, f"{change} ({between}): too noisy to tell")


def _causes(run: Sustained, first: Sequence[Window], last: Sequence[Window]) -> Iterator[str]:
    """Yield in words what else changed between the first windows and the last."""

    def both(read: Callable[[Window], float | None]) -> tuple[float, float] | None:
        ends = [_middle(map(read, part)) for part in (first, last)]
        return None if None in ends else (ends[0] or 0.0, ends[1] or 0.0)

    clock, heat = both(lambda w: w.clock_mhz), both(lambda w: w.temperature_c)
    if clock and clock[1] < clock[0] * (1 - CLOCK):
        yield f"the clock fell from {clock[0]:.0f} to {clock[1]:.0f} MHz"
    if heat and heat[1] > heat[0] + HEAT_C:
        yield f"the temperature rose from {heat[0]:.0f} to {heat[1]:.0f} degrees Celsius"
    yield from run.throttled
    waited = both(lambda w: w.waited_ratio)
    if waited and waited[1] > max(WAITING, 2 * waited[0]):
        yield f"other work held the core {waited[1]:.0%} of the time then"


def not_read(run: Sustained) -> tuple[str, ...]:
    """Return in words what this system did not tell during the run."""
    unknown = []
    if all(reading.clock_mhz is None for reading in run.readings):
        unknown.append("the core's clock could not be read")
    elif len({reading.clock_mhz for reading in run.readings}) == 1:
        unknown.append("the clock that the system shows never moved; it may not be the real one")
    if all(reading.temperature_c is None for reading in run.readings):
        unknown.append("no temperature could be read")
    return (*unknown, *run.uncontrolled)
