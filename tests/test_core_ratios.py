"""The script behind the profiles' host ratios, on a table made up here."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "prediction" / "core_ratios.py"
HEAD = ["device", "core", "threads", "runtime", "model", "input", "precision", "latency_ms"]


def test_only_like_precision_and_one_thread_count(tmp_path: Path) -> None:
    models = [("a", "fp32", 1.0), ("b", "fp32", 2.0), ("c", "int8", 1.0), ("d", "int8", 4.0)]
    rows = []
    for model, precision, ms in models:
        rows.append(["Azure D64s_v6", "x86", 1, "ncnn", model, "8x8", precision, ms * 2])
        rows.append(["Azure D64as_v7", "x86", 1, "ncnn", model, "8x8", precision, ms / 2])
        half = precision.replace("fp32", "fp16")
        for device, core, kind, ratio in (
            ("Raspberry Pi 3B+", "Cortex-A53@1.4", precision, 20),
            ("Raspberry Pi 4B", "Cortex-A72@1.8", precision, 10),
            ("Raspberry Pi 5", "Cortex-A76@2.4", half, 5 if precision == "int8" else 2),
            ("Raspberry Pi Zero 2 W", "Cortex-A53@1.0", precision, 40),
            ("phone", "Cortex-X3", half, 3),
            ("MacBook M1", "Firestorm@3.2", half, 1),
        ):
            rows.append([device, core, 1, "ncnn", model, "8x8", kind, ms * ratio])
            rows.append([device, core, 4, "ncnn", model, "8x8", kind, ms])
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(table)], capture_output=True, text=True, check=True
    )
    assert "raspberry-pi-4: host_ratio 10.00, 1 devices, 4 rows" in done.stdout
    assert "raspberry-pi-5: host_ratio 5.00, 1 devices, 2 rows" in done.stdout
    assert "android-low: host_ratio 30.00, 2 devices, 8 rows" in done.stdout
