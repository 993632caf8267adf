"""Ask for three quarters, a half and a third of the latency of eleven architectures.

    python benchmarks/pruning/targets.py [--seconds 1500] [--figures FILE]

Each is pruned to a share of its own p50 in ONNX Runtime on one core, in at most six trials, and
what comes back is measured anew, by processes of its own, beside its input. A line a case goes to
FILE (`targets.jsonl` beside this file); cases that stand there are not run again, and none is begun
after so many seconds. Prints the table, and exits with 1 while cases are missing or any fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from statistics import median

import torch
from architectures import ARCHITECTURES, Architecture
from torch import nn

from edgecompress.exporting.onnx import export
from edgecompress.measuring.curves import kept_curves
from edgecompress.measuring.latency import measure
from edgecompress.pruning.prune import Pruned, prune_to
from edgecompress.pruning.widths import survey
from edgecompress.recipe import MeasureSettings, PruneSettings
from edgecompress.records import OnnxModel
from edgecompress.search.latency_target import WITHIN, Course, Step, land
from edgecompress.search.layer_costs import grid, time_by

SHARES = (0.75, 0.5, 0.33)
# How many times as wide as in architectures.py, so that each takes a good part of a millisecond.
TIMES = {
    "residual": 6, "vgg": 16, "mobilenet_v1": 12, "mobilenet_v2": 8, "mobilenet_v3": 8,
    "efficientnet": 8, "convnext": 12, "densenet": 6, "vit_tiny": 4, "bert_tiny": 4, "conv_1d": 24,
}  # fmt: skip
SETTINGS = PruneSettings(importance="l2")
MEASURE = MeasureSettings(seconds_per_process=0.2)
PROCESSES, CONFIRMING, AT_LAST = 3, 7, 7


@dataclass(frozen=True)
class Case:
    """Hold what came of one target; times in ms, `share` measured anew after the search."""

    name: str
    asked: float
    trials: list[float]
    reached: bool
    load: float
    before_ms: float
    after_ms: float
    share: float
    macs_share: float

    @property
    def within(self) -> bool:
        """Return whether it lies within 5 % of the target by the last measurement."""
        return abs(self.share / self.asked - 1) <= WITHIN

    @property
    def speed_of_macs(self) -> float:
        """Return the measured speed-up as a share of the ratio of MACs."""
        return self.macs_share / self.share


@dataclass
class Bench:
    """Prune one network to given widths, export it, and time it beside the whole one."""

    architecture: Architecture
    network: nn.Module
    folder: Path
    whole: OnnxModel = field(init=False)
    made: list[tuple[Step, Pruned, OnnxModel]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.whole = self.exported(self.network, "whole")

    def exported(self, network: nn.Module, name: str) -> OnnxModel:
        """Return the network as a file."""
        example = {"x": self.architecture.inputs(3).numpy()}
        return export(network, example, self.folder / f"{name}.onnx")

    def times(self, model: OnnxModel, processes: int) -> tuple[float, float]:
        """Return the p50 of the whole network and of the model, which took turns, in ms."""
        models = {"whole": self.whole, "narrow": model}
        one = {"x": self.architecture.inputs(1).numpy()}
        found = measure(models, {"whole": one, "narrow": one}, MEASURE, processes=processes)
        return found["whole"].latency_ms.p50, found["narrow"].latency_ms.p50

    def __call__(self, step: Step) -> float:
        """Return the measured share of the whole network's p50."""
        inputs = (self.architecture.inputs(2),)
        pruned = prune_to(self.network, inputs, step.widths, SETTINGS)
        model = self.exported(pruned.module, f"trial-{len(self.made)}")
        self.made.append((step, pruned, model))
        return self.share(model, PROCESSES)

    def confirm(self, step: Step) -> float:
        """Return the share of a step that was tried, measured with more care."""
        return self.share(next(made[2] for made in self.made if made[0] is step), CONFIRMING)

    def share(self, model: OnnxModel, processes: int) -> float:
        """Return the p50 of a model as a share of the whole network's."""
        before, after = self.times(model, processes)
        return after / before


def run_case(name: str, asked: float, curves: Path) -> Case:
    """Prune one architecture to a share of its latency."""
    architecture = ARCHITECTURES[name]
    network = architecture.network(0, TIMES[name])
    known = kept_curves(curves)
    found = survey(network, (architecture.inputs(2),), SETTINGS)
    choices = {g.path: grid(known, g.width, g.unit) for g in found.groups}
    course = Course(found, choices, time_by(known))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(architecture, network, Path(folder))
        landing = land(course, asked, 1.0, bench, bench.confirm)
        _, pruned, model = next(made for made in bench.made if made[0] is landing.step)
        before, after = bench.times(model, AT_LAST)
    return Case(
        name=name,
        asked=asked,
        trials=[round(trial.found, 4) for trial in landing.trials],
        reached=landing.reached,
        load=landing.step.load if landing.step else 1.0,
        before_ms=before,
        after_ms=after,
        share=after / before,
        macs_share=pruned.macs_after / pruned.macs_before,
    )


def kept(figures: Path) -> list[Case]:
    """Return the cases that were run before."""
    if not figures.exists():
        return []
    return [Case(**json.loads(line)) for line in figures.read_text().splitlines()]


def table(cases: Sequence[Case]) -> str:
    """Return the table for the README."""
    lines = [
        "| architecture | p50 | asked | got | trials | MACs left | speed-up of MACs ratio | hit |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for case in cases:
        hit = "within 5 %" if case.within else "nearest below" if is_hit(case) else "no"
        lines.append(
            f"| {case.name} | {case.before_ms:.2f} ms | {case.asked:.0%} | {case.share:.1%} | "
            f"{len(case.trials)} | {case.macs_share:.0%} | {case.speed_of_macs:.0%} | {hit} |"
        )
    return "\n".join(lines)


def is_hit(case: Case) -> bool:
    """Return whether the target was met: within 5 %, or by the nearest reachable width below."""
    taken = max((found for found in case.trials if found <= case.asked), default=inf)
    nearest = case.reached and taken < case.asked * (1 - WITHIN)
    return case.within or (nearest and case.share < case.asked)


def main() -> int:
    """Run the cases that are missing, as far as time allows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1500.0)
    parser.add_argument("--figures", type=Path, default=Path(__file__).with_name("targets.jsonl"))
    parser.add_argument("--curves", type=Path, default=Path(tempfile.gettempdir()) / "curves")
    given = parser.parse_args()
    torch.set_num_threads(1)
    end, cases = time.monotonic() + given.seconds, kept(given.figures)
    done = {(case.name, case.asked) for case in cases}
    todo = [
        (name, share) for share in SHARES for name in ARCHITECTURES if (name, share) not in done
    ]
    for name, share in todo:
        if time.monotonic() > end:
            break
        started = time.monotonic()
        case = run_case(name, share, given.curves)
        with given.figures.open("a") as lines:
            lines.write(json.dumps(asdict(case)) + "\n")
        cases.append(case)
        print(f"{name} {share}: {case.trials} {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(table(cases))
    hits = [case for case in cases if is_hit(case)]
    slower = [case for case in cases if case.share >= 1]
    print(
        f"\n{len(hits)} of {len(cases)} reached, {len(slower)} slower than their input, "
        f"{median(len(case.trials) for case in cases):g} trials in the middle"
    )
    return int(len(cases) < len(SHARES) * len(ARCHITECTURES) or len(hits) < 0.9 * len(cases))


if __name__ == "__main__":
    sys.exit(main())
