"""Fit the costs that the shipped profiles predict with, and say how well that went.

    python benchmarks/prediction/fit.py TABLES [--write | --check]

TABLES is a folder with `device_latency.csv` and `model_features.csv`, or the former's path.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mixed import Mixed
from shipping import SOURCES, prediction_table, with_prediction
from table import read_features, read_rows

PROFILES = Path(__file__).parents[2] / "profiles"


def main(folder: str, option: str = "") -> int:
    features = read_features(Path(folder) / "model_features.csv")
    mixed = Mixed(read_rows(Path(folder) / "device_latency.csv", features, threads=1), features)
    fitted = mixed.fit(np.ones(len(mixed.rows), bool))
    stale = 0
    for name, source in SOURCES.items():
        path = PROFILES / f"{name}.toml"
        text = with_prediction(
            path.read_text(), prediction_table(source, mixed, fitted, 0.15, 1.64)
        )
        if option == "--write":
            path.write_text(text)
        elif text != path.read_text():
            print(f"{path}: is not what this script gives")
            stale = 1
    return stale if option == "--check" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
