"""Measure what models cost on this host: fresh pinned processes, interleaved, all samples kept."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import ChildFailedError, ModelError
from edgecompress.measuring.host import describe_host, throttled_periods, usable_cores
from edgecompress.measuring.lock import alone
from edgecompress.recipe import MeasureSettings
from edgecompress.records import LatencySamples, Measurement, OnnxModel, Quantiles
from edgecompress.runtime import Arrays, onnx_model
from edgecompress.statistics import quantile

CHILD = Path(__file__).with_name("child.py")
TIMEOUT_S = 180.0
MIN_CALLS = 30  # so that two odd calls do not move the p95 of a process
MAX_CALLS = 4000  # sampling then stops: more calls would only repeat what is known

Decided = Callable[[str, Measurement], bool]
Progress = Callable[[str], None]


def measure(  # noqa: PLR0913 - two of the seven are the caller's callbacks
    models: Mapping[str, OnnxModel],
    inputs: Mapping[str, Arrays],
    settings: MeasureSettings,
    threads: int = 1,
    processes: int | None = None,
    decided: Decided | None = None,
    progress: Progress | None = None,
) -> dict[str, Measurement]:
    """Return a measurement for each label of `models`; `inputs` has the same labels.

    The models take turns, A B A B, one fresh process each, so that a drifting machine meets all
    alike. After each look (`settings.processes`, or `processes` alone) a model leaves when
    `decided(label, measurement)` says so. No other measurement runs on the machine meanwhile.

    Raise ModelError when a model does not run, ChildFailedError when its process dies.
    """
    say = progress or (lambda _: None)
    looks = sorted(settings.processes) if processes is None else [processes]
    for model in models.values():
        _check_unchanged(model)
    answers: dict[str, list[dict[str, Any]]] = {label: [] for label in models}
    found: dict[str, Measurement] = {}
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder, alone(say):
        requests = {
            label: _request(model, inputs[label], Path(folder) / f"{number}.npz", settings, threads)
            for number, (label, model) in enumerate(models.items())
        }
        host, throttled = describe_host().fingerprint, throttled_periods()
        waiting, done = list(models), 0
        for look in looks:
            for turn, label in product(range(done, look), waiting):
                say(f"measuring {label}: process {turn + 1} of {look}")
                answers[label].append(_run_child(models[label], requests[label]))
            done, notes = look, _notes(throttled_periods() - throttled)
            for label in waiting:
                found[label] = _combine(answers[label], threads, settings.batch, host, notes)
            waiting = [n for n in waiting if decided is None or not decided(n, found[n])]
    return found


def _request(
    model: OnnxModel, arrays: Arrays, file: Path, settings: MeasureSettings, threads: int
) -> dict[str, Any]:
    np.savez(file, *arrays.values())
    cores = usable_cores()
    return {
        "model": str(model.path),
        "inputs": str(file),
        "names": list(arrays),  # in the order of the file: not every name can be a key there
        "threads": threads,
        # The last cores: the first one serves most interrupts.
        "cores": list(cores[-threads:]),
        "seconds": settings.seconds_per_process,
        "min_calls": MIN_CALLS,
        "max_calls": MAX_CALLS,
    }


def _run_child(model: OnnxModel, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of one fresh child."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(
            f"{model.path}: measuring took over {TIMEOUT_S:g} s a process; give smaller inputs"
        ) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ChildFailedError(
            f"{model.path}: the measuring process died (exit status {done.returncode})"
            f"{': ' + last[0][:200] if last else ''}; is there enough memory?"
        ) from error
    if "error" in answer:
        raise ModelError(
            f"{model.path}: does not run: {answer['error'][:300]}; "
            "give its inputs with --inputs FILE.npz or --shape NAME:1x3x224x224"
        )
    return answer


def _combine(
    answers: list[dict[str, Any]], threads: int, batch: int, host: str, notes: tuple[str, ...]
) -> Measurement:
    """Return the measurement that a model's processes make together."""
    uncontrolled = {words: None for answer in answers for words in answer["uncontrolled"]}
    fields = ("warmup_calls", "cold_start_ms", "peak_memory_bytes", "load_memory_bytes")
    samples = tuple(
        LatencySamples(tuple(a["wall_ms"]), tuple(a["waited_ms"]), **{f: a[f] for f in fields})
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
        host=host,
        uncontrolled=(*uncontrolled, *notes),
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
    if onnx_model(model.path).sha256 != model.sha256:
        raise ModelError(f"{model.path}: changed since it was recorded; make or admit it again")
