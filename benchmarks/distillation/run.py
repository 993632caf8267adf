"""Train the arms of the distillation benchmark, each with several seeds, and write what they score.

    python benchmarks/distillation/run.py adult --data DATA --seeds 0 1 2 3 4

DATA is the folder that holds one folder for each set. A finished arm is one line of the results
and is never trained again, so a stopped benchmark goes on where it was. The teacher of a set is
trained once, with the recipe's seed, and kept in the cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecompress import Task, load_recipe
from edgecompress.distilling.arms import settings_of, train_arm
from edgecompress.distilling.beginnings import begun
from edgecompress.distilling.certainty import calibrated, certainty_of
from edgecompress.distilling.checkpoint import save_weights
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import score
from edgecompress.recipe import DistillSettings, Recipe, TrainSettings
from edgecompress.records import Evaluation, Mode, SplitName
from edgecompress.store import digest_of
from edgecompress.tasks.checks import check_task, check_teacher_outputs
from edgecompress.tasks.load import load_task
from edgecompress.tasks.metrics import evaluate
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits
from edgecompress.teachers.weights import load_weights_

TASKS = Path(__file__).parents[1] / "tasks"
THREADS = 1


@dataclass(frozen=True)
class Lesson:
    """Hold one set: its recipe and task, its teacher, and where its soft targets are kept."""

    recipe: Recipe
    settings: DistillSettings
    task: Task
    teacher: CheckedTeacher
    folder: Path


def main() -> None:
    """Train what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("distillation-cache"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["distilled", "control"])
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    asked = parser.parse_args()
    lesson = prepared(asked.set, asked.data, asked.cache, asked.overrides)
    finished = {key(line) for line in lines(asked.results)}
    theirs = teacher_score(lesson, asked.split)
    print(f"{asked.set} teacher {theirs.metric.name} {theirs.metric.value:.4f}", flush=True)
    for seed in asked.seeds:
        for arm in asked.arms:
            about = {"set": asked.set, "seed": seed, "arm": arm, "split": asked.split}
            about["settings"] = digest_of(settings_of(arm, lesson.settings))[:12]
            if key(about) in finished:
                continue
            line = about | trained(lesson, seed, arm, theirs, asked.split)
            with asked.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells one training from another."""
    return tuple(line[name] for name in ("set", "seed", "arm", "split", "settings"))


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the finished trainings of a file of results."""
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def prepared(name: str, data: Path, cache: Path, overrides: list[str]) -> Lesson:
    """Read a set's recipe and task, and obtain its teacher, calibrated as the recipe says."""
    recipe = load_recipe(
        TASKS / f"{name}.toml", [f"data={(data / folder_of(name)).resolve()}", *overrides]
    )
    assert recipe.distill is not None
    task = load_task(recipe.task, Path(), recipe.data)
    for warning in check_task(task):
        print(warning)
    torch.set_num_threads(THREADS)
    teacher = as_teacher(taught(recipe, task, cache / folder_of(name)), task.class_names)
    outputs = predict_logits(teacher, task.validation.inputs)
    check_teacher_outputs(task, outputs)
    certainty = certainty_of(task, outputs) if task.kind == "classification" else None
    teacher = calibrated(teacher, certainty, recipe.distill)
    return Lesson(recipe, recipe.distill, task, teacher, cache / name)


def folder_of(name: str) -> str:
    """Return the folder of a set's data: several recipes may share one."""
    return name.partition("-")[0]


def taught(recipe: Recipe, task: Task, folder: Path) -> object:
    """Return the task's teacher, trained first and kept if the recipe has a [teacher] section."""
    source, weights = task.teacher(), folder / "teacher.safetensors"
    if not isinstance(source, nn.Module):
        return source
    if not weights.exists():
        assert recipe.teacher is not None, "train the teacher of the whole set first"
        started = time.monotonic()
        bench = Bench(recipe.seed, mode_of(recipe.teacher))
        arm = train_arm("teacher", begun(task.teacher, 1), task, recipe.teacher, bench)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(arm.module, weights)
        print(f"teacher: {time.monotonic() - started:.0f} s, validation {arm.evaluation.metric}")
    return load_weights_(source, weights).eval().to(memory_format=torch.channels_last)


def mode_of(settings: TrainSettings) -> Mode:
    """Return how a training computes: alike on every machine, so nothing is timed here."""
    return Mode("bf16" if settings.precision == "bf16" else "fp32", threads=THREADS)


def teacher_score(lesson: Lesson, split: SplitName) -> Evaluation:
    """Return the teacher's score on a split."""
    data = lesson.task.validation if split == "validation" else lesson.task.test
    outputs = predict_logits(lesson.teacher, data.inputs)
    return evaluate(lesson.task.metric, outputs, data.labels, split)


def trained(
    lesson: Lesson, seed: int, arm: str, theirs: Evaluation, split: SplitName
) -> dict[str, Any]:
    """Train one arm and return its score, and the teacher's lead over it, paired by samples."""
    bench = Bench(seed, mode_of(lesson.settings), soft_folder=lesson.folder / "soft_targets")
    started = time.monotonic()
    done = train_arm(arm, lesson.task.student, lesson.task, lesson.settings, bench, lesson.teacher)
    seconds = time.monotonic() - started
    ours = score(done.module, lesson.task, split)
    lead = np.subtract(theirs.scores, ours.scores)
    if not theirs.metric.higher_is_better:
        lead = -lead
    return {
        "metric": ours.metric.name,
        "value": ours.metric.value,
        "teacher": theirs.metric.value,
        "lead": float(lead.mean()),
        "lead_error": float(lead.std(ddof=1) / np.sqrt(len(lead))),
        "validation": done.curve[-1].validation,
        "best_validation": max(point.validation for point in done.curve),
        "parameters": sum(p.numel() for p in done.module.parameters()),
        "seconds": round(seconds, 1),
        "commit": commit(),
    }


def commit() -> str:
    """Return the commit of the checkout."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
