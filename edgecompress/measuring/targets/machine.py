"""Let a device measure in the host's place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import onnx
from onnx.external_data_helper import uses_external_data

from edgecompress.errors import DeviceError, ModelError
from edgecompress.measuring.latency import (
    Bench,
    Machine,
    Surroundings,
    Task,
    this_host,
)
from edgecompress.measuring.targets.device import last_line
from edgecompress.measuring.targets.facts import (
    Facts,
    other_cores,
    pick_cores,
    read_facts,
    throttling,
)
from edgecompress.measuring.targets.perf_test import (
    TOOL,
    PerfTestRunner,
    find_tool,
    tool_version,
)
from edgecompress.measuring.targets.python_runner import (
    PythonRunner,
    find_python,
    is_other_abi,
)
from edgecompress.measuring.targets.session import Workplace, connected, workplace
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.records import OnnxModel


class Runner(Protocol):
    """Runs one model in a fresh process of a device."""

    runtime: str

    def prepare(self, number: int, task: Task, cores: Sequence[int]) -> None:
        """Push what the model's processes need."""

    def run(self, number: int, task: Task) -> dict[str, Any]:
        """Return the answer of one fresh process, as `child.py` words it."""


def machine_of(target: Target, core: str = "") -> Machine:
    """Return the machine that `target` names, this host among them."""
    return this_host if target == HOST else on_device(target, core)


def on_device(target: Target, core: str = "") -> Machine:
    """Return the machine that `target` names; processes are pinned to the cluster of `core`.

    `core` is a profile's `device.core`; without it, the fastest cores. The machine raises
    DeviceError, one line with what to do, and leaves nothing behind.
    """

    @contextmanager
    def machine(tasks: Mapping[str, Task]) -> Iterator[Bench]:
        with connected(target) as device, workplace(device) as place:
            yield _DeviceBench(place, tasks, core)

    return machine


def fingerprint(target: Target) -> str:
    """Name all that a latency on the device depends on, in one line; connects to it."""
    with connected(target) as device, workplace(device) as place:
        facts = read_facts(device)
        return f"{target}: {facts.description}, {find_runner(place, facts).runtime}"


class _DeviceBench:
    def __init__(self, place: Workplace, tasks: Mapping[str, Task], core: str) -> None:
        self._place, self._tasks = place, tasks
        self._before = read_facts(place.device)
        self._runner = find_runner(place, self._before)
        self._numbers = {label: number for number, label in enumerate(tasks)}
        threads = max((task.request["threads"] for task in tasks.values()), default=1)
        self._cores = pick_cores(self._before, core, threads)
        self._others = other_cores(self._before, core, self._cores)
        for label, task in tasks.items():
            refuse_split(task.model)
            self._runner.prepare(self._numbers[label], self._limited(task), self._cores)

    def _limited(self, task: Task) -> Task:
        """Return the task with the device's free memory as the most that it may take."""
        if self._before.memory_mb is None:
            return task
        most = {"memory_bytes": int(self._before.memory_mb * 1e6)}
        return replace(task, request={**task.request, **most})

    def run(self, label: str) -> dict[str, Any]:
        return self._runner.run(self._numbers[label], self._tasks[label])

    def surroundings(self) -> Surroundings:
        before, after = self._before, read_facts(self._place.device)
        device = self._place.device.name
        pinned = ", ".join(map(str, self._cores))
        return Surroundings(
            machine=f"{device}: {before.description}, {self._runner.runtime}",
            uncontrolled=(*self._others, *throttling(before, after, self._cores)),
            conditions=(
                f"{device} pinned to core {pinned}" if pinned else f"{device} not pinned",
                f"before: {before.state(self._cores)}",
                f"after: {after.state(self._cores)}",
            ),
        )


def refuse_split(model: OnnxModel) -> None:
    """Refuse a model that keeps weights in another file: one file is what is pushed."""
    loaded = onnx.load(model.path, load_external_data=False)
    if any(map(uses_external_data, loaded.graph.initializer)):
        raise ModelError(
            f"{model.path}: keeps weights in another file, and a device is sent one file; "
            "save it as one (onnx.save without save_as_external_data)"
        )


def find_runner(place: Workplace, facts: Facts) -> Runner:
    """Return what can measure there; raise DeviceError that says how to get it."""
    try:
        python, version = find_python(place)
    except LookupError as error:
        tool = find_tool(place)
        if tool is None:
            raise _no_runner(place, facts, str(error)) from error
        return PerfTestRunner(place, tool, tool_version(place, tool))
    return PythonRunner(place, python, version)


def _no_runner(place: Workplace, facts: Facts, tried: str) -> DeviceError:
    """Return the error of a device that cannot measure yet, with what it lacks."""
    name, processor = place.device.name, facts.abi or facts.system.rpartition(" ")[2]
    if is_other_abi(tried):
        words = next(line for line in tried.splitlines() if is_other_abi(line))
        return DeviceError(
            f"{name}: the onnxruntime there is built for another processor than this {processor} "
            f"({last_line(words)}); install the one for it"
        )
    missing = re.search(r"No module named '(numpy|onnxruntime)'", tried)
    lacks = f"its Python has no {missing[1]}" if missing else "no Python found there"
    if name.startswith("adb"):
        return DeviceError(
            f"{name}: cannot measure yet ({lacks}, and no {TOOL}); push {TOOL} built for "
            f"{processor} (ONNX Runtime's build.sh --android) with its libraries to "
            f"{place.device.scratch}, or a Python with numpy and onnxruntime to "
            f"{place.device.scratch}/python"
        )
    if re.match(r"armv[67]", processor):
        return DeviceError(
            f"{name}: {lacks}, and PyPI has no onnxruntime for {processor}; use a 64-bit system"
        )
    return DeviceError(
        f"{name}: {lacks}; run there: python3 -m venv ~/.edgecompress && "
        "~/.edgecompress/bin/pip install onnxruntime"
    )
