"""Accuracy control by edgecompress and by NNCF on depthwise nets made hard on purpose.

    python -m benchmarks.quantization.peer_control PYTHON [--kinds relu gated] [--seeds 0 1 2]

PYTHON is an interpreter that has `requirements.txt`. Both get the same float ONNX file, the same
calibration samples, the same validation samples and the same allowed loss of accuracy. A full
evaluation is one pass over validation, the float model's among them. What stays float counts
convolutions and products; the times are one interleaved measurement on the pinned core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import torch

from benchmarks.quantization.control import CALIBRATION, accuracy, times
from benchmarks.quantization.hard_nets import Kind, digits, hard_model
from edgecompress import measure, onnx_model
from edgecompress.quantizing.control import Terms, control
from edgecompress.quantizing.static import StaticForm
from edgecompress.recipe import MeasureSettings
from edgecompress.records import OnnxModel

PEER = Path(__file__).with_name("peer.py")
ALLOWED = 0.01
LAYERS = ("Conv", "Gemm", "MatMul")
Ways = dict[str, tuple[OnnxModel | None, int]]
"""The model that each way made, and its full evaluations."""


def main() -> None:
    """Print a row for each net and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path)
    parser.add_argument("--kinds", nargs="+", default=get_args(Kind), choices=get_args(Kind))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| net | way | points lost on validation | on test | full evaluations | float | p50 ms |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for kind in asked.kinds:
        for seed in asked.seeds:
            with tempfile.TemporaryDirectory() as folder:
                exact = hard_model(Path(folder, "hard.onnx"), kind, seed=seed)
                made = {"float": (exact, 1)} | ours(exact, Path(folder))
                made |= peers(exact, Path(folder), asked.python)
                for row in rows(exact, made):
                    print(f"| {kind}, seed {seed} | {row} |", flush=True)


def ours(exact: OnnxModel, folder: Path) -> Ways:
    """Return what edgecompress makes."""
    calibration = {"x": digits()["train"][0][:CALIBRATION]}
    held = accuracy(exact, "validation")
    terms = Terms(ALLOWED, partial(_lost, held), times)
    found = control(exact, calibration, folder / "ours", StaticForm(), terms)
    return {"edgecompress": (found.model, 1 + found.evaluations)}


def _lost(held: float, int8: OnnxModel) -> float:
    return (held - accuracy(int8, "validation")) / 100


def peers(exact: OnnxModel, folder: Path, python: Path) -> Ways:
    """Return what NNCF makes with each preset."""
    data, made = folder / "data.npz", Ways()
    x, labels = digits()["validation"]
    arrays = {"calibration x": digits()["train"][0][:CALIBRATION], "validation x": x}
    np.savez(data, labels=labels, **arrays)
    for preset in ("performance", "mixed"):
        out = folder / f"{preset}.onnx"
        command = [str(python), str(PEER), str(exact.path), str(data), str(out)]
        command += ["--preset", preset, "--max-drop", str(ALLOWED)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"peer.py failed: {done.stderr.strip().splitlines()[-1]}")
        said = json.loads(done.stdout.splitlines()[-1])
        made[f"NNCF, {preset}"] = (onnx_model(out), said["full_evaluations"])
    return made


def rows(exact: OnnxModel, made: Ways) -> Iterator[str]:
    """Yield the cells of each way."""
    models = {way: model for way, (model, _) in made.items() if model is not None}
    example = {"x": digits()["train"][0][:1]}
    settings = MeasureSettings(seconds_per_process=0.3)
    found = measure(models, dict.fromkeys(models, example), settings, processes=5)
    for way, (model, evaluations) in made.items():
        if model is None:
            yield f"{way} | none within | | {evaluations} | | "
            continue
        losses = (
            f"{accuracy(exact, split) - accuracy(model, split):.2f}"
            for split in ("validation", "test")
        )
        cells = (*losses, str(evaluations), float_layers(model))
        yield f"{way} | {' | '.join(cells)} | {found[way].latency_ms.p50:.4f}"


def float_layers(model: OnnxModel) -> str:
    """Return how many of the layers with weights compute in float."""
    nodes = onnx.load(model.path).graph.node
    layers = [n for n in nodes if n.op_type in LAYERS]
    makers = {name: n.op_type for n in nodes for name in n.output}
    exact = [n for n in layers if makers.get(n.input[1]) != "DequantizeLinear"]
    return f"{len(exact)} of {len(layers)}"


if __name__ == "__main__":
    main()
