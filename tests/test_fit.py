"""The fitting script finds what made a table, and says how well."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "prediction" / "fit.py"
FEATURES = [
    "macs_pointwise_m",
    "macs_conv3x3_stride1_m",
    "macs_conv_other_m",
    "macs_depthwise_m",
    "macs_grouped_m",
    "macs_fully_connected_m",
    "macs_matmul_m",
    "elementwise_mb",
    "num_layers",
    "macs_total_m",
    "params_m",
]
COSTS = np.array([0.2, 0.07, 0.25, 0.6, 0.3, 0.5, 0.2, 0.5, 0.02, 0.0, 0.6])
CORES = {
    "Azure D64s_v6": ("x86", "EmeraldRapids@3.6", 0.1),
    "Azure D64as_v7": ("x86", "Zen5@4.0", 0.06),
    "Raspberry Pi 4B": ("BCM2711", "Cortex-A72@1.8", 1.0),
    "Raspberry Pi 3B+": ("BCM2837", "Cortex-A53@1.4", 2.5),
    "a board": ("RK1", "Cortex-A53@1.2", 3.0),
    "another": ("RK2", "Cortex-A72@2.0", 0.9),
}


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Write tables of 12 models on 6 cores, made from known costs and 3 % of noise."""
    rng = np.random.default_rng(0)
    work = {
        f"net{n}": rng.uniform(0, 300, len(FEATURES)) * rng.integers(0, 2, 11) for n in range(9)
    }
    work |= {f"net{n}_int8": work[f"net{n}"] for n in range(3)}
    with (tmp_path / "model_features.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["model", *FEATURES])
        table.writerows([name, *values] for name, values in work.items())
    head = [
        "source",
        "device",
        "soc",
        "core",
        "threads",
        "runtime",
        "model",
        "input",
        "precision",
        "latency_ms",
    ]
    with (tmp_path / "device_latency.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(head)
        for device, (soc, core, pace) in CORES.items():
            for name, values in work.items():
                int8 = name.endswith("_int8")
                time = pace * (values @ COSTS + 1) * (0.6 if int8 else 1) * rng.normal(1, 0.03)
                precision = "int8" if int8 else "fp32"
                table.writerow(["s", device, soc, core, 1, "ncnn", name, "x", precision, time])
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_costs_beat_a_constant_on_families_held_out(tables: Path) -> None:
    done = run(str(tables), "figures")
    assert done.returncode == 0, done.stderr
    medians = {
        line.split("  ")[0]: float(re.search(r"median +([\d.]+) %", line)[1])
        for line in done.stdout.splitlines()
        if "median " in line and "p90" in line
    }
    assert medians["costs alone, as shipped"] < medians["MACs x constant"]
    assert "1 thread(s), families held out, 48 rows" in done.stdout
    assert re.search(r"coverage [\d.]+% \(nominal 90%\)", done.stdout)
    assert "at  50 ms: wrong " in done.stdout


def test_an_unknown_task_shows_the_usage(tables: Path) -> None:
    done = run(str(tables), "guess")
    assert done.returncode == 2
    assert "fit.py TABLES figures" in done.stdout
