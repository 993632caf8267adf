"""Prune eleven architectures at random; rebuild each in another process; export each to ONNX.

    python benchmarks/pruning/plans.py [--prunings 100] [--out FOLDER] [--figures FILE]

A rebuilt network is the original, its plan and its weights; it must answer with the same bits, and
the exported model with the same numbers to 1e-4 of the largest. Prints a table, writes a line a
pruning to FILE (`plans.jsonl` beside this file), and exits with 1 when any of it fails.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from architectures import ARCHITECTURES
from safetensors.torch import load_file, save_file

from edgecompress.errors import PruningError
from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import check_parity
from edgecompress.pruning.plan import PruningPlan, apply_plan
from edgecompress.pruning.prune import Pruned, prune
from edgecompress.recipe import PruneSettings

SAMPLES = 32
ATTENTIVE = ("vit_tiny", "bert_tiny")
WITHOUT_BLOCKS = ("vgg", "mobilenet_v1", "densenet", "conv_1d")


@dataclass(frozen=True)
class Outcome:
    """Hold what became of one random pruning."""

    name: str
    seed: int
    settings: dict[str, object]
    refusals: int
    macs_left: float
    identical: bool
    parity: float
    exported: bool
    reason: str


def drawn(name: str, seed: int, draw: random.Random) -> PruneSettings:
    """Return random settings that make sense for the architecture."""
    return PruneSettings(
        importance="random",
        pruning_ratio=round(draw.uniform(0.05, 0.8), 2),
        scope=draw.choice(["local", "global", "isomorphic"]),
        round_to=draw.choice([1, 2, 4, 8]),
        steps=draw.choice([1, 2, 3]),
        schedule=draw.choice(["linear", "cubic"]),
        head_ratio=draw.choice([0.0, 0.25, 0.5]) if name in ATTENTIVE else 0.0,
        block_ratio=0.0 if name in WITHOUT_BLOCKS else draw.choice([0.0, 0.34, 0.67]),
    )


def pruned_at_random(name: str, seed: int) -> tuple[Pruned, PruneSettings, int]:
    """Return a pruning, and how often settings were refused because nothing would go."""
    draw, refusals = random.Random(f"{name} {seed}"), 0
    while True:
        settings, net = drawn(name, seed, draw), ARCHITECTURES[name].network(seed)
        try:
            pruned = prune(net, (ARCHITECTURES[name].inputs(2),), settings, seed=seed)
        except PruningError as error:
            if "removed nothing" not in str(error):
                raise
            refusals += 1
        else:
            return pruned, settings, refusals


def keep(folder: Path, pruned: Pruned, inputs: torch.Tensor) -> None:
    """Write all that another process needs, and the answers that it must give."""
    pruned.plan.save(folder / "plan.json")
    save_file(pruned.module.state_dict(), folder / "weights.safetensors")
    with torch.no_grad():
        outputs = pruned.module.eval()(inputs)
    save_file({"outputs": outputs}, folder / "outputs.safetensors")


def rebuild(folders: Sequence[str]) -> Iterator[bool]:
    """Yield for each folder NAME-SEED whether the rebuilt network answers with the same bits."""
    for folder in map(Path, folders):
        name, _, seed = folder.name.rpartition("-")
        architecture = ARCHITECTURES[name]
        net = architecture.network(int(seed) + 1)  # other weights, which the file replaces
        net = apply_plan(net, PruningPlan.load(folder / "plan.json"), (architecture.inputs(2),))
        net.load_state_dict(load_file(folder / "weights.safetensors"))
        with torch.no_grad():
            outputs = net.eval()(architecture.inputs(SAMPLES))
        yield torch.equal(outputs, load_file(folder / "outputs.safetensors")["outputs"])


def rebuilt_elsewhere(folders: Sequence[Path]) -> list[bool]:
    """Return what `rebuild` finds in another process."""
    command = [sys.executable, __file__, "--rebuild", *map(str, folders)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def exported(folder: Path, pruned: Pruned, inputs: torch.Tensor) -> tuple[bool, float, str]:
    """Return whether the exported model passes parity, its relative error, and the reason."""
    arrays = {"inputs": inputs.numpy()}
    model = export(pruned.module, {"inputs": arrays["inputs"][:1]}, folder / "model.onnx")
    reference = load_file(folder / "outputs.safetensors")["outputs"].numpy()
    parity = check_parity(reference, model, arrays, "torch")
    return parity.passed, parity.max_rel_error, parity.reason


def outcomes(jobs: Sequence[tuple[str, int]], folder: Path) -> Iterator[Outcome]:
    """Yield what became of each (name, seed)."""
    made = {}
    for name, seed in jobs:
        place = folder / f"{name}-{seed}"
        place.mkdir(parents=True)
        pruned, settings, refusals = pruned_at_random(name, seed)
        inputs = ARCHITECTURES[name].inputs(SAMPLES)
        keep(place, pruned, inputs)
        passed = exported(place, pruned, inputs)
        made[place] = (name, seed, pruned, settings, refusals, passed)
        print(f"{len(made)} of {len(jobs)}: {place.name}", file=sys.stderr, flush=True)
    for place, identical in zip(made, rebuilt_elsewhere(list(made)), strict=True):
        name, seed, pruned, settings, refusals, (passes, error, reason) = made[place]
        yield Outcome(
            *(name, seed, settings.model_dump(), refusals),
            *(pruned.macs_after / pruned.macs_before, identical, error, passes, reason),
        )


def table(found: Sequence[Outcome]) -> str:
    rows = [
        "| architecture | prunings | MACs left | rebuilt with the same bits | exported | worst "
        "parity |\n|---|--:|--:|--:|--:|--:|"
    ]
    for name in dict.fromkeys(o.name for o in found):
        mine = [o for o in found if o.name == name]
        left = [o.macs_left for o in mine]
        rows.append(
            f"| {name} | {len(mine)} | {min(left):.0%} to {max(left):.0%} "
            f"| {sum(o.identical for o in mine)} | {sum(o.exported for o in mine)} "
            f"| {max(o.parity for o in mine):.1e} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prunings", type=int, default=100)
    parser.add_argument("--out", type=Path, help="keep plans, weights and models there")
    parser.add_argument("--figures", type=Path, default=Path(__file__).with_name("plans.jsonl"))
    parser.add_argument("--rebuild", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, in both processes
    if given.rebuild:
        print(json.dumps(list(rebuild(given.rebuild))))
        return 0
    names = list(ARCHITECTURES)
    jobs = [(names[i % len(names)], i) for i in range(given.prunings)]
    with tempfile.TemporaryDirectory() as temporary:
        found = list(outcomes(jobs, given.out or Path(temporary)))
    given.figures.write_text("".join(f"{json.dumps(asdict(outcome))}\n" for outcome in found))
    print(table(found))
    refusals = sum(o.refusals for o in found)
    print(f"\n{len(found)} prunings; {refusals} random settings were refused: nothing would go")
    return 0 if all(o.identical and o.exported for o in found) else 1


if __name__ == "__main__":
    sys.exit(main())
