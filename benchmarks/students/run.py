"""Judge 50 students before training; train the 20 nearest to the limit; see which calls stand.

    python benchmarks/students/run.py [--work DIR] [--one]

The limit of latency_ms.p95 is the median of the students', so that half of them fit. What is done
is kept in DIR and not done again; `--one` does one step and ends, for machines that are quiet for
a minute or two only. The last step prints the tables and writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from math import log
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from sklearn.datasets import load_digits
from torch import nn

from edgecompress.exporting.onnx import export
from edgecompress.measuring.host import describe_host
from edgecompress.pipeline.offers import design_student, services
from edgecompress.profiles import Profile, load_profile
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings, Recipe
from edgecompress.records import Measurement, OnnxModel, Status, StudentOffer, StudentSpec
from edgecompress.search.students import Design, judge_students
from edgecompress.students.ladder import Problem, build, ladder, parameter_count
from edgecompress.verdict import Evidence, judge

T = TypeVar("T")
PROBLEM = Problem("image", {"image": (1, 28, 28)}, 10)
RECIPE = Recipe(quantize=QuantizeSettings())
NEAREST, AT_ONCE = 20, 4  # so few that a group is measured within a minute
HERE = Path(__file__).parent


class Kept:
    """Make a value once, keep it with the seconds that it took, and find it again."""

    def __init__(self, work: Path, one: bool) -> None:
        self.work, self.one = work, one
        work.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, kind: Any, make: Callable[[], T]) -> T:
        file = self.work / f"{name}.json"
        if file.exists():
            kept: T = TypeAdapter(kind).validate_python(json.loads(file.read_text())["value"])
            return kept
        started = time.monotonic()
        value = make()
        taken = time.monotonic() - started
        plain = TypeAdapter(kind).dump_python(value, mode="json")
        file.write_text(json.dumps({"seconds": taken, "value": plain}))
        print(f"{name}: {taken:.1f} s", flush=True)
        if self.one:
            raise SystemExit(0)
        return value

    def seconds(self, name: str) -> float:
        return float(json.loads((self.work / f"{name}.json").read_text())["seconds"])


def profile_with(limit_ms: float) -> Profile:
    """Return cpu-1core with this limit of the p95, its other budgets as they are."""
    known = load_profile("cpu-1core")
    latency = known.budget.latency_ms.model_copy(update={"p95": limit_ms})
    budget = known.budget.model_copy(update={"latency_ms": latency})
    return known.model_copy(update={"budget": budget})


def tick(text: str, done: int, total: int) -> None:
    """Tell nobody."""


def untrained(kept: Kept) -> tuple[Design, ...]:
    folder = kept.work / "untrained"
    folder.mkdir(exist_ok=True)
    profile = profile_with(1.0)
    return kept.once(
        "export",
        tuple[Design, ...],
        lambda: tuple(
            design_student(
                spec, partial(build, spec, PROBLEM), PROBLEM, profile, RECIPE, folder / spec.label
            )
            for spec in ladder(PROBLEM)
        ),
    )


def judged(kept: Kept, designs: tuple[Design, ...]) -> tuple[float, tuple[StudentOffer, ...]]:
    """Return the limit, and what the students cost and are called."""
    files = {f"{d.spec.label}/{s}": model for d in designs for s, model in d.files.items()}
    quick = kept.once(
        "screen",
        dict[str, Measurement],
        lambda: services(PROBLEM, profile_with(1.0), RECIPE, tick).measure(files, False),
    )
    best = [min(quick[f"{d.spec.label}/{s}"].latency_ms.p95 for s in d.files) for d in designs]
    limit = float(f"{median(best):.3g}")
    usual = services(PROBLEM, profile_with(limit), RECIPE, tick)

    def measure(models: Mapping[str, OnnxModel], carefully: bool) -> Mapping[str, Measurement]:
        return usual.measure(models, True) if carefully else quick

    made = kept.once(
        "judge",
        tuple[StudentOffer, ...],
        lambda: judge_students(designs, replace(usual, measure=measure)),
    )
    return limit, made


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scikit-learn's digits as images of 28 x 28, and their labels."""
    found = load_digits()
    small = (found.images / 8 - 1).astype(np.float32)
    large = np.pad(np.kron(small, np.ones((1, 3, 3), np.float32)), ((0, 0), (2, 2), (2, 2)))
    return large[:, None], found.target.astype(np.int64)


def trained(spec: StudentSpec, folder: Path) -> Design:
    """Return a student after one epoch, exported and quantized with the data it learned from."""
    torch.manual_seed(0)
    network, (images, labels) = build(spec, PROBLEM), digits()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rows = torch.randperm(len(labels))
    x, y = torch.from_numpy(images)[rows], torch.from_numpy(labels)[rows]
    for batch, wanted in zip(x.split(64), y.split(64), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch), wanted).backward()
        optimizer.step()
    sample = {"image": images[rows[:512].numpy()]}
    model = export(network.eval(), sample, folder / f"{spec.label}.onnx", RECIPE.export)
    made = quantize(model, sample, folder / spec.label, RECIPE.quantize)
    files = {"fp32": model} | {m.scheme: m.model for m in made if m.model is not None}
    return Design(spec, parameter_count(network), files)


def calls(kept: Kept, near: list[StudentOffer], limit: float) -> dict[str, tuple[Status, float]]:
    """Return what the trained students are called, and their p95 in ms.

    The file is the one that was judged before, now with trained weights, measured in full.
    """
    folder = kept.work / "trained"
    folder.mkdir(exist_ok=True)
    profile = profile_with(limit)
    usual = services(PROBLEM, profile, RECIPE, tick)
    files: dict[str, OnnxModel] = {}
    for one in near:
        label = one.spec.label
        made = kept.once(f"train-{label}", Design, partial(trained, one.spec, folder))
        files[f"{label}/{one.scheme}"] = made.files[one.scheme]
    told: dict[str, tuple[Status, float]] = {}
    for start in range(0, len(files), AT_ONCE):
        group = dict(list(files.items())[start : start + AT_ONCE])
        found = kept.once(
            f"measure-{start}", dict[str, Measurement], partial(usual.measure, group, True)
        )
        for name, model in group.items():
            verdict = judge(profile, Evidence(model, found[name]))
            told[name.partition("/")[0]] = (verdict.status, found[name].latency_ms.p95)
    return told


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--work", type=Path, default=Path("students-benchmark"))
    given.add_argument("--one", action="store_true")
    asked = given.parse_args()
    torch.set_num_threads(1)
    kept = Kept(asked.work.absolute(), asked.one)
    limit, offers = judged(kept, untrained(kept))
    near = sorted(offers, key=lambda o: abs(log(p95(o) / limit)))[:NEAREST]
    after = calls(kept, near, limit)
    report(kept, limit, offers, near, after)


def p95(offer: StudentOffer) -> float:
    return offer.latency_ms.p95 if offer.latency_ms else 1e9


def report(
    kept: Kept,
    limit: float,
    offers: tuple[StudentOffer, ...],
    near: list[StudentOffer],
    after: Mapping[str, tuple[Status, float]],
) -> None:
    took = {name: kept.seconds(name) for name in ("export", "screen", "judge")}
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())
    print(f"{describe_host().fingerprint}\n")
    print(f"limit of latency_ms.p95: {limit:g} ms; {sum(o.fits for o in offers)} of {len(offers)}")
    print(f"students fit; judged in {sum(took.values()):.0f} s ({steps})\n")
    print(
        "| student | file | p95 ms before | call before | p95 ms after | call after |\n"
        "|---|---|--:|---|--:|---|"
    )
    for one in sorted(near, key=p95):
        status, ms = after[one.spec.label]
        before = f"{p95(one):.4f} | {one.verdict.status}"
        print(f"| {one.spec.label} | {one.scheme} | {before} | {ms:.4f} | {status} |")
    pairs = [(one.verdict.status, after[one.spec.label][0]) for one in near]
    same = sum(before == now for before, now in pairs)
    opposed = sum({before, now} == {"pass", "fail"} for before, now in pairs)
    print(f"\n{same} of {len(near)} calls are the same, {opposed} opposed")
    document = {
        "host": describe_host().fingerprint,
        "limit_ms": limit,
        "seconds": took,
        "same": same,
        "opposed": opposed,
        "students": [
            {
                **asdict(one.spec),
                "p95_ms": p95(one),
                "scheme": one.scheme,
                "before": one.verdict.status,
                "after": after.get(one.spec.label, (None, None))[0],
                "p95_ms_after": after.get(one.spec.label, (None, None))[1],
            }
            for one in offers
        ],
    }
    (HERE / "results.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
