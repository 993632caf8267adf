"""The members of a fleet: which processors its int8 files meet, and what one answers on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgecompress.profiles import Device, Isa
from edgecompress.runtime import Arrays, ModelFacts
from edgecompress.verifying.emulators import Kits, absence
from edgecompress.verifying.golden import from_arrays
from edgecompress.verifying.machines import emulated, native, outputs_on
from edgecompress.verifying.processors import Processor, imitable

NO_VNNI = "qemu imitates no VNNI; run this on an x86 that has it"


@dataclass(frozen=True)
class Member:
    """Name one kind of processor of a fleet; `processor` is None where it is this host's own.

    `missing` says why its kernels cannot run here and now, with the remedy; nothing where they can.
    """

    name: str
    processor: Processor | None = None
    missing: str = ""


def members(
    device: Device, fleet: Sequence[Isa], own: Isa | None, kits: Kits
) -> tuple[Member, ...]:
    """Return the members of a fleet; `own` is this host's instruction set, not imitated."""
    found = [Member(f"this host ({own})")] if own in fleet else []
    if "x86-vnni" in fleet and own != "x86-vnni":
        found.append(Member("x86-vnni", missing=NO_VNNI))
    others = [processor for processor in imitable(device, fleet) if processor.isa != own]
    return (*found, *(Member(p.name, p, absence(p.isa, kits)) for p in others))


def answers(
    member: Member, kits: Kits, facts: ModelFacts, samples: Arrays, seconds: float
) -> NDArray[Any]:
    """Return the model's main output on a member, called as an app calls it: one sample a call.

    Raise RefusedError when ONNX Runtime refuses the model there, ChildFailedError when the process
    crashes or is not done after `seconds`.
    """
    machine = native() if member.processor is None else emulated(kits, member.processor)
    golden = from_arrays(facts, samples, "samples", None)
    outputs = outputs_on(machine, facts.model, golden.calls, seconds)
    name = next((o.name for o in facts.outputs if "float" in o.dtype), facts.outputs[0].name)
    return golden.rows(outputs[name])
