"""Prune Fashion-MNIST's residual teacher to half its latency, and teach it again.

    python benchmarks/pruning/accuracy.py --data FILE [--weights FILE] [--epochs 8] [--test]

The teacher of `examples/fashion_mnist` (its weights are read, or it is trained first) is pruned to
half its own p50 in ONNX Runtime on one core twice:

- ours: the latency search of a run, with its defaults;
- torch-pruning: `BasePruner` with `GroupMagnitudeImportance`, all else as it comes: one ratio for
  every layer, no rounding, and the last layer is left alone; the ratio is halved in until the
  measured latency is ours.

Both have their batch-norm statistics estimated again and learn from the unpruned network alike:
same images, views, order, steps. What is finished stands in a folder (`--folder`) and is not made
again; nothing goes on after `--seconds`. The test images are read with `--test` only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_pruning as tp
from timing import AT_LAST, CONFIRMING, Clock, course_of
from torch import nn

from edgecompress import Task
from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.certainty import calibrated, certainty_as_taught
from edgecompress.distilling.checkpoint import save_weights
from edgecompress.distilling.kinds import form_of
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import score
from edgecompress.distilling.views import tensors
from edgecompress.measuring.curves import kept_curves
from edgecompress.pruning.plan import PruningPlan, apply_plan
from edgecompress.pruning.prune import count_macs, reestimate_batchnorm_
from edgecompress.recipe import DistillSettings, PruneSettings, TrainSettings, load_recipe
from edgecompress.records import Mode
from edgecompress.statistics import mean_interval, paired_drop
from edgecompress.tasks.load import load_task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits
from edgecompress.teachers.weights import load_weights_

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"
ASKED, CLOSE, HALVINGS = 0.5, 0.015, 9
BATCHES, BATCH = 8, 128
WAYS = ("ours", "torch-pruning")
UNTAUGHT = ", not taught"


class OutOfTimeError(Exception):
    """Say that the seconds are over; the last checkpoint is kept."""


@dataclass(frozen=True)
class Place:
    """Hold the task, the folder with all that is finished, and the moment to stop."""

    task: Task
    folder: Path
    end: float

    def tick(self, text: str, done: int, total: int) -> None:
        """Stop where time is over."""
        if time.monotonic() > self.end:
            raise OutOfTimeError(f"{text}, step {done} of {total}")

    def trained(
        self,
        name: str,
        network: nn.Module,
        settings: TrainSettings,
        teacher: CheckedTeacher | None = None,
    ) -> nn.Module:
        """Return the network trained, from its teacher where one is given; made once."""
        file = self.folder / f"{name}-{settings.epochs}.safetensors"
        if file.exists():
            return load_weights_(deepcopy(network), file).eval()
        fast = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
        bench = Bench(
            mode=Mode(fast, channels_last=True, threads=1),
            checkpoint=file.with_suffix(".checkpoint"),
            soft_folder=self.folder / "soft_targets",
            tick=self.tick,
        )
        arm = "teacher" if teacher is None else "distilled"
        made = train_arm(arm, network, self.task, settings, bench, teacher).module
        save_weights(made, file)
        return made

    def refreshed(self, network: nn.Module) -> nn.Module:
        """Return a pruned network with batch-norm statistics of its own."""
        parts = (self.task.train.take(slice(i * BATCH, (i + 1) * BATCH)) for i in range(BATCHES))
        reestimate_batchnorm_(network, (tensors(part.inputs) for part in parts))
        return network


def whole_network(place: Place, weights: Path | None) -> nn.Module:
    """Return the teacher of the example, trained."""
    torch.manual_seed(0)
    network = place.task.teacher()
    if weights is not None:
        return load_weights_(network, weights).eval()
    settings = load_recipe(EXAMPLE / "recipe.toml").teacher
    assert settings is not None
    return place.trained("teacher", network, settings)


def by_ratio(network: nn.Module, clock: Clock, ratio: float) -> nn.Module:
    """Return what torch-pruning makes of a copy of the network."""
    copy = deepcopy(network).train(False)
    last = [part for part in copy.modules() if isinstance(part, nn.Linear)][-1:]
    pruner = tp.pruner.BasePruner(
        copy,
        clock.inputs[0],
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=ratio,
        ignored_layers=last,
    )
    pruner.step()
    return copy


def ratio_for(asked: float, share: Callable[[float], float]) -> float:
    """Return the ratio whose measured share of the latency is nearest to what is asked, from below.

    Latency does not fall evenly with the ratio: of all that were tried, the one that counts is the
    nearest within.
    """
    low, high, tried = 0.0, 0.9, {}
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        tried[ratio] = share(ratio)
        print(f"torch-pruning {ratio:.3f}: {tried[ratio]:.3f}", file=sys.stderr, flush=True)
        if asked * (1 - CLOSE) <= tried[ratio] <= asked * (1 + CLOSE):
            return ratio
        low, high = (low, ratio) if tried[ratio] < asked else (ratio, high)
    return min(tried, key=lambda ratio: abs(tried[ratio] - asked))


def both_pruned(place: Place, network: nn.Module) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """Return the networks pruned both ways, and their shares of the latency; searched once."""
    example = place.task.example_inputs(3)
    clock, plan = Clock(network, example, place.folder, PruneSettings()), place.folder / "plan.json"
    known = place.folder / "pruned.json"
    if not known.exists():
        landing = clock.land(course_of(clock.survey(), kept_curves()), ASKED)
        pruned, model = clock.of(landing.step)
        pruned.plan.save(plan)
        mine = clock.shares({"ours": model}, CONFIRMING)["ours"]
        print(f"ours: {[t.found for t in landing.trials]}, again {mine:.3f}", file=sys.stderr)

        def share(ratio: float) -> float:
            file = clock.exported(by_ratio(network, clock, ratio), f"ratio-{ratio:.4f}")
            return clock.shares({"ratio": file}, CONFIRMING)["ratio"]

        ratio = ratio_for(mine, share)
        files = {
            WAYS[0]: model,
            WAYS[1]: clock.exported(by_ratio(network, clock, ratio), "torch-pruning"),
        }
        found = {"ratio": ratio, "shares": clock.shares(files, AT_LAST)}
        known.write_text(json.dumps(found))
    found = json.loads(known.read_text())
    mine = apply_plan(network, PruningPlan.load(plan), clock.inputs)
    theirs = by_ratio(network, clock, found["ratio"])
    made = {WAYS[0]: place.refreshed(mine), WAYS[1]: place.refreshed(theirs)}
    return made, found["shares"]


def report(
    place: Place, networks: dict[str, nn.Module], shares: dict[str, float], test: bool
) -> str:
    """Return the table; what is lost is against the unpruned network, paired by image."""
    split = "test" if test else "validation"
    whole = score(networks["unpruned"], place.task, split)
    lines = [
        f"| network | share of p50 | MACs | parameters | {split} accuracy | lost (95 %, paired) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, network in networks.items():
        found = score(network, place.task, split)
        mean, low, high = (100 * value for value in mean_interval(found.scores))
        drop, least, most = (100 * v for v in paired_drop(whole.scores, found.scores, error=0.025))
        share = shares.get(name.removesuffix(UNTAUGHT), 1.0)
        macs, parameters = count_macs(network, tensors(place.task.example_inputs(2)))
        lost = f"{drop:+.2f} ({least:+.2f} to {most:+.2f})" if name != "unpruned" else ""
        lines.append(
            f"| {name} | {100 * share:.1f} % | {macs / 1e6:.1f} M | "
            f"{parameters:,} | {mean:.2f} % ({low:.2f} to {high:.2f}) | {lost} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Go on as far as time allows, and print the table once both are trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("pruning-accuracy"))
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--test", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    task = load_task("fashion_mnist.py:task", EXAMPLE, given.data.absolute())
    place = Place(task, given.folder, time.monotonic() + given.seconds)
    settings = DistillSettings(
        epochs=given.epochs,
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=5e-4,
        clip_norm=10.0,
        views=4,
    )
    try:
        whole = whole_network(place, given.weights)
        pruned, shares = both_pruned(place, whole)
        teacher = as_teacher(whole, form_of(task))
        outputs = predict_logits(teacher, task.validation.inputs)
        teacher = calibrated(teacher, certainty_as_taught(task, teacher, outputs), settings)
        before = {f"{way}{UNTAUGHT}": network for way, network in pruned.items()}
        after = {way: place.trained(way, n, settings, teacher) for way, n in pruned.items()}
    except OutOfTimeError as over:
        print(f"stopped: {over}; run again to go on", file=sys.stderr)
        return 1
    print(report(place, {"unpruned": whole, **before, **after}, shares, given.test))
    return 0


if __name__ == "__main__":
    sys.exit(main())
