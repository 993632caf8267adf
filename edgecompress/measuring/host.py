"""Say what this machine is, and what a measurement on it can and cannot control."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from edgecompress.profiles import Device, Isa, isa_of

SATURATES: Isa = "x86-avx2"

# Instructions that change which kernels ONNX Runtime picks, as Linux spells them.
_ISA = {
    "sse4_1": "sse4.1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni",
    "avx512_bf16": "avx512-bf16",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}


@dataclass(frozen=True)
class Host:
    """Describe this machine. `quota` is the number of cores a cgroup grants, None for all."""

    cpu: str
    cores: tuple[int, ...]
    isa: tuple[str, ...]
    system: str
    governor: str | None
    quota: float | None
    pinning: bool
    counts_waiting: bool
    resets_peak_memory: bool
    onnxruntime: str

    @property
    def fingerprint(self) -> str:
        """Name all that a latency depends on, in one line; another line is another machine."""
        parts = [self.cpu, f"{len(self.cores)} cores", self.system]
        parts += [f"governor {self.governor}"] if self.governor else []
        parts += [f"quota {self.quota:g}"] if self.quota else []
        return ", ".join([*parts, f"onnxruntime {self.onnxruntime}"])

    @property
    def limits(self) -> tuple[str, ...]:
        """Say in words what a measurement here cannot control."""
        return tuple(
            words
            for missing, words in (
                (not self.pinning, "a process cannot be pinned to a core"),
                (not self.counts_waiting, "waiting for a core is not counted (no schedstat)"),
                (not self.resets_peak_memory, "peak memory includes the start of Python"),
                (
                    self.governor not in (None, "performance"),
                    f"the clock follows the load (governor {self.governor})",
                ),
                (self.quota is not None, f"a quota of {self.quota or 0:g} cores may throttle"),
            )
            if missing
        )


def describe_host() -> Host:
    """Return what this machine is."""
    return Host(
        cpu=_cpu(),
        cores=usable_cores(),
        isa=_isa(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        quota=_quota(),
        pinning=hasattr(os, "sched_setaffinity"),
        counts_waiting=Path("/proc/thread-self/schedstat").exists(),
        resets_peak_memory=os.access("/proc/self/clear_refs", os.W_OK),
        onnxruntime=version("onnxruntime"),
    )


def saturates_int8(isa: Sequence[str]) -> bool:
    """Return whether products of unsigned and signed 8 bits saturate at 16 bits with `isa`.

    So they do on x86 without VNNI, where two of them are added in 16 bits (`vpmaddubsw`); with
    7-bit weights they fit. Arm widens first.
    """
    return isa_of(isa) == SATURATES


def fleet_of(device: Device) -> tuple[Isa, ...]:
    """Return what a device's fleet computes int8 with: what it names, else what it is itself."""
    own = isa_of(describe_host().isa if device.host else device.isa)
    return tuple(dict.fromkeys(device.fleet)) or ((own,) if own else ())


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on, in order."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def free_memory() -> int:
    """Return the bytes that a new process may fill before the system has to end one."""
    free = [int(psutil.virtual_memory().available)]
    for folder in _groups("memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        if limit.isdecimal() and used.isdecimal():
            pages = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            cached = int(pages.get("inactive_file", 0))  # given back when it is needed
            free.append(int(limit) - int(used) + cached)
    return max(0, min(free))


def throttled_periods() -> int:
    """Return how often a CPU quota has stopped this process's groups so far."""
    return sum(
        int(line.split()[1])
        for folder in _groups()
        for line in _read(folder / "cpu.stat").splitlines()
        if line.startswith("nr_throttled")
    )


def _cpu() -> str:
    fields = _cpuinfo()
    if name := fields.get("model name"):
        return name
    if platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if part := fields.get("CPU part"):  # Arm names its cores by number
        return f"implementer {fields.get('CPU implementer', '?')} part {part}"
    return platform.processor() or platform.machine()


def _isa() -> tuple[str, ...]:
    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return tuple(dict.fromkeys(name for flag, name in _ISA.items() if flag in flags))


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first core."""
    lines = _read("/proc/cpuinfo").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _quota() -> float | None:
    """Return the tightest CPU quota of this process's control groups, in cores."""
    quotas = []
    for folder in _groups():
        new = _read(folder / "cpu.max").split()  # cgroup v2: "max 100000" or "50000 100000"
        old = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        for pair in (new, old):
            if len(pair) == 2 and pair[0].isdecimal() and pair[1].isdecimal():
                quotas.append(int(pair[0]) / int(pair[1]))
    return min(quotas, default=None)


def _groups(controller: str = "cpu") -> Iterator[Path]:
    """Yield the folders of this process's control groups for one resource, up to the root."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = Path("/sys/fs/cgroup") / controllers
        inside = top / name.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(top) and folder.is_dir():
                yield folder


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
