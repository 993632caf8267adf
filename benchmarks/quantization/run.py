"""Quantize students by edgecompress and by NNCF, score all files, and measure them side by side.

    python benchmarks/quantization/run.py MODELS --data DATA --peer PYTHON [--sets SET...]

MODELS is a folder of float students, NAME-fp32.onnx with the NAMEs of sets.py; all that is made
lies beside them, and what is there already is not made again. PYTHON is an interpreter that has
`requirements.txt`, for peer.py. `--steps` takes some of these, by default all in this order:

make     int8 files of both, from the same calibration samples
score    each file on validation and on test, sample by sample
measure  each set's files in one interleaved measurement on the pinned core
best     copy each set's best int8 file to NAME-int8.onnx, for isa.py
table    print what came out
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from compared import BEST, OURS, PEER, Set, tables
from sets import LARGER, SETS, SMALL, calibration_of, load_set

from edgecompress import Task, measure, onnx_model, quantize
from edgecompress.recipe import MeasureSettings, QuantizeSettings
from edgecompress.runtime import run as outputs_of
from edgecompress.store import write_atomic

STEPS = ("make", "score", "measure", "best", "table")
MAX_DROP = 0.005
EXAMPLE = Path("made", "example.npz")
PRESETS = ("performance", "mixed")
PRECISION = MeasureSettings(seconds_per_process=0.5)
PROCESSES = 5


def main() -> None:
    """Do the steps that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    asked = parser.parse_args()
    names = [name for name in asked.sets if (asked.models / f"{name}-fp32.onnx").exists()]
    for step in asked.steps:
        match step:
            case "table":
                found = {name: Set.read(asked.models / name, name) for name in names}
                for title, rows in (("small", SMALL), ("larger", LARGER)):
                    print(tables(title, [found[name] for name in rows if name in found]))
            case "best":
                for name in names:
                    keep_best(asked.models, name)
            case _:
                for name in names:
                    work(step, asked, name)


def work(step: str, asked: argparse.Namespace, name: str) -> None:
    """Do one step for one set."""
    folder = asked.models / name
    folder.mkdir(exist_ok=True)
    shutil.copyfile(asked.models / f"{name}-fp32.onnx", folder / "fp32.onnx")
    if step == "measure":  # needs no task, and so nothing but the measurement runs meanwhile
        measure_all(folder)
        return
    task = load_set(name, asked.data)
    match step:
        case "make":
            make_ours(task, folder)
            np.savez(folder / EXAMPLE, **task.example_inputs())
            make_peers(task, folder, asked.peer, transformer=name == "banking77-larger")
        case "score":
            score(task, folder)
    print(f"{name}: {step} done", file=sys.stderr)


def make_ours(task: Task, folder: Path) -> None:
    """Write our int8 candidates, as a run makes them for this machine."""
    calibration = calibration_of(task)
    made = quantize(
        onnx_model(folder / "fp32.onnx"), calibration.inputs, folder / "made", QuantizeSettings()
    )
    reasons = {m.scheme: m.reason for m in made if m.model is None}
    for one in made:
        if one.model is not None:
            one.model.path.replace(folder / f"{OURS}{one.scheme}.onnx")
    write_json(folder / "left-out.json", reasons)


def make_peers(task: Task, folder: Path, python: Path | None, transformer: bool) -> None:
    """Write the peer's files, from its own environment, in so far as they are not there."""
    if python is None:
        return
    data = folder / "data.npz"
    calibration = {f"calibration {k}": a for k, a in calibration_of(task).inputs.items()}
    validation = {f"validation {k}": a for k, a in task.validation.inputs.items()}
    np.savez(data, labels=np.asarray(task.validation.labels), **calibration, **validation)
    forms = {f"{PEER}{preset}": ["--preset", preset] for preset in PRESETS}
    forms[f"{PEER}controlled"] = ["--max-drop", str(MAX_DROP)]
    for label, options in forms.items():
        out = folder / f"{label}.onnx"
        said = out.with_suffix(".json")
        if said.exists():
            continue
        options = [*options, "--transformer"] if transformer else options
        script = Path(__file__).with_name("peer.py")
        command = [str(python), str(script), str(folder / "fp32.onnx"), str(data), str(out)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            write_json(said, {"failed": reason})
            print(f"{folder.name}: {label} failed: {reason}", file=sys.stderr)
        else:
            write_json(said, json.loads(done.stdout.splitlines()[-1]))
    data.unlink()


def score(task: Task, folder: Path) -> None:
    """Write for each file which samples it gets right, and its digest to know it by."""
    for path in sorted(folder.glob("*.onnx")):
        kept, model = path.with_suffix(".npz"), onnx_model(path)
        if kept.exists() and str(np.load(kept)["sha256"]) == model.sha256:
            continue
        hits = {
            split: outputs_of(model, data.inputs).argmax(1) == data.labels
            for split, data in (("validation", task.validation), ("test", task.test))
        }
        np.savez_compressed(kept, sha256=model.sha256, **hits)


def measure_all(folder: Path) -> None:
    """Measure all files of a set in turns, one process each, and write down each one's figures."""
    with np.load(folder / EXAMPLE) as file:
        example = dict(file)
    models = {path.stem: onnx_model(path) for path in sorted(folder.glob("*.onnx"))}
    once = {model.sha256: model for model in models.values()}  # equal files are as fast
    found = measure(once, dict.fromkeys(once, example), PRECISION, processes=PROCESSES)
    figures = {
        label: {
            "sha256": model.sha256,
            "p50_ms": found[model.sha256].latency_ms.p50,
            "p95_ms": found[model.sha256].latency_ms.p95,
            "peak_memory_bytes": found[model.sha256].peak_memory_bytes,
            "cold_start_ms": found[model.sha256].cold_start_ms,
        }
        for label, model in models.items()
    }
    write_json(folder / "measured.json", figures)


def keep_best(models: Path, name: str) -> None:
    """Copy the best int8 file of a set, with its figures beside it."""
    found = Set.read(models / name, name)
    best = found.best
    shutil.copyfile(models / name / f"{best.label}.onnx", models / f"{name}-{BEST}.onnx")
    write_json(models / f"{name}.json", found.figures(best))


def write_json(path: Path, document: object) -> None:
    """Write a small document."""
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
