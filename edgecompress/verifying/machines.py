"""Run a model in a child process: on this host's processor, or on one that qemu imitates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import ChildFailedError
from edgecompress.records import OnnxModel
from edgecompress.runtime import Arrays
from edgecompress.verifying.emulators import Kits, command
from edgecompress.verifying.processors import Processor

RUNNER = Path(__file__).with_name("runner.py")
_MEMORY_BYTES = 8 * 10**9  # address space; the emulators and the libraries take some of it


class RefusedError(Exception):
    """Say that ONNX Runtime refused the model there, in its own words."""


@dataclass(frozen=True)
class Machine:
    """Name a processor and the command that runs `runner.py` on it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)


def native() -> Machine:
    """Return this host."""
    return Machine("this host", (sys.executable, "-P", str(RUNNER)), dict(os.environ))


def emulated(kits: Kits, processor: Processor) -> Machine:
    """Return an imitated processor; its kits must be there."""
    words, environment = command(kits, processor, RUNNER)
    return Machine(processor.name, tuple(words), environment)


def outputs_on(
    machine: Machine, model: OnnxModel, calls: Arrays, seconds: float
) -> dict[str, NDArray[Any]]:
    """Return every output of the model by name, over `calls`: arrays with one more leading axis.

    Raise RefusedError when ONNX Runtime refuses the model or its inputs there, ChildFailedError
    when the process crashes or is not done after `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as scratch:
        inputs, outputs = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        np.savez(inputs, *calls.values())  # by position: any name may be an input's
        request = {
            "model": str(model.path),
            "inputs": str(inputs),
            "names": list(calls),
            "outputs": str(outputs),
        }
        done = _run(machine, model, json.dumps(request), seconds)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            raise ChildFailedError(
                f"{model.path}: {machine.name} ended {_status(done.returncode)}"
                f"{_last_line(done.stderr)}; try fewer --samples or another processor"
            ) from None
        if "error" in answer:
            raise RefusedError(answer["error"])
        with np.load(outputs, allow_pickle=False) as file:
            return dict(zip(answer["names"], (file[key] for key in file), strict=True))


def _run(
    machine: Machine, model: OnnxModel, request: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    with subprocess.Popen(
        machine.command,
        env=machine.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        _limit(process.pid, _MEMORY_BYTES + 10 * model.size_bytes)
        try:
            stdout, stderr = process.communicate(request, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise ChildFailedError(
                f"{model.path}: not done on {machine.name} after {seconds:g} s; give fewer "
                "--samples or a longer --max-time"
            ) from None
        finally:
            process.kill()
    return subprocess.CompletedProcess(machine.command, process.returncode, stdout, stderr)


def _limit(process: int, memory_bytes: int) -> None:
    """Bound a child's address space from outside: qemu ignores the limits that its guest sets."""
    if sys.platform == "linux":
        import resource

        hard = resource.prlimit(process, resource.RLIMIT_AS)[1]
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.prlimit(process, resource.RLIMIT_AS, (soft, hard))
        resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))


def _status(code: int) -> str:
    try:
        return f"by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"with exit status {code}"


def _last_line(stderr: str) -> str:
    """Return what a process said last, without qemu's advice on features it lacks."""
    lines = [line.strip() for line in stderr.splitlines() if "TCG doesn't support" not in line]
    said = [line for line in lines if line]
    return f" ({said[-1][:200]})" if said else ""
