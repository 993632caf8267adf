"""Compute how much slower each profile's core class is than a server-class x86 core.

    python benchmarks/prediction/core_ratios.py device_latency.csv

The table has the columns device, core, threads, runtime, model, input, precision, latency_ms. Only
one-thread ncnn rows count (Tencent/ncnn, benchmark/README.md), and only pairs of like precision:
cores whose float rows ran in half precision are compared on their int8 rows alone. For each device:
the geometric mean over all rows of device time over reference time, where the reference is the
geometric mean of the server cores. For each class: the median over its devices. The figures are
the `host_ratio` of the shipped profiles.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean, median, quantiles

Key = tuple[str, str, str]  # model, input, precision
Times = dict[Key, float]

REFERENCE = ("Azure D64s_v6", "Azure D64as_v7")  # Emerald Rapids at 3.6 GHz, Zen 5 at 4.0 GHz
CLASSES: dict[str, tuple[str, ...]] = {  # profile: prefixes of a core or device label
    "android-cpu": ("Cortex-A76", "Cortex-A78"),
    "android-low": ("Cortex-A53", "Cortex-A55"),
    "android-flagship": ("Cortex-X",),
    "ios-cpu": ("Firestorm",),
    "raspberry-pi-zero-2w": ("Raspberry Pi Zero 2 W",),
    "raspberry-pi-3": ("Raspberry Pi 3",),
    "raspberry-pi-4": ("Raspberry Pi 4",),
    "raspberry-pi-5": ("Raspberry Pi 5",),
}


def read(path: Path) -> dict[tuple[str, str], Times]:
    """Return the median time of every (core, device), by model, input and precision."""
    found: dict[tuple[str, str], dict[Key, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["runtime"] == "ncnn" and row["threads"] == "1":
                key = (row["model"], row["input"], row["precision"])
                found[row["core"], row["device"]][key].append(float(row["latency_ms"]))
    return {where: {k: median(v) for k, v in rows.items()} for where, rows in found.items()}


def reference(table: dict[tuple[str, str], Times]) -> Times:
    """Return the geometric mean of the server cores' times, for what all of them ran."""
    servers = [rows for (_, device), rows in table.items() if device in REFERENCE]
    shared = set.intersection(*(set(rows) for rows in servers))
    return {key: geometric_mean([rows[key] for rows in servers]) for key in shared}


def main(path: str) -> None:
    table = read(Path(path))
    base = reference(table)
    for profile, prefixes in CLASSES.items():
        ratios: dict[str, list[float]] = {}
        for (core, device), rows in table.items():
            pairs = [time / base[key] for key, time in rows.items() if key in base]
            if pairs and (core.startswith(prefixes) or device.startswith(prefixes)):
                ratios[f"{device} ({core})"] = pairs
        for label, pairs in ratios.items():
            print(f"    {label}: {geometric_mean(pairs):.2f} from {len(pairs)} rows")
        every = sorted(ratio for pairs in ratios.values() for ratio in pairs)
        tenths = quantiles(every, n=10)
        print(
            f"{profile}: host_ratio {median(map(geometric_mean, ratios.values())):.2f}, "
            f"{len(ratios)} devices, {len(every)} rows, "
            f"p10 to p90 of single rows {tenths[0]:.2f} to {tenths[-1]:.2f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
