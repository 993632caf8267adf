"""Turn what fresh processes showed into bounds, and say what disturbed them. Pure.

A row of processes gives one figure each; their signed-rank bounds say where the figure lies, and
margins say how far from a limit that decides. The margins cover what the processes of one set
cannot show: the machine's drift from one set to the next, or that the set was disturbed. Where the
machine's usual pace is known, figures are turned to it first: that takes out most of the drift, and
the margin is left for what the reference network does not feel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from math import cbrt
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecompress.bounds import FAR, Bounds
from edgecompress.measuring.child import CONTENDED, PEAK_UNRESET, UNCOUNTED
from edgecompress.measuring.latency import running_ms
from edgecompress.records import LatencySamples, Measurement, Quantiles
from edgecompress.statistics import burst_share, drift, quantile, split_error, walsh_bounds

ERROR = 0.05  # of a one-sided bound, over all looks together
# Quiet sets of twenty processes, minutes apart, lay 2.1 % (root mean square) from the median of the
# others on the worse of two days (benchmarks/verdict/): 1.64 of that, less the bounds' own width.
# At the usual pace they agree far better, but a net that waits for memory need not.
GUARD = 0.03
FARTHEST = 0.06  # from the usual pace; a machine that is farther off is another machine
FULL = 20  # the number of processes that GUARD is for
BURSTS = 0.01  # the share of time in bursts from which on they are refused

Floats = NDArray[np.float64]
Read = Callable[[LatencySamples], float]


@dataclass(frozen=True)
class Readings:
    """Hold what is read from a row of processes, in the order of time, one entry a process.

    `figure` is what is judged and `typical` the median call, both in ms; `bursts` is the share of
    a process's time in bursts; `wall_ms` and `waited_ms` are sums over its calls. `pace` is how
    many times as long as usual the reference network took beside a process, None where that is not
    known.
    """

    figure: Floats
    typical: Floats
    bursts: Floats
    wall_ms: Floats
    waited_ms: Floats
    pace: Floats | None = None
    uncontrolled: tuple[str, ...] = ()
    threads: int = 1

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Readings:
        """Return these processes alone."""
        names = ("figure", "typical", "bursts", "wall_ms", "waited_ms")
        pace = None if self.pace is None else self.pace[rows]
        return replace(self, **{name: getattr(self, name)[rows] for name in names}, pace=pace)

    def at_usual_pace(self) -> Readings:
        """Return what the figures would be at the usual pace; unchanged where it is too far off."""
        if self.pace is None or not is_near(self.pace):
            return replace(self, pace=None)
        return replace(self, figure=self.figure / self.pace, typical=self.typical / self.pace)


def is_near(pace: ArrayLike) -> bool:
    """Return whether the machine is so near its usual pace that figures are turned to it."""
    return abs(float(np.median(np.asarray(pace, np.float64))) - 1) <= FARTHEST


def usual_latency(measurement: Measurement) -> Quantiles:
    """Return the latency at the machine's usual pace, as budgets are judged by it.

    As it was measured where that is not known, or too far off.
    """
    pace = measurement.pace
    if pace is None or not is_near(pace):
        return measurement.latency_ms
    return Quantiles(*(value / median(pace) for value in astuple(measurement.latency_ms)))


def read_processes(measurement: Measurement, read: Read) -> Readings:
    """Return what the judge needs of each process; `read` takes the figure that is judged."""
    processes = measurement.processes
    running = [running_ms(process) for process in processes]
    return Readings(
        figure=np.array([read(process) for process in processes]),
        typical=np.array([quantile(times, 0.5) for times in running]),
        bursts=np.array([burst_share(times) for times in running]),
        wall_ms=np.array([sum(process.wall_ms) for process in processes]),
        waited_ms=np.array([sum(process.waited_ms) for process in processes]),
        pace=None if (pace := measurement.pace) is None else np.array(pace),
        uncontrolled=measurement.uncontrolled,
        threads=measurement.threads,
    )


def timing_bounds(
    readings: Readings, looks: Sequence[int], own_interruptions: bool = False
) -> Bounds:
    """Return the bounds of a figure over processes, and the margins at which they decide.

    `looks` are the numbers of processes at which a measurement may have been ended; any other
    number is taken as fixed beforehand. `own_interruptions` says that what interrupts a process
    there is the device's own, and no disturbance.
    """
    count, found = len(readings.figure), readings.pace
    readings = readings.at_usual_pace()
    low, high = walsh_bounds(readings.figure, split_error(looks, ERROR).get(count, ERROR))
    noise, contention = disturbances(readings, own_interruptions)
    guard = max(guard_band(count), abs(drift(readings.typical)))
    return Bounds(
        value=median(readings.figure.tolist()),
        low=low,
        high=high,
        pass_margin=FAR if noise else guard,
        fail_margin=FAR if noise or contention else guard,
        known=f"over {count} processes{_at_pace(found, readings.pace)}",
        disturbed="; ".join(noise + contention),
    )


def _at_pace(found: Floats | None, taken_out: Floats | None) -> str:
    if found is None:
        return ""
    off = pace_in_words(found)
    return f", {off} than usual" if taken_out is None else f", at the usual pace (now {off})"


def pace_in_words(pace: ArrayLike) -> str:
    """Return by how much the machine was off its usual pace.

    >>> pace_in_words([1.02, 1.03, 1.04])
    '3.0% slower'
    """
    off = float(np.median(np.asarray(pace, np.float64))) - 1
    return f"{abs(off):.1%} {'slower' if off > 0 else 'faster'}"


def guard_band(processes: int) -> float:
    """Return how far from a limit so many quiet processes decide at the least.

    Fewer processes have seen a shorter stretch of what the machine does over minutes, so that an
    early look decides only what is clear; what is close waits for the last look. The cube root:
    recorded drift was slower than any look and asks for less, a step within a set for this much.
    """
    return GUARD * max(1.0, cbrt(FULL / processes))


def disturbances(
    readings: Readings, own_interruptions: bool = False
) -> tuple[list[str], list[str]]:
    """Return in words what disturbed the processes: either way, and upwards only.

    Contention can only make a model of one thread look slower than it is, for the waiting is taken
    out and what stays is cold caches: it takes away FAIL, not PASS. Where several threads run, the
    others work on while the first one waits, and what that cost cannot be told either way.
    """
    harmless = {PEAK_UNRESET, UNCOUNTED} if own_interruptions else {PEAK_UNRESET}
    noise = [words for words in readings.uncontrolled if words not in harmless]
    if (share := float(readings.bursts.mean())) > BURSTS:
        noise.append(f"bursts of slow calls took {share:.0%} of the time")
    waited = float(readings.waited_ms.sum() / readings.wall_ms.sum())
    if waited <= CONTENDED or own_interruptions:
        return noise, []
    contention = [f"other work held the core {waited:.0%} of the time"]
    return (noise, contention) if readings.threads == 1 else (noise + contention, [])
