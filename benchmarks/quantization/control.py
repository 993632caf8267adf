"""Accuracy control on depthwise nets made hard on purpose, beside one layer at a time.

    python -m benchmarks.quantization.control [--kinds relu gated] [--seeds N] [--allowed POINTS]

Every net is trained on scikit-learn's digits in seconds; losses are points of accuracy against the
float net: on validation (450 samples), by which control decides, and on the test split (447), which
it never sees. An evaluation is one pass over validation. The rows without repairs show what the
choice of layers does alone; the last row of each net is the plain way: each layer tried alone in
float, then the best ones together, one more each time, until the loss is within.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import onnx
import torch

from benchmarks.quantization.hard_nets import Kind, digits, hard_model
from edgecompress.measuring.node_costs import added_ms
from edgecompress.quantizing.control import REPAIRS, Terms, control
from edgecompress.quantizing.layers import layers
from edgecompress.quantizing.prepared import prepare
from edgecompress.quantizing.static import StaticForm, static_int8
from edgecompress.records import OnnxModel
from edgecompress.runtime import run
from edgecompress.store import artifact

CALIBRATION = 512
MOST = 30  # evaluations, so that what would be needed shows


@dataclass(frozen=True)
class Row:
    """Hold what one way made of one net; losses in points of accuracy."""

    way: str
    loss: float | None
    test_loss: float | None
    evaluations: int
    floats: str
    seconds: float


def accuracy(model: OnnxModel, split: str) -> float:
    x, y = digits()[split]
    return 100 * float((run(model, {"x": x}).argmax(1) == y).mean())


def loss(exact: OnnxModel, int8: OnnxModel, split: str = "validation") -> float:
    return accuracy(exact, split) - accuracy(int8, split)


def times(exact: OnnxModel, int8: OnnxModel) -> Mapping[str, float]:
    """Return what each layer costs in float, measured here."""
    return added_ms(exact, int8, {"x": digits()["train"][0][:1]})


def ours(model: OnnxModel, folder: Path, allowed: float, repaired: bool) -> Row:
    repairs = REPAIRS if repaired else ()
    terms = Terms(allowed, partial(loss, model), times, repairs, MOST)
    calibration = {"x": digits()["train"][0][:CALIBRATION]}
    started = time.monotonic()
    found = control(model, calibration, folder / str(repaired), StaticForm(), terms)
    named = sum(name.startswith(("conv", "gemm")) for name in found.keep_float)
    floats = f"{named} layers ({1000 * found.added_ms:+.0f} us)" if named else "none"
    return Row(
        f"control: {', '.join(found.repairs)}" if repaired else "control, repairs off",
        found.loss if found.model else None,
        loss(model, found.model, "test") if found.model else None,
        found.evaluations,
        floats,
        time.monotonic() - started,
    )


def one_at_a_time(model: OnnxModel, folder: Path, allowed: float) -> Row:
    """Rank layers by the loss with each alone in float, then add them until the loss is within."""
    started, asked = time.monotonic(), 0
    prepared = prepare(model.path, folder)
    calibration = {"x": digits()["train"][0][:CALIBRATION]}

    def tried(kept: list[str]) -> OnnxModel:
        nonlocal asked
        asked += 1
        path = folder / "tried.onnx"
        onnx.save(static_int8(prepared, calibration, StaticForm(), kept), path)
        return artifact(path, OnnxModel)

    names = [layer.node for layer in layers(onnx.load(prepared))]
    loss(model, tried([]))
    ranked = sorted(names, key=lambda name: loss(model, tried([name])))
    for count in range(1, len(ranked)):
        int8 = tried(ranked[:count])
        if (lost := loss(model, int8)) <= allowed:
            seconds = time.monotonic() - started
            test = loss(model, int8, "test")
            return Row("one layer at a time", lost, test, asked, f"{count} layers", seconds)
    return Row("one layer at a time", None, None, asked, "all", time.monotonic() - started)


def rows_of(kind: Kind, seed: int, allowed: float) -> tuple[str, list[Row]]:
    """Return a title and what each way made of one net."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = hard_model(folder / "hard.onnx", kind, seed=seed)
        ways: list[Callable[[], Row]] = [
            partial(plain, model, folder),
            partial(ours, model, folder, allowed, True),
            partial(ours, model, folder, allowed, False),
            partial(one_at_a_time, model, folder, allowed),
        ]
        title = f"{kind}, seed {seed}: float {accuracy(model, 'validation'):.2f} %"
        return title, [way() for way in ways]


def plain(model: OnnxModel, folder: Path) -> Row:
    started = time.monotonic()
    calibration = {"x": digits()["train"][0][:CALIBRATION]}
    path = folder / "plain.onnx"
    onnx.save(static_int8(prepare(model.path, folder), calibration, StaticForm()), path)
    int8 = artifact(path, OnnxModel)
    seconds = time.monotonic() - started
    return Row("plain int8", loss(model, int8), loss(model, int8, "test"), 1, "none", seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=get_args(Kind), choices=get_args(Kind))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--allowed", type=float, default=1.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| net | way | loss | test loss | evaluations | float | seconds |")
    print("|---|---|--:|--:|--:|---|--:|")
    for kind in given.kinds:
        for seed in range(given.seeds):
            title, rows = rows_of(kind, seed, given.allowed)
            for row in rows:
                losses = " | ".join(
                    "-" if value is None else f"{value:.2f}" for value in (row.loss, row.test_loss)
                )
                rest = f"{row.evaluations} | {row.floats} | {row.seconds:.1f}"
                print(f"| {title} | {row.way} | {losses} | {rest} |", flush=True)


if __name__ == "__main__":
    main()
