"""Fit the costs that the shipped profiles predict with, and say how well that goes.

    python benchmarks/prediction/fit.py TABLES figures [THREADS]   families held out
    python benchmarks/prediction/fit.py TABLES devices             devices held out, calibrated
    python benchmarks/prediction/fit.py TABLES runtimes            ONNX Runtime beside the costs
    python benchmarks/prediction/fit.py TABLES write | check       the profiles' [prediction]

TABLES is a folder with `device_latency.csv` and `model_features.csv`.
"""

from __future__ import annotations

import json
import sys
from math import log
from pathlib import Path

import numpy as np
from detectors import PUBLISHED as NETS
from figures import (
    ALONE,
    BESIDE_HOST,
    beside_host,
    by_constant,
    devices,
    errors_line,
    held_out,
    interval_lines,
    intervals,
    with_intervals,
)
from mixed import Mixed
from newcomers import newcomers
from shipping import SOURCES, prediction_table, with_prediction
from table import COLUMNS, COUNTED_WORK, SERVERS, Floats, read_features, read_rows
from uneven import shared_out

from edgecompress.measuring.counting import count

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
PUBLISHED = ROOT / "edgecompress" / "measuring" / "published_models.json"
MAC_COLUMNS = 7


def load(folder: Path, threads: int) -> tuple[Mixed, dict[str, Floats]]:
    """Return the model of all rows, and the published models' work as one thread has it."""
    features = read_features(folder / "model_features.csv")
    rows = read_rows(folder / "device_latency.csv", features, threads)
    return Mixed(rows, shared_out(features, threads) if threads > 1 else features), features


def figures(folder: Path, threads: int = 1) -> None:
    mixed, features = load(folder, threads)
    found = held_out(mixed)
    device = np.array([not row.server for row in found.rows])
    alone, beside = found.only(device), beside_host(found)
    int8 = np.array([row.int8 for row in alone.rows])
    macs = np.array([features[row.model][:MAC_COLUMNS].sum() for row in alone.rows])
    server = {
        row.model: [r.latency_ms for r in found.rows if r.server and r.model == row.model]
        for row in alone.rows
    }
    host = np.array([np.exp(np.mean(np.log(server[row.model]))) for row in alone.rows])
    print(f"{threads} thread(s), families held out, {len(alone.rows)} rows")
    print(errors_line("MACs x constant", by_constant(alone.rows, macs)))
    print(errors_line("host x constant (two servers' mean)", by_constant(alone.rows, host)))
    print(errors_line("costs alone, as shipped", alone.error))
    print(errors_line("costs and the host's error (mean of both)", beside.error))
    for kind, name in ((False, "floats"), (True, "int8")):
        print(errors_line(f"  of these, {name}", beside.error[int8 == kind]))
    for name in SERVERS:
        print(errors_line(f"  by {name} alone", beside_host(found, (name,)).error))
    for label, which, open_ in (("alone", alone, ALONE), ("beside host", beside, BESIDE_HOST)):
        half = with_intervals(which, open_)
        print(f"{label}:", *interval_lines(which, half), sep="\n  ")


def runtimes(folder: Path) -> None:
    """Say how published ONNX Runtime times of int8 models scatter around the costs."""
    import csv

    mixed, features = load(folder, 1)
    fitted = mixed.fit(np.ones(len(mixed.rows), bool))
    unit = next(
        u for u in fitted if mixed.rows[u].device == "Raspberry Pi 5" and mixed.rows[u].int8
    )
    cost = np.exp(fitted[unit].log_cost)
    names = {"squeezenet1_1/SqueezeNet-1.1": "squeezenet"}
    with (folder / "device_latency.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["runtime"] == "onnxruntime"]
    ratios: dict[str, list[float]] = {}
    for row in rows:
        model = names.get(row["model"], row["model"])
        if row["precision"] == "w8a8" and model in features:
            ratio = log(float(row["latency_ms"]) / float(features[model] @ cost))
            ratios.setdefault(row["device"], []).append(ratio)
    for device, found in ratios.items():
        print(f"{device}: {len(found)} models, sd of the log {np.std(found, ddof=1):.2f}")


def profiles(folder: Path, write: bool) -> int:
    """Write the profiles' [prediction], or return 1 when one is not what would be written."""
    stale = keep(COUNTED_WORK, counted_work(), write)
    mixed, features = load(folder, 1)
    found = held_out(mixed)
    found = found.only(np.array([not row.server for row in found.rows]))
    device, widths = devices(found.rows), intervals(found, ALONE)
    fitted = mixed.fit(np.ones(len(mixed.rows), bool))
    stale |= keep(PUBLISHED, published_models(features), write)
    for name, source in SOURCES.items():
        path = PROFILES / f"{name}.toml"
        mine = {d for d, row in zip(device, found.rows, strict=True) if source.holds(row)}
        unexplained, coverage = np.sqrt(np.mean([np.square(widths[d]) for d in sorted(mine)], 0))
        table = prediction_table(source, mixed, fitted, unexplained, coverage)
        text = with_prediction(path.read_text(), table)
        stale |= keep(path, text, write)
    return stale


def keep(path: Path, text: str, write: bool) -> int:
    """Write the text, or return 1 when the file does not hold it."""
    if write:
        path.write_text(text)
    elif not path.exists() or text != path.read_text():
        print(f"{path}: is not what this script gives")
        return 1
    return 0


def counted_work() -> str:
    """Return the published models' work that the published table lacks, one line each."""
    lines = ["model,convolved_mb,unaligned_m"]
    for name, make in sorted(NETS.items()):
        net = make()
        found = count(net.model(), {"x": net.shape})
        lines.append(f"{name},{found['convolved_mb']:.4f},{found['unaligned']:.4f}")
    return "\n".join(lines) + "\n"


def published_models(features: dict[str, Floats]) -> str:
    """Return the published models' work, one line each."""
    lines = [
        f'  "{name}": {json.dumps(dict(zip(COLUMNS.values(), map(float, work), strict=True)))}'
        for name, work in sorted(features.items())
        if not name.endswith("_int8")
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(tables: str, task: str, threads: str = "1") -> int:
    folder = Path(tables)
    match task:
        case "figures":
            figures(folder, int(threads))
        case "devices":
            mixed, features = load(folder, 1)
            print(*newcomers(mixed, features), sep="\n")
        case "runtimes":
            runtimes(folder)
        case "write" | "check":
            return profiles(folder, task == "write")
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
