"""Channel curves: how long a layer takes at each width on this machine, and which widths gain.

Kernels take channels in blocks, so that fewer channels are often no faster, and sometimes slower.
How large the blocks are depends on the kernel, the number format and the processor: it is measured.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from edgecompress.measuring.explain import ask_child
from edgecompress.measuring.explained import Layer, Timing
from edgecompress.measuring.host import describe_host
from edgecompress.measuring.lock import alone
from edgecompress.records import OnnxModel
from edgecompress.store import digest_of, room_digest, user_cache, write_atomic

LayerKind = Literal["conv3x3", "pointwise", "depthwise", "dense"]
Form = Literal["float", "unsigned"]
"""Float, or static int8."""
SIZES = (8, 16, 32)
"""Heights, and widths, of the maps that convolutions are timed on."""
WIDTHS = (*range(4, 64, 4), 63, *range(64, 129, 8), *range(144, 257, 16))
LEAST_GAIN = 0.03  # the share of a layer's time below which nobody would notice
SECONDS = 120.0
_CODE = ("measuring/curves.py", "measuring/trial_child.py")
_NOBODY = OnnxModel(Path("channel curves"), "", 0)  # these layers are of no model


@dataclass(frozen=True)
class Curve:
    """Hold the time of one kind of layer at each width, as many channels in as out.

    `size` is the height and width of the map, 1 for a dense layer; `turns_ms` stand in the order of
    `widths`, which rise.
    """

    kind: LayerKind
    size: int
    form: Form
    widths: tuple[int, ...]
    turns_ms: tuple[tuple[float, ...], ...]

    @cached_property
    def timings(self) -> Mapping[int, Timing]:
        """Return the timing at each width."""
        return {w: Timing(t) for w, t in zip(self.widths, self.turns_ms, strict=True)}


def next_faster_width(curve: Curve, width: int) -> int | None:
    """Return the largest narrower width that is faster beyond noise; None where there is none.

    Raises ValueError for a width that is not on the curve.

    >>> turns = tuple((ms,) * 5 for ms in (1.0, 2.0, 3.0, 2.0))
    >>> next_faster_width(Curve("dense", 1, "float", (8, 16, 31, 32), turns), 32)
    8
    """
    if width not in curve.timings:
        raise ValueError(f"width {width} is not on the curve: {', '.join(map(str, curve.widths))}")
    own = curve.timings[width]
    narrower = (w for w in reversed(curve.widths) if w < width)
    return next((w for w in narrower if curve.timings[w].gain_over(own) > LEAST_GAIN), None)


def gaining_widths(curve: Curve) -> tuple[int, ...]:
    """Return the widths worth having, the widest first: each is faster than all before it."""
    found, width = [], max(curve.widths, default=None)
    while width is not None:
        found.append(width)
        width = next_faster_width(curve, width)
    return tuple(found)


def measure_curves(
    form: Form = "float", threads: int = 1, progress: Callable[[str], None] | None = None
) -> tuple[Curve, ...]:
    """Return a curve of each kind and size, timed in one fresh, pinned process on this host.

    Layers of one curve take turns; no other measurement runs on the machine meanwhile. Raise
    ChildFailedError when the process dies.
    """
    kinds: tuple[LayerKind, ...] = ("conv3x3", "pointwise", "depthwise")
    places: list[tuple[LayerKind, int]] = [(kind, size) for kind in kinds for size in SIZES]
    places.append(("dense", 1))
    layers = [[layer(kind, size, form, width) for width in WIDTHS] for kind, size in places]
    request = {"questions": [list(map(asdict, curve)) for curve in layers], "seconds": SECONDS}
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder, alone(say):
        say(f"timing layers of {len(WIDTHS)} widths")
        told = ask_child("trial_child.py", _NOBODY, request, threads, Path(folder))
    return tuple(
        _curve(kind, size, form, turns)
        for (kind, size), turns in zip(places, told["turns_ms"], strict=True)
    )


def kept_curves(
    folder: Path | None = None,
    form: Form = "float",
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> tuple[Curve, ...]:
    """Return this machine's curves, measured once and kept in `folder`, or in the user's cache.

    A file is named after the machine, its ONNX Runtime, and how and what was timed. One that cannot
    be read is made again, and one that cannot be written is done without; curves that time ran out
    for are not kept.
    """
    machine = {"host": describe_host().fingerprint, "threads": threads, "form": form}
    machine |= {"widths": WIDTHS, "sizes": SIZES, "code": [room_digest(room) for room in _CODE]}
    file = (folder or user_cache() / "curves") / f"curves-{digest_of(machine)[:16]}.json"
    kind = TypeAdapter(tuple[Curve, ...])
    try:
        return kind.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        curves = measure_curves(form, threads, progress)
        if all(curve.widths for curve in curves):
            with contextlib.suppress(OSError):
                write_atomic(file, kind.dump_json(curves))
        return curves


def layer(kind: LayerKind, size: int, form: Form, width: int) -> Layer:
    """Return a layer with as many channels in as out."""
    if kind == "dense":
        return Layer("MatMul", form, (1, width), (width, width))
    shape = (1, width, size, size)
    match kind:
        case "pointwise":
            return Layer("Conv", form, shape, (width, width, 1, 1))
        case "conv3x3":
            return Layer("Conv", form, shape, (width, width, 3, 3), {"pads": [1] * 4})
        case "depthwise":
            attributes: dict[str, int | list[int]] = {"pads": [1] * 4, "group": width}
            return Layer("Conv", form, shape, (width, 1, 3, 3), attributes)


def _curve(kind: LayerKind, size: int, form: Form, turns: list[Any]) -> Curve:
    """Return the curve of the widths that ran."""
    ran = [(w, tuple(t)) for w, t in zip(WIDTHS, turns, strict=True) if t is not None]
    return Curve(kind, size, form, tuple(w for w, _ in ran), tuple(t for _, t in ran))
