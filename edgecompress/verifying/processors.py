"""The processors that can be imitated here, and which of them stands for a profile's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgecompress.errors import UsageError
from edgecompress.profiles import Device
from edgecompress.settings import did_you_mean

Isa = Literal["arm64", "x86-avx2"]
ISAS: tuple[Isa, ...] = get_args(Isa)

_ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2 = f"{_ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True)
class Processor:
    """Name a processor: `model` as qemu spells it, `part` and `features` as Linux does.

    ONNX Runtime picks its kernels by what /proc/cpuinfo says. Features that the imitated
    processor lacks end it with an illegal instruction, so the two must agree.
    """

    name: str
    isa: Isa
    model: str
    part: str = ""
    features: str = ""

    @property
    def cpuinfo(self) -> str:
        """Return what /proc/cpuinfo holds on an Arm machine with one such core."""
        fields = (
            ("processor\t", "0"),
            ("BogoMIPS\t", "100.00"),
            ("Features\t", self.features),
            ("CPU implementer\t", "0x41"),
            ("CPU architecture", "8"),
            ("CPU variant\t", "0x0"),
            ("CPU part\t", self.part),
            ("CPU revision\t", "1"),
        )
        return "".join(f"{name}: {value}\n" for name, value in fields) + "\n"


# `max` has all that qemu knows but SVE, which makes floats nine times slower; it goes by the part
# number of a Cortex-X2, the first with 8-bit matrix products.
_MAX = "max,sve=off,sme=off,pauth-impdef=on"
PROCESSORS = (
    Processor("cortex-a53", "arm64", "cortex-a53", "0xd03", _ARMV8),
    Processor("cortex-a72", "arm64", "cortex-a72", "0xd08", _ARMV8),
    Processor("cortex-a76", "arm64", "cortex-a76", "0xd0b", _ARMV8_2),
    Processor("max", "arm64", _MAX, "0xd48", f"{_ARMV8_2} i8mm bf16"),
    Processor("haswell", "x86-avx2", "Haswell"),
)
# Without and with dot products: the two sets of 8-bit kernels that phones and boards run.
_USUAL: dict[Isa, tuple[str, ...]] = {
    "arm64": ("cortex-a53", "cortex-a76"),
    "x86-avx2": ("haswell",),
}


def choose(isas: Sequence[str], cpus: Sequence[str] = ()) -> tuple[Processor, ...]:
    """Return the processors that `--isa` and `--cpu` ask for, each once; `cpus` choose for arm64.

    Raise UsageError for a name that is not known, and for `--cpu` without arm64.
    """
    arms = [p.name for p in PROCESSORS if p.isa == "arm64"]
    for option, given, known in (("--isa", isas, list(ISAS)), ("--cpu", cpus, arms)):
        for name in given:
            if name not in known:
                near = did_you_mean(name, known) or f"; expected one of {', '.join(known)}"
                raise UsageError(f"{option} {name}: not known{near}")
    if cpus and "arm64" not in isas:
        raise UsageError(f"--cpu {cpus[0]}: chooses among arm64 processors; add --isa arm64")
    names = [
        name
        for isa in ISAS
        if isa in isas
        for name in (cpus if cpus and isa == "arm64" else _USUAL[isa])
    ]
    return tuple(p for p in PROCESSORS if p.name in names)


def imitable(device: Device, fleet: Sequence[str]) -> tuple[Processor, ...]:
    """Return the processors to imitate for a device: its own, and those of the fleet it names.

    This host's own instruction set is among them; what qemu cannot imitate (VNNI) is not.
    """
    own = standing_for(device.core, device.isa)
    usual = choose([isa for isa in ISAS if isa in fleet]) if device.fleet or own is None else ()
    return tuple(p for p in PROCESSORS if p in usual or p == own)


def standing_for(core: str, features: Sequence[str]) -> Processor | None:
    """Return the processor that runs the kernels of a profile's device, None if it is not Arm's.

    The device's own core where qemu knows it, else the one with the same 8-bit kernels.

    >>> standing_for("Cortex-A55", ("neon", "fp16", "dotprod")).name
    'cortex-a76'
    """
    if "neon" not in features:
        return None
    name = core.lower()
    if "i8mm" in features:
        fallback = "max"
    else:
        fallback = "cortex-a76" if "dotprod" in features else "cortex-a53"
    by_name = {p.name: p for p in PROCESSORS if p.isa == "arm64"}
    return by_name.get(name, by_name[fallback])
