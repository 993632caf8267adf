"""Measure what models cost: fresh pinned processes, interleaved, all samples kept.

On this host, or on any other `Machine` that can run the measuring process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import ChildFailedError, ModelError
from edgecompress.measuring.child import PEAK_UNRESET
from edgecompress.measuring.host import (
    describe_host,
    free_memory,
    throttled_periods,
    usable_cores,
)
from edgecompress.measuring.lock import alone
from edgecompress.measuring.pace import reference_network, remember_pace, usual_pace
from edgecompress.recipe import MeasureSettings
from edgecompress.records import LatencySamples, Measurement, OnnxModel, Quantiles, UsualPace
from edgecompress.runtime import Arrays, onnx_model
from edgecompress.statistics import quantile
from edgecompress.store import file_digest

CHILD = Path(__file__).with_name("child.py")
TIMEOUT_S = 180.0
MIN_CALLS = 30  # so that two odd calls do not move the p95 of a process
QUIET = 0.005  # the share of time in the run queue below which a machine counts as quiet
MAX_CALLS = 4000  # sampling then stops: more calls would only repeat what is known

Decided = Callable[[str, Mapping[str, Measurement]], bool]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Hold one model to measure, its inputs, and the request that each of its processes gets."""

    model: OnnxModel
    inputs: Arrays
    request: Mapping[str, Any]


@dataclass(frozen=True)
class Surroundings:
    """Name the machine, all that a latency depends on, and say what was and was not controlled."""

    machine: str
    uncontrolled: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    usual: UsualPace | None = None


class Bench(Protocol):
    """A machine that is ready to measure some models."""

    def run(self, label: str) -> dict[str, Any]:
        """Return the answer of one fresh process for that model, as `child.py` words it."""

    def surroundings(self) -> Surroundings:
        """Return what the machine is and how the processes so far have found it."""


Machine = Callable[[Mapping[str, Task]], AbstractContextManager[Bench]]


@contextmanager
def this_host(tasks: Mapping[str, Task]) -> Iterator[Bench]:
    """Let the processes run here, and remember the machine's pace if it was quiet."""
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder:
        reference = Path(folder) / "reference.onnx"
        reference.write_bytes(reference_network())
        host = _Host(tasks, reference)
        yield host
        host.remember()


class _Host:
    def __init__(self, tasks: Mapping[str, Task], reference: Path) -> None:
        self._tasks, self._reference = tasks, reference
        self._name = describe_host().fingerprint
        self._usual = usual_pace(self._name)
        self._throttled = throttled_periods()
        self._answers: list[dict[str, Any]] = []

    def run(self, label: str) -> dict[str, Any]:
        task = self._tasks[label]
        # The last cores: the first one serves most interrupts.
        cores = usable_cores()[-task.request["threads"] :]
        own = {"cores": list(cores), "memory_bytes": free_memory()}
        # One thread's pace: what several threads share is not the reference's.
        timed = {"reference": str(self._reference)} if task.request["threads"] == 1 else {}
        answer = _run_child(task.model, {**task.request, **own, **timed})
        self._answers.append(answer)
        return answer

    def surroundings(self) -> Surroundings:
        return Surroundings(self._name, _notes(self._stopped()), usual=self._usual)

    def _stopped(self) -> int:
        return throttled_periods() - self._throttled

    def remember(self) -> None:
        """Keep the machine's pace of these processes, unless other work disturbed it."""
        wall, waited = (sum(sum(a[n]) for a in self._answers) for n in ("wall_ms", "waited_ms"))
        timed = {w for a in self._answers for w in a["uncontrolled"]} <= {PEAK_UNRESET}
        looks = [median(ms) for a in self._answers if (ms := a.get("reference_ms"))]
        if looks and timed and not self._stopped() and waited < QUIET * wall:
            remember_pace(self._name, looks)


def measure(  # noqa: PLR0913 - two of the eight are the caller's callbacks
    models: Mapping[str, OnnxModel],
    inputs: Mapping[str, Arrays],
    settings: MeasureSettings,
    threads: int = 1,
    processes: int | None = None,
    decided: Decided | None = None,
    progress: Progress | None = None,
    machine: Machine = this_host,
) -> dict[str, Measurement]:
    """Return a measurement for each label of `models`; `inputs` has the same labels.

    The models take turns, A B A B, one fresh process each, so that a drifting machine meets all
    alike. After each look (`settings.processes`, or `processes` alone) a model leaves when
    `decided(label, found)` says so, where `found` holds what is known of every model by then. No
    other measurement runs here meanwhile, nor one started from here on another `machine`.

    Raise ModelError when a model does not run, ChildFailedError when its process dies.
    """
    say = progress or (lambda _: None)
    looks = sorted(settings.processes) if processes is None else [processes]
    answers: dict[str, list[dict[str, Any]]] = {label: [] for label in models}
    found: dict[str, Measurement] = {}
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder, alone(say):
        tasks = {
            label: task_for(model, inputs[label], Path(folder) / f"{number}.npz", settings, threads)
            for number, (label, model) in enumerate(models.items())
        }
        with machine(tasks) as bench:
            waiting, done = list(models), 0
            for look in looks:
                for turn, label in product(range(done, look), waiting):
                    say(f"measuring {label}: process {turn + 1} of {look}")
                    answers[label].append(bench.run(label))
                done, now = look, bench.surroundings()
                for label in waiting:
                    found[label] = _combine(answers[label], threads, settings.batch, now)
                waiting = [n for n in waiting if decided is None or not decided(n, found)]
    return found


def task_for(
    model: OnnxModel, arrays: Arrays, file: Path, settings: MeasureSettings, threads: int
) -> Task:
    """Return what a machine is asked to do; the inputs are written to `file`.

    Raise ModelError when the model is no longer what was recorded.
    """
    _check_unchanged(model)
    np.savez(file, *arrays.values())
    request = {
        "model": str(model.path),
        "inputs": str(file),
        "names": list(arrays),  # in the order of the file: not every name can be a key there
        "threads": threads,
        "seconds": settings.seconds_per_process,
        "min_calls": MIN_CALLS,
        "max_calls": MAX_CALLS,
    }
    return Task(model, arrays, request)


def _run_child(model: OnnxModel, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of one fresh child."""
    patience = TIMEOUT_S + request.get("sustained_seconds", 0.0)
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(
            f"{model.path}: measuring took over {patience:g} s a process; give smaller inputs"
        ) from error
    return read_answer(model, done.returncode, done.stdout, done.stderr)


def read_answer(model: OnnxModel, status: int, output: bytes, errors: bytes) -> dict[str, Any]:
    """Return the answer that a process gave.

    Raise ModelError when the model does not run, ChildFailedError when its process died or the
    machine has too little memory for it.
    """
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError as error:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise ChildFailedError(
            f"{model.path}: the measuring process died (exit status {status})"
            f"{': ' + last[0][:200] if last else ''}; is there enough memory?"
        ) from error
    if answer.get("out_of_memory"):
        raise ChildFailedError(
            f"{model.path}: needs more memory than the machine has free; give smaller inputs, or "
            "measure on a larger machine"
        )
    if "error" in answer:
        raise ModelError(
            f"{model.path}: does not run: {answer['error'][:300]}; "
            "give its inputs with --inputs FILE.npz or --shape NAME:1x3x224x224"
        )
    return answer


def _combine(
    answers: list[dict[str, Any]], threads: int, batch: int, now: Surroundings
) -> Measurement:
    """Return the measurement that a model's processes make together."""
    uncontrolled = {words: None for answer in answers for words in answer["uncontrolled"]}
    conditions = {words: None for answer in answers for words in answer.get("conditions", ())}
    fields = ("warmup_calls", "cold_start_ms", "peak_memory_bytes", "load_memory_bytes")
    samples = tuple(
        LatencySamples(
            tuple(a["wall_ms"]),
            tuple(a["waited_ms"]),
            **{f: a[f] for f in fields},
            reference_ms=tuple(a.get("reference_ms", ())),
        )
        for a in answers
    )
    return Measurement(
        processes=samples,
        latency_ms=_quantiles([running_ms(s) for s in samples]),
        wall_latency_ms=_quantiles([np.asarray(s.wall_ms) for s in samples]),
        cold_start_ms=median(s.cold_start_ms for s in samples),
        peak_memory_bytes=round(median(s.peak_memory_bytes for s in samples)),
        threads=threads,
        batch=batch,
        host=now.machine,
        uncontrolled=(*uncontrolled, *now.uncontrolled),
        conditions=(*now.conditions, *conditions),
        usual=now.usual,
    )


def running_ms(samples: LatencySamples) -> NDArray[np.float64]:
    """Return each call's wall time less the time that it waited for a core, in ms."""
    return np.subtract(samples.wall_ms, samples.waited_ms, dtype=np.float64)


def _quantiles(processes: list[NDArray[np.float64]]) -> Quantiles:
    """Return the medians over processes of each process's quantiles."""
    return Quantiles(
        *(median(quantile(p, level) for p in processes) for level in (0.50, 0.90, 0.95, 0.99))
    )


def _notes(throttled: int) -> tuple[str, ...]:
    return (f"a CPU quota stopped the processes {throttled} times",) if throttled > 0 else ()


def _check_unchanged(model: OnnxModel) -> None:
    changed = [model.path] if onnx_model(model.path).sha256 != model.sha256 else []
    for weights in model.beside:
        if not weights.path.is_file() or file_digest(weights.path) != weights.sha256:
            changed.append(weights.path)
    if changed:
        raise ModelError(f"{changed[0]}: changed since it was recorded; make or admit it again")
