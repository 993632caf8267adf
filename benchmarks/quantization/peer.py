"""Quantize an ONNX model by NNCF, to compare with: runs in an environment of its own.

    python peer.py MODEL.onnx DATA.npz OUT.onnx [--preset mixed] [--transformer] [--max-drop 0.005]

DATA.npz holds the inputs for calibration as `calibration NAME`, and for accuracy control those of
validation as `validation NAME` with `labels`. Without --max-drop: post-training quantization as
NNCF has it by default, over all calibration samples. With it: accuracy control, the drop absolute.
Prints one JSON document on stdout: seconds, versions, and how often the validation set was run,
whole and in part (NNCF ranks the layers on a part of it). Needs nncf, onnx, onnxruntime, numpy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
BATCH = 256


def main() -> None:
    """Write the quantized model and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--preset", choices=("performance", "mixed"), default="performance")
    parser.add_argument("--transformer", action="store_true")
    parser.add_argument("--max-drop", type=float)
    asked = parser.parse_args()
    with np.load(asked.data) as file:
        held = dict(file)
    runs: list[int] = []
    started = time.monotonic()
    quantized = quantized_by_nncf(asked, onnx.load(asked.model), held, runs)
    seconds = time.monotonic() - started
    onnx.save(quantized, asked.out)
    whole = [size for size in runs if size == len(held.get("labels", ()))]
    said = {
        "seconds": seconds,
        "full_evaluations": len(whole),
        "samples_in_part_evaluations": sum(runs) - sum(whole),
        "versions": {name: version(name) for name in ("nncf", "onnx", "onnxruntime", "numpy")},
    }
    json.dump(said, sys.stdout)


def quantized_by_nncf(
    asked: argparse.Namespace, model: onnx.ModelProto, held: Arrays, runs: list[int]
) -> onnx.ModelProto:
    """Return what NNCF makes; `runs` receives how many samples each validation ran."""
    calibration = part(held, "calibration ")
    samples = len(next(iter(calibration.values())))
    settings: dict[str, Any] = {
        "preset": nncf.QuantizationPreset(asked.preset),
        "subset_size": samples,
        "model_type": nncf.ModelType.TRANSFORMER if asked.transformer else None,
    }
    if asked.max_drop is None:
        return nncf.quantize(model, one_by_one(calibration), **settings)
    return nncf.quantize_with_accuracy_control(
        model,
        one_by_one(calibration),
        one_by_one(part(held, "validation ")),
        scorer(part(held, "validation "), held["labels"], runs),
        max_drop=asked.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        **settings,
    )


def part(held: Arrays, prefix: str) -> Arrays:
    """Return the arrays of one part, under the model's names."""
    return {k.removeprefix(prefix): held[k] for k in held if k.startswith(prefix)}


def one_by_one(inputs: Arrays) -> Any:
    """Return the samples as NNCF's data set, whose items are their places."""
    places = range(len(next(iter(inputs.values()))))
    return nncf.Dataset(places, lambda i: {k: array[i : i + 1] for k, array in inputs.items()})


def scorer(inputs: Arrays, labels: NDArray[np.int64], runs: list[int]) -> Callable[..., Any]:
    """Return NNCF's validation function: accuracy, and 0 or 1 for each sample."""

    def score(model: onnx.ModelProto, places: Iterable[int]) -> tuple[float, list[float]]:
        rows = np.array(list(places))
        runs.append(len(rows))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, ["CPUExecutionProvider"]
        )
        hits = np.concatenate(
            [
                session.run(None, {k: array[some] for k, array in inputs.items()})[0].argmax(1)
                == labels[some]
                for some in np.array_split(rows, -(-len(rows) // BATCH))
            ]
        )
        return float(hits.mean()), hits.astype(float).tolist()

    return score


if __name__ == "__main__":
    main()
