"""Turn fitted costs into the `[prediction]` tables of the shipped profiles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log
from statistics import median

import numpy as np
from mixed import Fitted, Mixed
from table import COLUMNS, Floats, Row

UNITS = {
    **dict.fromkeys(list(COLUMNS.values())[:7], "ns a MAC"),
    "elementwise": "ns a byte",
    "exponential": "ns a byte",
    "layer": "ms a layer",
    "parameter": "ns a weight",
    "convolved": "ns a byte",
    "unaligned": "ns a MAC",
}
OLD_BUILD = "RK3588 board"  # its rows are labelled fp32, its cores' other boards fp16
RUNTIME_FACTOR = 1.25  # of 43 comparisons, max/min: median 1.19, p90 1.44: sd 0.22 of the log


@dataclass(frozen=True)
class Source:
    """Say which cores a profile's costs come from, and at which clock they are wanted."""

    devices: tuple[str, ...]
    cores: tuple[str, ...]
    clock_ghz: float
    words: str
    spec_sheet: bool = False
    extra: float = 0.0

    def holds(self, row: Row) -> bool:
        """Return whether a row is of one of these cores."""
        if row.device == OLD_BUILD or row.server:
            return False
        return row.device.startswith(self.devices) and row.core.startswith(self.cores)


ANY = ("",)
SOURCES = {
    "android-cpu": Source(ANY, ("Cortex-A76", "Cortex-A78"), 2.4, "Cortex-A76 and A78"),
    "android-low": Source(ANY, ("Cortex-A53", "Cortex-A55"), 1.8, "Cortex-A53 and A55"),
    "android-flagship": Source(ANY, ("Cortex-X",), 3.2, "Cortex-X3 and X4"),
    "ios-cpu": Source(
        ("MacBook M1",), ANY, 3.23, "SPEC SHEET ONLY: a MacBook M1 (Firestorm at 3.2 GHz, one "
        "generation before Avalanche) stands in for the phone", True, 0.2,
    ),
    "raspberry-pi-zero-2w": Source(("Raspberry Pi Zero 2 W",), ANY, 1.0, "the board itself"),
    "raspberry-pi-3": Source(("Raspberry Pi 3",), ANY, 1.4, "a Raspberry Pi 3B+"),
    "raspberry-pi-4": Source(("Raspberry Pi 4",), ANY, 1.8, "the board itself"),
    "raspberry-pi-5": Source(("Raspberry Pi 5",), ANY, 2.4, "the board itself"),
}  # fmt: skip


def half_precision_ratio(rows: Sequence[Row]) -> float:
    """Return how much slower floats run in single precision than in half, on the same cores.

    ncnn computes in half precision where the core can, ONNX Runtime does not. One board's older
    build did not either: its float rows over those of other boards of the same core and clock.
    """
    times: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if not row.int8:
            times.setdefault((row.device, row.core), {})[row.model] = row.latency_ms
    ratios = []
    for (device, core), own in times.items():
        for (old, same), slow in times.items():
            if old == OLD_BUILD and same == core and device != OLD_BUILD:
                ratios.append(median(slow[m] / own[m] for m in own if m in slow))
    return median(ratios) if ratios else 1.0


def prediction_table(
    source: Source, mixed: Mixed, fitted: dict[int, Fitted], unexplained: float, coverage: float
) -> str:
    """Return the TOML of a profile's `[prediction]`."""
    half = half_precision_ratio(mixed.rows)
    rows = [row for row in mixed.rows if source.holds(row)]
    cores = len({(row.device, row.core) for row in rows})
    blocks, paces = [], []
    for int8, title in ((False, "floats"), (True, "int8")):
        units = _units(source, mixed, int8)
        at_half = not int8 and any(r.precision == "fp16" for r in rows)
        logs = np.stack([_at_clock(mixed, fitted[u], u, source.clock_ghz) for u in units])
        mean = logs.mean(0) + (log(half) if at_half else 0.0)
        within = np.sqrt(np.mean([fitted[u].sd ** 2 for u in units], 0))
        paces.append(float(np.std(logs.mean(1), ddof=1)) if len(units) > 1 else 0.0)
        note = f"  # fitted in half precision, x {half:.2f} for single" if at_half else ""
        blocks.append(f"\n[prediction.{title}]{note}\n{_cost_lines(mean, within)}")
    pace = exp(hypot(max(paces), source.extra))
    return (
        "# A model's typical time is the sum of its work times these costs; `within` is one\n"
        "# standard deviation as a factor. benchmarks/prediction/fit.py writes this section.\n"
        "[prediction]\n"
        f"unexplained = {exp(unexplained):.3f}\npace = {pace:.3f}\n"
        f"coverage_sd = {coverage:.2f}\nrows = {len(rows)}\n"
        f'runtime = "ncnn"\nruntime_factor = {RUNTIME_FACTOR}\n'
        f"spec_sheet = {str(source.spec_sheet).lower()}\n"
        'tail_ratio = 1.5\ntail_source = "unverified"\n'
        f'source = """\none-thread ncnn times (Tencent/ncnn benchmark/README.md) of {cores} '
        f'{"core" if cores == 1 else "cores"}: {source.words}"""\n' + "".join(blocks)
    )


def with_prediction(profile: str, table: str) -> str:
    """Return a profile's text with its last section, `[prediction]`, replaced."""
    kept = re.split(r"(?m)^(?:#[^\n]*\n)*\[prediction\]", profile)[0]
    return f"{kept.rstrip()}\n\n{table}"


def _units(source: Source, mixed: Mixed, int8: bool) -> list[int]:
    found = {
        int(unit): None
        for unit, row in zip(mixed.unit, mixed.rows, strict=True)
        if source.holds(row) and row.int8 == int8
    }
    return list(found)


def _at_clock(mixed: Mixed, fitted: Fitted, unit: int, clock_ghz: float) -> Floats:
    own = float(mixed.rows[unit].core.rpartition("@")[2])
    return fitted.log_cost + log(own / clock_ghz)


def _cost_lines(mean: Floats, within: Floats) -> str:
    return "".join(
        f"{name} = {{ value = {exp(m):.3g}, within = {exp(s):.2f} }}  # {UNITS[name]}\n"
        for name, m, s in zip(COLUMNS.values(), mean, within, strict=True)
    )
