"""Read what a device is and how it fares: cores, clocks, governor, temperature, memory, battery."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from edgecompress.errors import DeviceError
from edgecompress.measuring.targets.device import Device, last_line

# Part numbers of /proc/cpuinfo, by implementer: the kernel's arch/arm64/include/asm/cputype.h,
# and util-linux's lscpu for Qualcomm's, which are Arm designs under other numbers.
_ARM, _QUALCOMM = 0x41, 0x51
_PARTS = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_QUALCOMM, 0x800): "Cortex-A73",
    (_QUALCOMM, 0x801): "Cortex-A53",
    (_QUALCOMM, 0x802): "Cortex-A75",
    (_QUALCOMM, 0x803): "Cortex-A55",
    (_QUALCOMM, 0x804): "Cortex-A76",
    (_QUALCOMM, 0x805): "Cortex-A55",
}

# One question for all: each answer begins with a line of its own. What a device lacks stays empty.
_QUESTION = """\
say() { echo "@$1"; }
no_zeros() { [ -r "$1" ] && tr -d '\\000' < "$1" && echo; }
read_one() { cat "$1" 2>/dev/null; }
say system; uname -s -r -m 2>/dev/null
say model; getprop ro.product.manufacturer 2>/dev/null; getprop ro.product.model 2>/dev/null
no_zeros /proc/device-tree/model
say serial; getprop ro.serialno 2>/dev/null
no_zeros /proc/device-tree/serial-number
say abi; getprop ro.product.cpu.abi 2>/dev/null
say cpuinfo; cat /proc/cpuinfo 2>/dev/null
say allowed; grep Cpus_allowed_list /proc/self/status 2>/dev/null
say clocks
for c in /sys/devices/system/cpu/cpu[0-9]*; do f=$c/cpufreq
echo "${c##*/cpu}|$(read_one $f/cpuinfo_max_freq)|$(read_one $f/scaling_max_freq)|\
$(read_one $f/scaling_cur_freq)|$(read_one $f/scaling_governor)"; done
say memory; grep MemAvailable /proc/meminfo 2>/dev/null
say temperature
for z in /sys/class/thermal/thermal_zone*; do
[ -r $z/temp ] && echo $(cat $z/type $z/temp 2>/dev/null); done
say battery
for b in /sys/class/power_supply/*; do
[ "$(cat $b/type 2>/dev/null)" = Battery ] && cat $b/capacity 2>/dev/null; done
dumpsys battery 2>/dev/null | grep level
say end"""


@dataclass(frozen=True)
class Core:
    """Describe one core: what design it is, its clock (highest, allowed now, now) and governor."""

    number: int
    design: str = ""
    max_mhz: float = 0.0
    allowed_mhz: float = 0.0
    now_mhz: float = 0.0
    governor: str = ""


@dataclass(frozen=True)
class Facts:
    """Describe a device at one moment; what it does not tell is empty or None."""

    model: str
    serial: str
    abi: str
    system: str
    cores: tuple[Core, ...]
    memory_mb: float | None
    temperature_c: float | None
    battery_percent: float | None

    @property
    def description(self) -> str:
        """Name all that a latency depends on, but for the runtime, in one line."""
        serial = f"serial {self.serial}" if self.serial else ""
        governors = " and ".join(dict.fromkeys(c.governor for c in self.cores if c.governor))
        governor = f"governor {governors}" if governors else ""
        parts = (self.model, serial, self._clusters(), self.abi, self.system, governor)
        return ", ".join(part for part in parts if part)

    def state(self, pinned: Sequence[int]) -> str:
        """Say how the device fares now: the pinned cores' clocks, heat, memory, battery."""
        clocks = [
            f"core {c.number} at {c.now_mhz:.0f} of {c.max_mhz:.0f} MHz"
            for c in self.cores
            if c.number in pinned and c.max_mhz
        ]
        parts = [*clocks]
        parts += [f"{self.temperature_c:.0f} °C"] if self.temperature_c is not None else []
        parts += [f"{self.memory_mb:.0f} MB free"] if self.memory_mb is not None else []
        parts += [f"battery {self.battery_percent:.0f} %"] if self.battery_percent else []
        return ", ".join(parts) or "clocks, heat and memory not told"

    def _clusters(self) -> str:
        names = [core.design or "core" for core in self.cores]
        return " + ".join(f"{len(list(run))} x {name}" for name, run in groupby(names))


def read_facts(device: Device) -> Facts:
    """Ask the device; raise DeviceError when it does not understand."""
    ran = device.run(_QUESTION)
    found = _sections(ran.output)
    if "end" not in found:
        raise DeviceError(
            f"{device.name}: its shell does not answer as expected ({last_line(ran.output)}); "
            "a POSIX shell is needed"
        )
    return Facts(
        model=" ".join(found["model"]),
        serial=(found["serial"] or [""])[0],
        abi=(found["abi"] or [""])[0],
        system=(found["system"] or [""])[0],
        cores=tuple(_cores(found)),
        memory_mb=_first_number(found["memory"], 1024 / 1e6),
        temperature_c=_temperature(found["temperature"]),
        battery_percent=_first_number(found["battery"], 1),
    )


def pick_cores(facts: Facts, wanted: str, threads: int) -> tuple[int, ...]:
    """Return the cores to pin to, in order: those of the design that `wanted` names, else the
    fastest; of several alike the last, for the first one serves most interrupts.

    Where the cluster has fewer cores than `threads`, the next fastest join. Empty where the
    device tells nothing of its cores.
    """
    ranked = sorted(
        facts.cores,
        key=lambda core: (_is_named(core.design, wanted), core.max_mhz, core.number),
    )
    return tuple(sorted(core.number for core in ranked[-threads:]))


def other_cores(facts: Facts, wanted: str, pinned: Sequence[int]) -> tuple[str, ...]:
    """Say it where a device that names its cores has none of the design that `wanted` names."""
    designs = dict.fromkeys(core.design for core in facts.cores if core.design)
    if not wanted or not designs or any(_is_named(design, wanted) for design in designs):
        return ()
    used = dict.fromkeys(core.design for core in facts.cores if core.number in pinned)
    return (f"the device has no {wanted}, the profile's core: pinned to its {' and '.join(used)}",)


def throttling(before: Facts, after: Facts, pinned: Sequence[int]) -> tuple[str, ...]:
    """Say which pinned cores the device slowed down between two moments."""
    now = {core.number: core.allowed_mhz for core in after.cores}
    return tuple(
        f"the device throttled core {core.number} from {core.allowed_mhz:.0f} to "
        f"{now.get(core.number, 0):.0f} MHz"
        for core in before.cores
        if core.number in pinned and now.get(core.number, 0) < core.allowed_mhz
    )


def _is_named(design: str, wanted: str) -> bool:
    return bool(design) and re.search(rf"{re.escape(design)}(?!\w)", wanted) is not None


def _sections(output: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output.splitlines():
        if line.startswith("@"):
            lines = found.setdefault(line[1:].strip(), [])
        else:
            lines.append(line.strip())
    return {name: [line for line in text if line] for name, text in found.items()}


def _cores(found: dict[str, list[str]]) -> Iterator[Core]:
    """Yield the cores that a process may run on."""
    designs, allowed = dict(_designs(found["cpuinfo"])), _allowed(found["allowed"])
    rows = (line.split("|") for line in found["clocks"])
    # A pattern that matches no file stays as it is.
    clocks = {int(row[0]): row[1:] for row in rows if len(row) == 5 and row[0].isdecimal()}
    for number in sorted(designs | clocks):
        if allowed and number not in allowed:
            continue
        *khz, governor = clocks.get(number, ["", "", "", ""])
        most, most_now, now = (int(text) / 1e3 if text.isdecimal() else 0.0 for text in khz)
        yield Core(number, designs.get(number, ""), most, most_now, now, governor)


def _designs(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield each core's number and design from /proc/cpuinfo."""
    number, implementer = -1, 0
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor" and value.isdecimal():
            number = int(value)
            yield number, ""
        elif name == "model name" and number >= 0:
            yield number, value
        elif name == "CPU implementer":
            implementer = int(value, 16)
        elif name == "CPU part" and number >= 0:
            part = int(value, 16)
            yield number, _PARTS.get((implementer, part), f"part {implementer:#x}:{part:#x}")


def _allowed(lines: Sequence[str]) -> set[int]:
    """Read a list of cores such as `Cpus_allowed_list: 0-3,6`."""
    found: set[int] = set()
    for span in (lines or [":"])[0].partition(":")[2].strip().split(","):
        first, _, last = span.partition("-")
        if first.isdecimal():
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _first_number(lines: Sequence[str], scale: float) -> float | None:
    digits = [found for line in lines if (found := re.search(r"\d+", line))]
    return float(digits[0][0]) * scale if digits else None


def _temperature(lines: Sequence[str]) -> float | None:
    """Return the highest temperature of the processor, or of any zone, in °C."""
    found: list[tuple[bool, float]] = []
    for line in lines:
        kind, _, text = line.rpartition(" ")
        if re.fullmatch(r"\d+", text):
            value = float(text)
            value = value / 1000 if value >= 1000 else value
            if 0 < value < 150:
                found.append(("cpu" in kind.lower(), value))
    return max(found)[1] if found else None
