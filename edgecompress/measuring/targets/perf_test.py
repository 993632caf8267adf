"""Measure with ONNX Runtime's own `onnxruntime_perf_test`, where a phone has no Python.

Its options and what it writes: onnxruntime/test/perftest in ONNX Runtime's sources
(command_args_parser.cc, performance_runner.cc, README.md). It runs the model once to warm up, then
times calls, and appends to its result file `name,seconds,peak bytes,CPU %,number` for each. Inputs
lie in folders beside the model, one file a tensor.
"""

from __future__ import annotations

import math
import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgecompress.errors import DeviceError, ModelError
from edgecompress.measuring.latency import Task
from edgecompress.measuring.targets.device import last_line
from edgecompress.measuring.targets.python_runner import is_other_abi, refuse_full_disk
from edgecompress.measuring.targets.session import Workplace
from edgecompress.runtime import Arrays

TOOL = "onnxruntime_perf_test"
PROBE_CALLS = 3  # to learn how many calls fill the time
WARM_UP = 0.1  # the share of calls, on top, that come first and are kept apart
_CREATION = re.compile(r"Session creation time cost:\s*([0-9.eE+-]+) s")
_FIRST = re.compile(r"First inference time cost:\s*([0-9.eE+-]+) ms")


@dataclass(frozen=True)
class _Result:
    """Hold one run: each call's time in ms, the process's peak in bytes, the cold start in ms."""

    wall_ms: tuple[float, ...]
    peak_bytes: int
    cold_start_ms: float


class PerfTestRunner:
    """Measure with a prebuilt `onnxruntime_perf_test`; it gives no outputs, hence no parity."""

    def __init__(self, place: Workplace, tool: str, version: str) -> None:
        self.runtime = f"{version} ({TOOL})"
        self._place, self._tool = place, tool
        self._calls: dict[int, int] = {}
        self._cores: tuple[int, ...] = ()
        self._bare_bytes = 0

    def prepare(self, number: int, task: Task, cores: Sequence[int]) -> None:
        """Push a model with its inputs, and learn how long it takes."""
        self._cores = tuple(cores)
        if not self._bare_bytes:
            self._bare_bytes = self._bare_size()
        self._put(f"m{number}", task.model.path, task.inputs)
        typical = median(self._timed(f"m{number}", task, PROBE_CALLS).wall_ms)
        wanted = round(task.request["seconds"] * 1e3 / max(typical, 1e-3))
        within = min(max(wanted, task.request["min_calls"]), task.request["max_calls"])
        self._calls[number] = within

    def run(self, number: int, task: Task) -> dict[str, Any]:
        """Return what one fresh process took, as `child.py` would word it."""
        calls = self._calls[number]
        warm_up = math.ceil(WARM_UP * calls)
        found = self._timed(f"m{number}", task, calls + warm_up)
        peak = max(0, found.peak_bytes - self._bare_bytes)
        timed = found.wall_ms[warm_up:]
        return {
            "wall_ms": timed,
            "waited_ms": [0.0] * len(timed),
            "warmup_calls": warm_up + 1,
            "cold_start_ms": found.cold_start_ms,
            "peak_memory_bytes": peak,
            "load_memory_bytes": peak,  # not told apart
            "uncontrolled": [] if self._cores else ["not pinned to a core"],
            "conditions": [
                f"parity with this host was not checked: {TOOL} gives no outputs",
                "memory is the peak less that of a one-operator model; the first inference is "
                "timed to the millisecond",
            ],
        }

    def _bare_size(self) -> int:
        """Return the peak of a process with a model of one operator: that of the runtime alone."""
        with TemporaryDirectory(prefix="edgecompress-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(_smallest_model())
            self._put("bare", path, {"x": np.zeros(1, np.float32)})
        return self._timed("bare", None, PROBE_CALLS).peak_bytes

    def _put(self, name: str, model: Path, inputs: Arrays) -> None:
        """Lay a model and its inputs out as the tool wants them."""
        self._place.run(f"mkdir -p {name}/data")
        self._place.put(model, f"{name}/model.onnx")
        with TemporaryDirectory(prefix="edgecompress-") as folder:
            for place, (tensor, array) in enumerate(inputs.items()):
                file = Path(folder) / f"input_{place}.pb"
                file.write_bytes(numpy_helper.from_array(array, tensor).SerializeToString())
                self._place.put(file, f"{name}/data/{file.name}")

    def _timed(self, name: str, task: Task | None, calls: int) -> _Result:
        threads = task.request["threads"] if task else 1
        mask = sum(1 << core for core in self._cores)
        pinned = f"taskset {mask:x} " if mask else ""
        library = shlex.quote(posixpath.dirname(self._tool))
        ran = self._place.process(
            f"rm -f result; LD_LIBRARY_PATH={library} {pinned}{shlex.quote(self._tool)} -e cpu "
            f"-m times -r {calls} -x {threads} -y 1 -D {name}/model.onnx result"
        )
        if ran.code != 0:
            raise self._refusal(ran.output, task)
        return read_result(self._place.get("result").decode(), ran.output, self._place.device.name)

    def _refusal(self, words: str, task: Task | None) -> DeviceError | ModelError:
        device = self._place.device.name
        refuse_full_disk(self._place, words)
        if is_other_abi(words) or "CANNOT LINK" in words or "taskset" in words or task is None:
            return DeviceError(f"{device}: {self._tool} does not run there ({last_line(words)})")
        return ModelError(f"{task.model.path}: does not run on {device}: {last_line(words)}")


def read_result(rows: str, printed: str, device: str) -> _Result:
    """Read the tool's result file and what it printed; raise DeviceError when they are others."""
    try:
        columns = [row.rsplit(",", 4) for row in rows.splitlines() if row.count(",") >= 4]
        wall = tuple(float(seconds) * 1e3 for _, seconds, _, _, _ in columns)
        peak = max(int(bytes_) for _, _, bytes_, _, _ in columns)
    except ValueError as error:
        raise DeviceError(
            f"{device}: {TOOL} wrote no result that can be read ({last_line(rows)}); use the one "
            "of ONNX Runtime's own sources"
        ) from error
    creation, first = _CREATION.search(printed), _FIRST.search(printed)
    if creation is None or first is None:
        raise DeviceError(
            f"{device}: {TOOL} does not say how long the first inference took; "
            "it is too old, build a newer one"
        )
    return _Result(wall, peak, float(creation[1]) * 1e3 + float(first[1]))


def _smallest_model() -> bytes:
    """Return a model of one operator, of versions that any build of the tool reads."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "bare", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


def find_tool(place: Workplace) -> str | None:
    """Return the path of the tool there, None where it is not; raise DeviceError if it is unfit."""
    scratch = place.device.scratch
    ran = place.run(f"ls -d {scratch}/{TOOL} {scratch}/*/{TOOL} 2>/dev/null | head -n 1")
    if not (tool := ran.output.strip()):
        return None
    library = shlex.quote(posixpath.dirname(tool))
    tried = place.run(f"LD_LIBRARY_PATH={library} {shlex.quote(tool)} -h").output
    if is_other_abi(tried):
        abi = place.run("getprop ro.product.cpu.abi 2>/dev/null || uname -m").output
        raise DeviceError(
            f"{place.device.name}: {tool} is built for another processor than this {abi} "
            f"({last_line(tried)}); build it for {abi} and push that"
        )
    if "CANNOT LINK" in tried or "shared librar" in tried or "ermission denied" in tried:
        raise DeviceError(
            f"{place.device.name}: {tool} does not start ({last_line(tried)}); "
            f"'chmod 755' it and push its libraries beside it"
        )
    return tool


def tool_version(place: Workplace, tool: str) -> str:
    """Return the version of ONNX Runtime that the library beside the tool carries."""
    folder = shlex.quote(posixpath.dirname(tool))
    ran = place.run(
        f"grep -ahoE 'VERS_1\\.[0-9]+\\.[0-9]+' {folder}/libonnxruntime.so 2>/dev/null | head -n 1"
    )
    found = ran.output.strip()
    return f"onnxruntime {found.removeprefix('VERS_')}" if found else "onnxruntime, version untold"
