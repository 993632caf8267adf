"""Measure one ONNX model in a fresh process: one JSON request in, one JSON answer out.

Run by path, so that it can be pushed to any machine with Python, numpy and ONNX Runtime. The
request: `model`, `inputs` (an npz file) and their `names` in its order, `threads`, `cores` to pin
to (empty = do not pin), `seconds` of sampling, `min_calls`, `max_calls`, and where wanted
`memory_bytes`, the most that it may take, `sustained_seconds`, to go on for so long, and
`reference`, an ONNX file of floats that is timed beside the model. The
answer: the fields of `LatencySamples`, and `uncontrolled`, in words; with `sustained_seconds` also
what `sustain` returns; or `error`, when ONNX Runtime refuses the model or its inputs, and
`out_of_memory`, whether that was for want of memory.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from array import array
from collections.abc import Callable
from operator import sub
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime

with contextlib.suppress(ImportError):  # Windows counts no memory this way
    import resource

AGREEMENT = 0.02  # two warm-up windows agree when their medians differ by less
CONTENDED = 0.05  # the share of time in the run queue from which on threads are said to wait
UNCOUNTED = "waiting for a core not counted"
UNTAKEN = "other threads of the model waited for a core, which cannot be taken out"
PEAK_UNRESET = "peak memory counted from the start of the process"
WINDOWS = 10  # at most so many windows of warm-up
LONGEST_WINDOW_NS = 10_000_000_000  # a model that takes seconds is warm after one
PATIENCE_NS = 60_000_000_000  # after which a slow model may have made fewer calls than asked for
LOOK_NS = 30_000_000  # so long the reference model is timed at once
LOOK_CALLS = 5  # or for so many calls: on a small board each may take as long as the model's
MOST_CALLS = 20_000_000  # of a sustained run: 160 MB of records
Call = Callable[[], object]


class Memory:
    """Read this process's resident size and its peak since the last reset, in bytes."""

    def __init__(self) -> None:
        self.counts_peak = False
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
            self.counts_peak = True

    def resident(self) -> int:
        """Return the resident size, or the highest so far where the system tells no more."""
        return self._status("VmRSS") or self._highest()

    def peak(self) -> int:
        """Return the highest resident size since the reset, or ever where it cannot be reset."""
        return (self._status("VmHWM") if self.counts_peak else 0) or self._highest()

    @staticmethod
    def _status(field: str) -> int:
        with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
            for line in status:
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
        return 0

    @staticmethod
    def _highest() -> int:
        if "resource" not in globals():
            return 0
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024


class Sensors:
    """Read a core's clock and the hottest temperature, each None where the system tells none."""

    def __init__(self, core: int, system: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self._clock = system / f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"
        self._zones = sorted(system.glob("class/thermal/thermal_zone*/temp"))
        self._cpuinfo, self._core = proc / "cpuinfo", core

    def clock_mhz(self) -> float | None:
        """Return the clock now."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._clock.read_text()) / 1e3
        current = -1
        with contextlib.suppress(OSError, ValueError):
            for line in self._cpuinfo.read_text().splitlines():
                name, _, value = (part.strip() for part in line.partition(":"))
                if name == "processor":
                    current = int(value)
                elif name == "cpu MHz" and current == self._core:
                    return float(value)
        return None

    def temperature_c(self) -> float | None:
        """Return the highest plausible temperature of all zones."""
        found = []
        for zone in self._zones:
            with contextlib.suppress(OSError, ValueError):
                found.append(int(zone.read_text()) / 1e3)
        return max((celsius for celsius in found if 0 < celsius < 150), default=None)


def limit_memory(most: int) -> None:
    """Let this process have at most `most` bytes of its own, where the system can see to that.

    Writable memory is counted, not address space, of which the libraries reserve plenty.
    """
    if "resource" not in globals():
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error is ONNX Runtime's or Python's way to say so."""
    text = str(error).lower()
    asked = ("bad_alloc", "bad allocation", "failed to allocate", "not enough memory")
    return isinstance(error, MemoryError) or any(words in text for words in asked)


def waiting_clock(
    schedstat: Path = Path("/proc/thread-self/schedstat"),
) -> Callable[[], int] | None:
    """Return a clock of this thread's time in the run queue, in ns; None where nobody counts it."""
    try:
        file = os.open(schedstat, os.O_RDONLY)
        int(os.pread(file, 96, 0).split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return lambda: int(os.pread(file, 96, 0).split()[1])


def others_waiting(process: Path = Path("/proc/self")) -> int:
    """Return the time that all threads but the first spent in the run queue, in ns."""
    waited = 0
    for file in process.glob("task/*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if file.parent.name != str(os.getpid()):
                waited += int(file.read_text().split()[1])
    return waited


def pin(cores: list[int]) -> bool:
    """Bind this process to `cores`; return whether the system did."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        return False
    return True


def session_options(threads: int) -> Any:
    """Return how every session that is timed runs: sequential, `threads` that never spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def open_call(model: str, inputs: dict[str, Any], threads: int) -> Call:
    """Create the session and return its one inference."""
    options = session_options(threads)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def warm_up(call: Call, window_ns: int) -> int:
    """Call until the medians of two windows agree, for a bounded time; return the calls made."""
    calls, previous = 0, 0.0
    for _ in range(WINDOWS):
        times: list[int] = []
        while sum(times) < window_ns or len(times) < 3:
            start = perf_counter_ns()
            call()
            times.append(perf_counter_ns() - start)
        calls += len(times)
        current = median(times)
        if abs(current - previous) <= AGREEMENT * current or sum(times) > LONGEST_WINDOW_NS:
            break
        previous = current
    return calls


def sample(
    call: Call, request: dict[str, Any], pause: Call = lambda: None
) -> tuple[list[float], list[float]]:
    """Return the wall time and the waiting of every call, in ms; sampling stops, none is dropped.

    `pause` is called after every stretch of `seconds`: once for most models, more often for one
    that is slow. The waiting clock is read inside the wall clock's interval, so that no more
    waiting is ever taken out of a call than it held.
    """
    waiting = waiting_clock() or (lambda: 0)
    wall: list[float] = []
    waited: list[float] = []
    passed, over = 0, False
    while not over:
        began = perf_counter_ns() - passed
        due = passed + int(request["seconds"] * 1e9)
        while True:
            start = perf_counter_ns()
            queued = waiting()
            call()
            queued = waiting() - queued
            stop = perf_counter_ns()
            wall.append((stop - start) / 1e6)
            waited.append(queued / 1e6)
            passed = stop - began
            over = _is_over(len(wall), passed, request)
            if over or passed >= due:
                break
        pause()
    return wall, waited


def _is_over(calls: int, passed_ns: int, request: dict[str, Any]) -> bool:
    """Return whether so many calls in so long a time are enough."""
    least = int(request["seconds"] * 1e9)
    enough = calls >= request["min_calls"] or passed_ns >= least + PATIENCE_NS
    return calls >= request["max_calls"] or (passed_ns >= least and enough)


class Reference:
    """Time a model that never changes beside the one that is measured.

    It is opened after the first stretch of sampling, so that neither the cold start nor the memory
    of the model that is measured holds any of it.
    """

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._call: Call | None = None
        self.looks_ms: list[float] = []

    def look(self) -> None:
        """Append the median of some calls, waiting taken out.

        Where there is no memory left for the reference, it is not timed: the model comes first.
        """
        if self._model is None:
            return
        try:
            call = self._call = self._call or self._open(self._model)
            warm_up(call, LOOK_NS // 10)
            request = {"seconds": LOOK_NS / 1e9, "min_calls": LOOK_CALLS, "max_calls": 1000}
            self.looks_ms.append(median(map(sub, *sample(call, request))))
        except Exception:  # ONNX Runtime's exceptions have no useful common class
            self._model = None
            self.looks_ms.clear()

    @staticmethod
    def _open(model: str) -> Call:
        session = onnxruntime.InferenceSession(model, session_options(1))
        ones = {x.name: np.ones(x.shape, np.float32) for x in session.get_inputs()}
        return lambda: session.run(None, ones)


def sustain(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Call without a pause for `sustained_seconds`; record every call, and the sensors between.

    The answer: `sustained_wall_ms` and `sustained_waited_ms` of every call, as little-endian floats
    in base64, and `readings`: seconds since the start, calls so far, clock in MHz or None,
    temperature in degrees Celsius or None; one at the start, one at the end, at most one a second.
    """
    waiting = waiting_clock() or (lambda: 0)
    sensors = Sensors(request["cores"][0] if request["cores"] else 0)
    wall, waited = array("f"), array("f")
    length = int(request["sustained_seconds"] * 1e9)
    began = perf_counter_ns()
    due, every = 0, min(10**9, length // 40)
    readings: list[tuple[float, int, float | None, float | None]] = []
    while True:
        passed = perf_counter_ns() - began
        over = passed >= length or len(wall) >= MOST_CALLS
        if passed >= due or over:
            state = (sensors.clock_mhz(), sensors.temperature_c())
            readings.append((passed / 1e9, len(wall), *state))
            due = passed + every
        if over:
            break
        start = perf_counter_ns()
        queued = waiting()
        call()
        queued = waiting() - queued
        wall.append((perf_counter_ns() - start) / 1e6)
        waited.append(queued / 1e6)
    return {
        "sustained_wall_ms": _packed(wall),
        "sustained_waited_ms": _packed(waited),
        "readings": readings,
    }


def _packed(values: array[float]) -> str:
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request."""
    if request.get("memory_bytes"):
        limit_memory(request["memory_bytes"])
    uncontrolled = []
    if not request["cores"] or not pin(request["cores"]):
        uncontrolled.append("not pinned to a core")
    if waiting_clock() is None:
        uncontrolled.append(UNCOUNTED)
    with np.load(request["inputs"], allow_pickle=False) as file:
        inputs = dict(zip(request["names"], (file[key] for key in file), strict=True))
    memory = Memory()
    if not memory.counts_peak:
        uncontrolled.append(PEAK_UNRESET)
    baseline = memory.resident()
    start = perf_counter_ns()
    call = open_call(request["model"], inputs, request["threads"])
    loaded = memory.resident()
    call()
    cold_start = perf_counter_ns() - start
    warmup_calls = warm_up(call, int(request["seconds"] * 1e8))
    before = others_waiting()
    reference = Reference(request.get("reference"))
    peaks: list[int] = []

    def pause() -> None:
        peaks.append(memory.peak())  # the first one holds nothing of the reference
        reference.look()

    wall, waited = sample(call, request, pause)
    if others_waiting() - before > CONTENDED * sum(wall) * 1e6:
        uncontrolled.append(UNTAKEN)
    lasting = sustain(call, request) if request.get("sustained_seconds") else {}
    return {
        "wall_ms": wall,
        "waited_ms": waited,
        "warmup_calls": warmup_calls,
        "cold_start_ms": cold_start / 1e6,
        "peak_memory_bytes": max(0, peaks[0] - baseline),
        "reference_ms": reference.looks_ms,
        "load_memory_bytes": max(0, loaded - baseline),
        "uncontrolled": uncontrolled,
        **lasting,
    }


def answer(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read the request, write what `handle` makes of it; nothing else reaches standard output."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        made = handle(json.load(sys.stdin))
    except Exception as error:  # ONNX Runtime's exceptions have no useful common class
        words = " ".join(str(error).split()) or type(error).__name__
        made = {"error": words, "out_of_memory": is_out_of_memory(error)}
    json.dump(made, answer_to)
    answer_to.close()


if __name__ == "__main__":
    answer(measure)
