"""Print what the same int8 files score on x86 with VNNI, on x86 without, and on arm64.

    edgecompress verify --set-up --isa arm64 --isa x86-avx2
    python benchmarks/quantization/isa.py --models MODELS --data DATA --out OUT [--seconds 80]

MODELS holds NAME-fp32.onnx for each set of `sets.py`, and NAME-int8.onnx where somebody chose one;
the float files are also quantized here by --schemes, with 8-bit and with 7-bit weights. Needs a
machine with VNNI: the others are imitated by qemu, which runs ONNX Runtime's real kernels. The
answers are kept under OUT in pieces: with --seconds it stops after the piece in which that time is
over, and the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sets import SETS, SMALL, calibration_of, load_set, test_of

from edgecompress import Split, Task, onnx_model, quantize
from edgecompress.measuring.host import describe_host
from edgecompress.profiles import Device, isa_of
from edgecompress.quantization import QuantizeSettings, Scheme
from edgecompress.quantizing.schemes import label_of
from edgecompress.runtime import ModelFacts, admit
from edgecompress.runtime import run as run_model
from edgecompress.tasks.metrics import evaluate
from edgecompress.verifying.emulators import Kits, default_cache
from edgecompress.verifying.fleet import Member, answers, members
from edgecompress.verifying.spread import Spread, largest_spread

FLEET = Device(description="servers and phones", fleet=("x86-vnni", "x86-avx2", "arm64"))
MOST, PIECE, PATIENCE_S = 5000, 500, 600.0
WEIGHTS = {"7bit": True, "8bit": False}
SCHEMES: tuple[Scheme, ...] = ("static", "static-float-ends", "dynamic")


@dataclass(frozen=True)
class Bench:
    """Hold the members of the fleet, where answers are kept, of which files, when to stop."""

    fleet: tuple[Member, ...]
    kits: Kits
    out: Path
    weights: Sequence[str]
    schemes: Sequence[Scheme]
    end: float


def main() -> None:
    """Do what is left to do, set by set, and print each set's lines when they are whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SMALL))
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=["static", "dynamic"])
    parser.add_argument("--without", nargs="+", default=[], help="Processors to leave out.")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    asked = parser.parse_args()
    bench = opened(asked)
    names = [member.name for member in bench.fleet]
    print(f"| set | int8 | samples | float | {' | '.join(names)} | largest spread, 95 % bounds |")
    print(f"|---|---|{'--:|' * (3 + len(names))}")
    for name in asked.sets:
        source = asked.models / f"{name}-fp32.onnx"
        if source.is_file():
            for line in lines(name, source, load_set(name, asked.data), bench):
                print(line, flush=True)
        else:
            print(f"{name}: no {source}", file=sys.stderr)


def opened(asked: argparse.Namespace) -> Bench:
    """Return the bench, or stop where one of the fleet cannot run here."""
    kits = Kits(default_cache())
    fleet = members(FLEET, FLEET.fleet, isa_of(describe_host().isa), kits)
    fleet = tuple(member for member in fleet if member.name not in asked.without)
    if missing := [f"{member.name}: {member.missing}" for member in fleet if member.missing]:
        sys.exit("; ".join(missing))
    end = time.monotonic() + asked.seconds
    return Bench(fleet, kits, asked.out, asked.weights, asked.schemes, end)


def lines(name: str, source: Path, task: Task, bench: Bench) -> Iterator[str]:
    """Yield a line of the table for each int8 model of one set."""
    test = test_of(task, MOST)
    whole = evaluate(task.metric, run_model(onnx_model(source), test.inputs), test.labels, "test")
    for kind, path in quantized(name, source, task, bench).items():
        facts = admit(path)
        scores = {m.name: scored(m, facts, task, test, bench) for m in bench.fleet}
        cells = [f"{np.mean(each):.2%}" for each in scores.values()]
        head = (name, kind, str(len(test)), f"{whole.metric.value:.2%}")
        yield f"| {' | '.join([*head, *cells, in_words(largest_spread(scores))])} |"


def in_words(spread: Spread) -> str:
    """Return a spread of accuracy in points, with its bounds."""
    bounds = f"{100 * spread.low:.2f} to {100 * spread.high:.2f}"
    return f"{100 * spread.value:.2f} points ({bounds})"


def quantized(name: str, source: Path, task: Task, bench: Bench) -> dict[str, Path]:
    """Return the int8 files of one float file by kind: what was given, and what is made here."""
    found = {
        path.stem.removeprefix(f"{name}-"): path for path in source.parent.glob(f"{name}-int8*")
    }
    calibration = calibration_of(task).inputs
    for weights in bench.weights:
        for scheme in bench.schemes:
            path = bench.out / name / weights / f"{label_of(scheme)}.onnx"
            if not path.exists():
                settings = QuantizeSettings(schemes=(scheme,), reduce_range=WEIGHTS[weights])
                (made,) = quantize(onnx_model(source), calibration, path.parent, settings)
                print(f"{name} {weights}: {scheme} {made.reason or 'made'}", file=sys.stderr)
            if path.exists():
                found[f"{path.stem}, {weights}"] = path
    return found


def scored(
    member: Member, facts: ModelFacts, task: Task, test: Split, bench: Bench
) -> tuple[float, ...]:
    """Return the score of each sample on one member of the fleet."""
    folder = bench.out / "answers" / f"{facts.model.sha256[:12]}-{member.name.partition(' ')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [
        piece(folder, start, member, facts, test, bench) for start in range(0, len(test), PIECE)
    ]
    return evaluate(task.metric, np.concatenate(pieces), test.labels, "test").scores


def piece(
    folder: Path, start: int, member: Member, facts: ModelFacts, test: Split, bench: Bench
) -> NDArray[np.generic]:
    """Return the answers to PIECE samples, kept in a file."""
    file = folder / f"{start}.npy"
    if not file.exists():
        if time.monotonic() > bench.end:
            sys.exit("stopped; the same command goes on")
        began = time.monotonic()
        part = test.take(slice(start, start + PIECE)).inputs
        found = answers(member, bench.kits, facts, part, PATIENCE_S)
        with file.with_suffix(".partial").open("wb") as stream:
            np.save(stream, found)
        file.with_suffix(".partial").rename(file)
        print(f"{facts.model.path}: {member.name} {start} {time.monotonic() - began:.0f} s",
              file=sys.stderr)  # fmt: skip
    return np.load(file)


if __name__ == "__main__":
    main()
