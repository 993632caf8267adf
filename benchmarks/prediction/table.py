"""Read the published tables: one row for each device, model and precision, with its features."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The table's columns, in the order of `edgecompress.profiles.Costs`.
COLUMNS = {
    "macs_pointwise_m": "pointwise",
    "macs_conv3x3_stride1_m": "conv3x3",
    "macs_conv_other_m": "conv_other",
    "macs_depthwise_m": "depthwise",
    "macs_grouped_m": "grouped",
    "macs_fully_connected_m": "fully_connected",
    "macs_matmul_m": "matmul",
    "elementwise_mb": "elementwise",
    "exponential_mb": "exponential",
    "num_layers": "layer",
    "params_m": "parameter",
    "convolved_mb": "convolved",
    "unaligned_m": "unaligned",
}
# What the published table does not hold, counted on the graphs of `detectors.PUBLISHED` (fit.py).
COUNTED_WORK = Path(__file__).with_name("counted_work.csv")
# What else the table lacks or has wrong, counted by `edgecompress.measuring.counting` too. Its
# vision transformer (12 blocks of width 768 on 577 tokens) has no feed-forward layers and half of
# attention: 12.7 of 55.1 G MACs, 30.7 of 86.9 M parameters. Its grouped convolutions are one kind,
# and a deconvolution there multiplies the zeros that it inserts.
COUNTED: dict[str, dict[str, float]] = {
    "vision_transformer": {
        "macs_matmul_m": 55143.844,
        "macs_fully_connected_m": 0.768,
        "elementwise_mb": 1334.279,
        "exponential_mb": 553.698,
        "num_layers": 235.0,
        "params_m": 86.859,
    },
    "alexnet": {
        "macs_conv3x3_stride1_m": 336.421,
        "macs_conv_other_m": 329.364,
        "macs_grouped_m": 0.0,
    },
    "shufflenet": {"macs_pointwise_m": 114.364, "macs_grouped_m": 0.0},
    "mobilenet_yolo": {"macs_grouped_m": 2.769},
    "efficientnet_b0": {"exponential_mb": 49.343},
    "efficientnetv2_b0": {"exponential_mb": 34.048},
}
FAMILIES = ("mobilenet", "resnet", "squeezenet", "efficientnet", "shufflenet", "yolo")
KIN = {"FastestDet": "yolo"}  # by its authors the next of yolo-fastest
SERVERS = ("Azure D64s_v6", "Azure D64as_v7")  # stand for the host: x86, one thread
OTHER_ISA = ("C906", "C910", "GS264", "GS464", "LA264", "LA464", "SiFive")
CORES = {
    "v7": ("Cortex-A5@", "Cortex-A7@", "Cortex-A9@", "Cortex-A17@"),
    "little": ("Cortex-A53", "Cortex-A55"),
    "big": (
        "Cortex-A57",
        "Cortex-A72@",
        "Cortex-A73",
        "Kryo",
        "FTC",
        "Denver",
        "Cyclone",
        "Carmel",
    ),
}


@dataclass(frozen=True)
class Row:
    """Hold the time of one inference, as published: the median where there are several."""

    device: str
    core: str
    model: str
    precision: str
    latency_ms: float

    @property
    def unit(self) -> tuple[str, str, bool]:
        """Return what has costs of its own: a core of a device, with floats or 8 bits."""
        return (self.device, self.core, self.int8)

    @property
    def int8(self) -> bool:
        """Return whether the model computes in 8 bits."""
        return self.precision == "int8"

    @property
    def net(self) -> str:
        """Return the model's name without its precision."""
        return self.model.removesuffix("_int8")

    @property
    def family(self) -> str:
        """Return the family of models that is held out together."""
        return KIN.get(self.net) or next((f for f in FAMILIES if self.net.startswith(f)), self.net)

    @property
    def core_class(self) -> str:
        """Return the class of cores: little, big, new (and big) or v7, or the host's."""
        if self.server:
            return "server"
        return next((c for c, starts in CORES.items() if self.core.startswith(starts)), "new")

    @property
    def server(self) -> bool:
        """Return whether the row stands for the host."""
        return self.device in SERVERS


def read_rows(table: Path, features: dict[str, Floats], threads: int) -> list[Row]:
    """Return the ncnn rows of Arm cores and of the servers that stand for the host."""
    found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            arm = row["soc"] != "x86" and not row["core"].startswith(OTHER_ISA)
            if row["runtime"] != "ncnn" or row["threads"] != str(threads):
                continue
            if row["model"] in features and (arm or row["device"] in SERVERS):
                key = (row["device"], row["core"], row["model"], row["precision"])
                found[key].append(float(row["latency_ms"]))
    return [Row(*key, median(times)) for key, times in found.items()]


def read_features(table: Path) -> dict[str, Floats]:
    """Return each published model's features, in the order of COLUMNS."""
    rows, counted = _by_model(table), _by_model(COUNTED_WORK)
    for model, row in rows.items():
        row |= counted.get(model.removesuffix("_int8"), {})
    return {
        model: np.array(
            [COUNTED.get(model, {}).get(name, float(row.get(name, 0.0))) for name in COLUMNS]
        )
        for model, row in rows.items()
    }


def _by_model(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="") as file:
        return {row.pop("model"): row for row in csv.DictReader(file)}


def numbered(keys: Sequence[object]) -> NDArray[np.intp]:
    """Return for each key the number of its first like."""
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    return np.array([first[key] for key in keys])
