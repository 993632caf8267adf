"""Print how six exported models answer on imitated processors, float and int8.

    edgecompress verify --set-up --isa arm64
    python benchmarks/emulation/spread.py --out spread [--seconds 80]

Trains, exports and quantizes each network once (static and dynamic int8, 8-bit weights per
channel, and static with 7-bit weights), then lets `edgecompress verify` run 256 held-out samples
on every processor. All is kept under --out: with --seconds it stops after the piece of work in
which that time is over, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from small_tasks import TASKS, TRAIN, trained

from edgecompress.exporting.onnx import export
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings

ON = (("arm64", "cortex-a53"), ("arm64", "cortex-a76"), ("x86-avx2", "haswell"))
SEVEN_BITS = QuantizeSettings(schemes=("static",), reduce_range=True)
HEAD = (
    "| model | kind | processor | rel. error | steps | same class | accuracy here | there "
    "| drop, 95 % bounds | inside |\n|---|---|---|--:|--:|--:|--:|--:|--:|---|"
)


def main() -> None:
    """Do what is left to do, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("spread"))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    asked = parser.parse_args()
    end = time.monotonic() + asked.seconds
    for piece in pieces(asked.out):
        piece()
        if time.monotonic() > end:
            sys.exit("stopped; the same command goes on")
    print(HEAD)
    for file in sorted(asked.out.glob("*/*.json")):
        print(row(json.loads(file.read_text())))


def pieces(out: Path) -> Iterator[Any]:
    """Yield what is not done yet, smallest first to see something early."""
    for name in TASKS:
        folder = out / name
        if not (folder / "float.onnx").exists():
            yield lambda name=name, folder=folder: prepare(name, folder)
    for name in TASKS:
        for model in sorted((out / name).glob("*.onnx")):
            for isa, processor in ON:
                answer = model.with_name(f"{model.stem}.{processor}.json")
                if not answer.exists():
                    yield lambda m=model, i=isa, p=processor, a=answer: verify(m, i, p, a)


def prepare(name: str, folder: Path) -> None:
    """Train, export and quantize one network; the float file comes last and says it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs, labels = TASKS[name].samples()
    network = trained(TASKS[name], (inputs, labels))
    learned = {key: array[:TRAIN] for key, array in inputs.items()}
    held_out = {key: array[TRAIN:] for key, array in inputs.items()}
    np.savez(folder / "data.npz", labels=labels[TRAIN:], **held_out)
    model = export(network, learned, folder / "float.partial")
    for made in quantize(model, learned, folder):
        print(f"{name}: {made.scheme} {made.reason or 'made'}", file=sys.stderr)
    for made in quantize(model, learned, folder / "seven", SEVEN_BITS):
        if made.model is not None:
            made.model.path.rename(folder / "int8-static-7bit.onnx")
    model.path.rename(folder / "float.onnx")


def verify(model: Path, isa: str, processor: str, answer: Path) -> None:
    """Let the command run one model on one processor and keep its document."""
    command = ["edgecompress", "verify", str(model), "--isa", isa, "--json"]
    command += ["--data", str(model.with_name("data.npz"))]
    command += ["--cpu", processor] if isa == "arm64" else []
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}")
    answer.with_suffix(".partial").write_text(done.stdout)
    answer.with_suffix(".partial").rename(answer)
    seconds = time.monotonic() - started
    print(f"{model.parent.name} {model.stem} on {processor}: {seconds:.0f} s", file=sys.stderr)


def row(document: dict[str, Any]) -> str:
    """Return one document as a line of the table."""
    model = document["models"][0]
    (result,) = model["results"]
    worst = max(result["outputs"], key=lambda output: output["max_rel_error"])
    accuracy = result["accuracy"]
    drop = accuracy["drop"]
    steps = "" if worst["steps"] is None else f"{worst['steps']:.2f}"
    inside = {"pass": "yes", "fail": f"**no**: {result['reason']}"}.get(result["status"], "")
    cells = (
        Path(model["path"]).parent.name,
        model["model"],
        result["processor"],
        f"{worst['max_rel_error']:.1e}",
        steps,
        f"{worst['agreement']:.2%}",
        f"{accuracy['here']['value']:.2%}",
        f"{accuracy['there']['value']:.2%}",
        f"{drop['value']:+.2%} ({drop['low']:+.2%} to {drop['high']:+.2%})",
        inside,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
