"""Do importance and the latency search choose better channels than chance, at the same latency?

    python benchmarks/pruning/channels.py --data DIR [--seconds 600] [--folder DIR]

DIR holds `fashion_mnist/fashion_mnist.npz` and `har_phone/har_phone.npz`. Five architectures are
trained on real data and pruned to half their own p50 in ONNX Runtime three ways, with five seeds:

- ours: widths by the latency search, channels by importance;
- random widths, ranked channels: each group keeps a share that is drawn evenly from 0 to 1, all to
  one power that is corrected until the measured latency is that asked for;
- random: the same widths, and which channels stay is drawn too.

All have their batch-norm statistics estimated again and are fine-tuned alike: same steps, and of a
seed the same order. What is finished stands in the folder, the figures in `channels.jsonl` beside
this file, and is not made again; nothing is begun after so many seconds. Prints the tables, and
exits with 1 while networks are missing or ours does not win.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import ARCHITECTURES
from timing import Clock, course_of
from torch import Tensor, nn

from edgecompress.distilling.checkpoint import save_weights
from edgecompress.measuring.curves import kept_curves
from edgecompress.pruning.prune import Pruned, prune_to, reestimate_batchnorm_
from edgecompress.recipe import PruneSettings
from edgecompress.search.latency_target import Course, Step
from edgecompress.statistics import student_t
from edgecompress.tasks.load import load_task
from edgecompress.tasks.task import Split
from edgecompress.teachers.weights import load_weights_

HERE = Path(__file__).parent
ASKED, WINDOW, REDRAWS = 0.5, 0.05, 5
SEEDS = (0, 1, 2, 3, 4)
TIMES = {"residual": 1, "mobilenet_v2": 2, "conv_1d": 6, "vgg": 3, "mobilenet_v1": 2}
WAYS = ("ours", "random widths, ranked channels", "random")
TRAIN, TEST, BATCH = 3_000, 3_000, 64
EPOCHS, RATE, TUNING, TUNING_RATE = 5, 4e-3, 1, 1e-3
AT_LAST = 3  # processes of the measurement that compares them
RANKED, DRAWN = PruneSettings(), PruneSettings(importance="random")


@dataclass(frozen=True)
class Result:
    """Hold one network pruned one way; `share` is of the whole's p50, measured in one run for all.

    `untuned` is the accuracy before fine-tuning, after batch-norm statistics were estimated again.
    """

    name: str
    seed: int
    way: str
    share: float
    macs_share: float
    load: float
    whole: float
    untuned: float
    tuned: float


@dataclass(frozen=True)
class Data:
    """Hold samples to train on and samples held out, as the architectures take them."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor

    def accuracy(self, network: nn.Module) -> float:
        """Return the accuracy on what is held out."""
        with torch.no_grad():
            parts = [network.eval()(x).argmax(1) for x in self.held_x.split(500)]
        return float((torch.cat(parts) == self.held_y).float().mean())


@dataclass(frozen=True)
class Chance(Course):
    """Go down by shares that chance has drawn, all to one power that rises on the way."""

    kept: Mapping[str, float]

    def down(self) -> tuple[Step, ...]:
        """Return the whole network and then ever narrower ones."""
        steps = [self._at(power) for power in (0.0, *np.geomspace(0.01, 8, 400))]
        return (steps[0], *(below for above, below in pairwise(steps) if above != below))

    def between(self, above: Step, below: Step, floor: float) -> tuple[Step, ...]:
        """Return no more than there is: the steps down are as small as they get."""
        return above, below

    def _at(self, power: float) -> Step:
        widths = {}
        for group in self.survey.groups:
            choices = [group.width, *self.choices[group.path]]
            floor = max(group.unit, group.width / 16)
            wanted = group.width * self.kept[group.path] ** power
            allowed = [width for width in choices if width >= floor]
            widths[group.path] = min(allowed, key=lambda width: abs(width - wanted))
        shares = {g.path: widths[g.path] / g.width for g in self.survey.groups}
        cost = sum(
            self.cost(layer, layer.inputs.at(shares), layer.outputs.at(shares))
            for layer in self.survey.layers
        )
        left = [group.surviving(widths[group.path]) for group in self.survey.groups]
        return Step(widths, cost, float(np.mean([1 / max(share, 1e-9) for share in left])))


def by_chance(course: Course, seed: int) -> Chance:
    """Return the course with shares drawn evenly from 0 to 1."""
    paths = [group.path for group in course.survey.groups]
    kept = np.random.default_rng(seed).uniform(0, 1, len(paths))
    return Chance(course.survey, course.choices, course.cost, dict(zip(paths, kept, strict=True)))


def data_of(name: str, folder: Path) -> Data:
    """Return the samples of an architecture, real ones in its shape."""
    kind = "har_phone" if name == "conv_1d" else "fashion_mnist"
    task = load_task(f"../tasks/{kind}.py:task", HERE, folder / kind)

    def drawn(split: Split, most: int) -> tuple[Tensor, Tensor]:
        rows = np.random.default_rng(0).permutation(len(split))[:most]
        part = split.take(rows)
        (array,) = part.inputs.values()
        x = torch.from_numpy(array)
        if kind == "fashion_mnist":  # 28 x 28 grey becomes 16 x 16 in three equal colours
            small = nn.functional.avg_pool2d(x, 2)
            x = nn.functional.pad(small, (1, 1, 1, 1), value=float(x.min())).repeat(1, 3, 1, 1)
        else:  # accelerometer, and the first axis of the gyroscope
            x = x[:, :4].contiguous()
        return x, torch.from_numpy(np.asarray(part.labels))

    return Data(*drawn(task.train, TRAIN), *drawn(task.test, TEST))


def train_(network: nn.Module, data: Data, epochs: int, rate: float, seed: int) -> None:
    """Train in place with a cosine, in bfloat16; the order is that of the seed."""
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-2, fused=True)
    steps = len(data.x) // BATCH
    for step in range(epochs * steps):
        if step % steps == 0:
            drawn = torch.Generator().manual_seed(1000 * seed + step // steps)
            order = torch.randperm(len(data.x), generator=drawn)
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / (epochs * steps)))
        rows = order[step % steps * BATCH :][:BATCH]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            answers = network.train()(data.x[rows])
        nn.functional.cross_entropy(answers.float(), data.y[rows]).backward()
        optimizer.step()
    network.eval()


@dataclass(frozen=True)
class Study:
    """Hold one trained architecture and what was found of it, in a folder."""

    name: str
    data: Data
    folder: Path
    end: float

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what stands in a JSON file, or make it."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            if time.monotonic() > self.end:
                raise TimeoutError(f"{self.name} {name}")
            started, made = time.monotonic(), make()
            file.write_text(json.dumps(made))
            took = time.monotonic() - started
            print(f"{self.name} {name}: {took:.0f} s", file=sys.stderr, flush=True)
        return json.loads(file.read_text())

    @cached_property
    def network(self) -> nn.Module:
        """Return the trained network."""
        torch.manual_seed(0)
        network = ARCHITECTURES[self.name].make(TIMES[self.name])
        weights = self.folder / "weights.safetensors"

        def make() -> float:
            train_(network, self.data, EPOCHS, RATE, 0)
            save_weights(network, weights)
            return self.data.accuracy(network)

        self.once("whole", make)
        return load_weights_(network, weights).eval()

    @cached_property
    def clock(self) -> Clock:
        """Return what prunes and times the network."""
        example = {"x": self.data.x[:3].numpy()}
        return Clock(self.network, example, self.folder, RANKED, screening=2, careful=False)

    @cached_property
    def course(self) -> Course:
        """Return the way down of a run."""
        return course_of(self.clock.survey(), kept_curves())

    def landed(self, seed: int | None) -> dict[str, Any]:
        """Return the widths that land on what is asked: ours, or by chance with a seed."""

        def make() -> dict[str, Any]:
            for draw in range(REDRAWS):
                course = self.course if seed is None else by_chance(self.course, 100 * seed + draw)
                landing = self.clock.land(course, ASKED)
                if seed is None or 1 - WINDOW <= landing.value / ASKED <= 1:
                    break
            assert landing.step is not None
            return {"widths": dict(landing.step.widths), "load": landing.step.load}

        return self.once("ours" if seed is None else f"chance-{seed}", make)

    def pruned(self, way: str, seed: int) -> tuple[Pruned, float]:
        """Return the network pruned one way, and its load."""
        found = self.landed(None if way == WAYS[0] else seed)
        settings = DRAWN if way == WAYS[2] else RANKED
        clock = self.clock
        pruned = prune_to(self.network, clock.inputs, found["widths"], settings, seed=seed)
        return pruned, found["load"]

    def shares(self) -> dict[str, float]:
        """Return the p50 of ours and of all random widths, as shares, taking turns in one run."""

        def make() -> dict[str, float]:
            networks = {"ours": self.pruned(WAYS[0], 0)[0].module}
            networks |= {f"chance-{s}": self.pruned(WAYS[1], s)[0].module for s in SEEDS}
            files = {name: self.clock.exported(net, name) for name, net in networks.items()}
            return self.clock.shares(files, AT_LAST)

        return self.once("shares", make)

    def result(self, way: str, seed: int) -> Result:
        """Return what becomes of the network, pruned one way and fine-tuned with a seed."""
        pruned, load = self.pruned(way, seed)
        share = self.shares()["ours" if way == WAYS[0] else f"chance-{seed}"]
        whole = self.once("whole", float)

        def make() -> list[float]:
            batches = [{"x": x} for x in self.data.x[:1024].split(BATCH)]
            reestimate_batchnorm_(pruned.module, batches)
            untuned = self.data.accuracy(pruned.module)
            train_(pruned.module, self.data, TUNING, TUNING_RATE, seed)
            return [untuned, self.data.accuracy(pruned.module)]

        untuned, tuned = self.once(f"{WAYS.index(way)}-{seed}", make)
        macs = pruned.macs_after / pruned.macs_before
        return Result(self.name, seed, way, share, macs, load, whole, untuned, tuned)


def table(results: Sequence[Result]) -> str:
    """Return accuracy by architecture and way: the mean over the seeds."""
    lines = [
        "| architecture | way | seeds | share of p50 | MACs left | untuned | tuned | lost |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in TIMES:
        for way in WAYS:
            found = [r for r in results if (r.name, r.way) == (name, way)]
            if not found:
                continue
            share, macs, untuned, tuned, whole = (
                100 * np.mean([getattr(r, field) for r in found])
                for field in ("share", "macs_share", "untuned", "tuned", "whole")
            )
            lines.append(
                f"| {name} | {way} | {len(found)} | {share:.1f} % | {macs:.0f} % | "
                f"{untuned:.1f} % | {tuned:.2f} % | {whole - tuned:+.2f} |"
            )
    return "\n".join(lines)


def gains(results: Sequence[Result], name: str, other: str) -> list[float]:
    """Return by how many points ours is better after fine-tuning, for each seed."""
    found = {(r.way, r.seed): r.tuned for r in results if r.name == name}
    seeds = [seed for way, seed in found if way == other]
    return [100 * (found[WAYS[0], seed] - found[other, seed]) for seed in seeds]


def compared(results: Sequence[Result]) -> str:
    """Return how much ours gains, paired by seed."""
    lines = [
        "| architecture | ours against | gain, points (95 %) | seeds won |",
        "|---|---|--:|--:|",
    ]
    for name in TIMES:
        for other in WAYS[1:]:
            won = gains(results, name, other)
            if len(won) > 1:
                half = student_t(0.975, len(won) - 1) * np.std(won, ddof=1) / len(won) ** 0.5
                mean = float(np.mean(won))
                lines.append(
                    f"| {name} | {other} | {mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f}) "
                    f"| {sum(gain > 0 for gain in won)} of {len(won)} |"
                )
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, as far as time allows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--folder", type=Path, default=Path("pruning-channels"))
    parser.add_argument("--only", choices=TIMES, help="fill the folder for one architecture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    end, results = time.monotonic() + given.seconds, []
    try:
        for name in [given.only] if given.only else TIMES:
            folder = given.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            study = Study(name, data_of(name, given.data), folder, end)
            for seed, way in product(SEEDS, WAYS):
                results.append(study.result(way, seed))
    except TimeoutError as over:
        print(f"stopped before {over}; run again to go on", file=sys.stderr)
    if given.only:
        return 0
    lines = [json.dumps(asdict(result)) + "\n" for result in results]
    (HERE / "channels.jsonl").write_text("".join(lines))
    print(f"{table(results)}\n\n{compared(results)}")
    complete = len(results) == len(TIMES) * len(SEEDS) * len(WAYS)
    wins = complete and all(np.mean(gains(results, n, w)) > 0 for n in TIMES for w in WAYS[1:])
    return int(not wins)


if __name__ == "__main__":
    sys.exit(main())
