"""Run the host's own measuring process on a device that has Python, numpy and ONNX Runtime."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DeviceError, ModelError
from edgecompress.measuring.latency import CHILD, Task, read_answer
from edgecompress.measuring.targets.device import last_line
from edgecompress.measuring.targets.session import Workplace
from edgecompress.runtime import session

GOLDEN = Path(__file__).with_name("golden.py")
PARITY = 0.01  # of the largest output: two of int8's steps, far above what rounding of floats does
# A folder of one's own first, for many systems let nobody install into theirs.
PLACES = (
    '"$HOME/.edgecompress/bin/python3"',
    "/data/local/tmp/python/bin/python3",
    "/data/data/com.termux/files/usr/bin/python3",
    "python3",
    "python",
)
_PROBE = "import sys, numpy, onnxruntime; print('found', sys.executable, onnxruntime.__version__)"
_OTHER_ABI = re.compile(
    r"wrong ELF class|e_machine|32-bit instead of 64-bit|64-bit instead of 32-bit"
    r"|Exec format error|not executable: |incompatible architecture",
    re.IGNORECASE,
)


def find_python(place: Workplace) -> tuple[str, str]:
    """Return a Python with numpy and ONNX Runtime there, quoted for its shell, and their version.

    Raise DeviceError that says why there is none; LookupError with the words of the first Python
    that lacks something.
    """
    tries = " || ".join(f"{python} -c {shlex.quote(_PROBE)}" for python in PLACES)
    output = place.run(tries).output
    if found := re.search(r"^found (.+) (\S+)$", output, re.MULTILINE):
        return shlex.quote(found[1]), f"onnxruntime {found[2]}"
    raise LookupError(output)


class PythonRunner:
    """Measure with `child.py`, and compare outputs with this host's."""

    def __init__(self, place: Workplace, python: str, version: str) -> None:
        self.runtime = version
        self._place, self._python = place, python
        self._parity: dict[int, tuple[bool, str]] = {}
        place.put(CHILD, CHILD.name)
        place.put(GOLDEN, GOLDEN.name)

    def prepare(self, number: int, task: Task, cores: Sequence[int]) -> None:
        """Push a model with its inputs and its request; compare its outputs with this host's."""
        place, name = self._place, str(number)
        place.put(task.model.path, f"{name}.onnx")
        place.put(Path(task.request["inputs"]), f"{name}.npz")
        there = {"model": f"{name}.onnx", "inputs": f"{name}.npz", "cores": list(cores)}
        with TemporaryDirectory(prefix="edgecompress-") as folder:
            request = Path(folder) / "request.json"
            request.write_text(json.dumps({**task.request, **there}))
            place.put(request, f"{name}.json")
        self._parity[number] = self._compared(name, task)

    def run(self, number: int, task: Task) -> dict[str, Any]:
        """Return the answer of one fresh process there."""
        ran = self._place.process(
            f"{self._python} {CHILD.name} < {number}.json > answer.json 2> errors",
            task.request.get("sustained_seconds", 0.0),
        )
        answer = self._place.get("answer.json")
        errors = self._place.get("errors")
        refuse_full_disk(self._place, errors.decode(errors="replace"))
        found = read_answer(task.model, ran.code, answer, errors)
        agrees, words = self._parity[number]
        if not agrees:
            found["uncontrolled"] = [*found["uncontrolled"], words]
        return {**found, "conditions": [words]}

    def _compared(self, name: str, task: Task) -> tuple[bool, str]:
        """Return whether and in words how far the outputs there lie from those of this host."""
        arguments = [f"{name}.onnx", f"{name}.npz", json.dumps(list(task.inputs)), "outputs.npz"]
        ran = self._place.process(f"{self._python} {GOLDEN.name} {shlex.join(arguments)}")
        if ran.code > 128:  # ended by a signal
            raise DeviceError(
                f"{self._place.device.name}: the process that ran {task.model.path.name} died "
                f"(exit status {ran.code}); is there enough memory?"
            )
        if ran.code != 0:
            refuse_full_disk(self._place, ran.output)
            raise ModelError(
                f"{task.model.path}: does not run on {self._place.device.name}: "
                f"{last_line(ran.output)}"
            )
        try:
            with np.load(io.BytesIO(self._place.get("outputs.npz")), allow_pickle=False) as file:
                there = [file[key] for key in file]
        except (ValueError, OSError, BadZipFile) as error:
            raise DeviceError(
                f"{self._place.device.name}: its outputs arrived damaged ({error}); try again"
            ) from error
        try:
            made = session(task.model.path).run(None, dict(task.inputs))
        except Exception as error:  # ONNX Runtime's exceptions have no useful common class
            words = " ".join(str(error).split())[:200]
            return True, f"parity was not checked: the model does not run on this host ({words})"
        here = [a for a in made if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"]
        return parity(here, there)


def parity(here: Sequence[NDArray[Any]], there: Sequence[NDArray[Any]]) -> tuple[bool, str]:
    """Return whether a device's outputs agree with this host's on the same inputs, and say so."""
    if not here:
        return True, "parity with this host was not checked: the model gives no numbers"
    if [a.shape for a in here] != [a.shape for a in there]:
        return False, "outputs there have other shapes than this host's; trust no score made here"
    errors = [
        np.abs(a - b).max(initial=0.0) / (np.abs(a).max(initial=0.0) or 1.0)
        for a, b in zip(
            (np.asarray(a, np.float64) for a in here),
            (np.asarray(b, np.float64) for b in there),
            strict=True,
        )
    ]
    worst = float(np.max(errors))
    if worst <= PARITY:
        return True, f"outputs agree with this host's within {worst:.1e} of the largest"
    return False, (
        f"outputs differ from this host's by {worst:.2g} of the largest, which no rounding "
        f"explains (up to {PARITY:g}); trust no score made here"
    )


def refuse_full_disk(place: Workplace, words: str) -> None:
    """Raise DeviceError when a process there could not write."""
    if "no space left" in words.lower():
        raise DeviceError(f"{place.device.name}: its disk is full; free some space")


def is_other_abi(words: str) -> bool:
    """Return whether a loader's words say that a file was built for another processor."""
    return _OTHER_ABI.search(words) is not None
