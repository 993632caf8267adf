"""Walk through the example step by step, from Python: `python examples/forest_to_mlp/walk.py`."""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from forest_to_mlp import HIDDEN, forest, student, task
from numpy.typing import NDArray
from sklearn.model_selection import cross_val_score
from torch import nn

from edgecompress import DistilledClassifier, Task, export, measure
from edgecompress.distilling.arms import TrainedArm, train_arm
from edgecompress.distilling.certainty import calibrated, certainty_as_taught, certainty_of
from edgecompress.distilling.choice import CONTROL, DISTILLED, compared
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import forward
from edgecompress.recipe import DistillSettings, MeasureSettings, load_recipe
from edgecompress.records import EpochPoint, Mode
from edgecompress.tasks.inspection import (
    agreement,
    calibration_error,
    negative_log_likelihood,
)
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits

HERE = Path(__file__).parent
IN_SAMPLE, RAW = "in-sample", "raw"
ARMS = {
    DISTILLED: "distilled, out of fold, calibrated",
    RAW: "distilled, out of fold, as it is",
    IN_SAMPLE: "distilled, in sample, calibrated",
    CONTROL: "hard labels alone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="a forest teaches a small network, step by step")
    parser.add_argument("--seeds", type=int, default=5, help="students trained in each way")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    seeds, epochs = vars(parser.parse_args()).values()
    digits, settings = task(), load_recipe(HERE / "recipe.toml").distill
    assert settings is not None
    settings = settings.model_copy(update={"epochs": epochs or settings.epochs})

    teachers = taught(digits, settings)
    print("What the forest says of the rows that it teaches\n")
    for name, asked in teachers.items():
        said = predict_logits(asked, digits.train.inputs)
        print(f"  {ARMS[name]:34}  {quality(digits, 'train', said)}")

    arms = [
        trained(name, seed, digits, settings, teachers) for seed in range(seeds) for name in ARMS
    ]
    print("\nOn the test rows: means, and deviations over the seeds\n")
    report(digits, arms, predict_logits(teachers[RAW], digits.test.inputs))

    print("\nOn one core of this machine, one row at a time\n")
    costs(digits, next(arm for arm in arms if arm.name == DISTILLED).module)
    wrapped(settings)


def taught(digits: Task, settings: DistillSettings) -> dict[str, CheckedTeacher]:
    """Return the teacher as the product asks it, as it is, and as it is mostly asked."""
    by_heart = forest().fit(digits.train.inputs["pixels"], digits.train.labels)
    raw, knowing = (as_teacher(t, digits.class_names) for t in (digits.teacher(), by_heart))
    said = predict_logits(raw, digits.validation.inputs)
    certainty, known = certainty_as_taught(digits, raw, said), certainty_of(digits, said)
    return {
        DISTILLED: calibrated(raw, certainty, settings),
        RAW: raw,
        IN_SAMPLE: calibrated(knowing, known, settings),
    }


def trained(
    name: str,
    seed: int,
    digits: Task,
    settings: DistillSettings,
    teachers: dict[str, CheckedTeacher],
) -> TrainedArm:
    """Train one arm; of the first seed, every epoch is shown."""
    asked = teachers.get(name, teachers[DISTILLED])
    bench = Bench(seed=seed, mode=Mode(threads=1))
    if seed == 0:
        print(f"\n{ARMS[name]}, seed 0, on validation\n\n  epoch    loss  accuracy  agreement")
        bench = replace(bench, watch=watching(digits, asked))
    kind = CONTROL if name == CONTROL else DISTILLED
    return replace(train_arm(kind, student, digits, settings, bench, asked), name=name)


def watching(digits: Task, asked: CheckedTeacher) -> Callable[[EpochPoint, nn.Module], None]:
    """Return what prints a line an epoch: accuracy, and agreement with the teacher."""
    said = predict_logits(asked, digits.validation.inputs)

    def watch(point: EpochPoint, module: nn.Module) -> None:
        ours = forward(module, digits.validation.inputs)
        share = agreement(digits.kind, ours, said, digits.validation.labels)
        print(f"  {point.epoch:5d}  {point.loss:6.3f}  {point.validation:7.2%}  {share:8.2%}")

    return watch


def quality(digits: Task, split: str, logits: NDArray[np.float32]) -> str:
    """Return how good answers are, hard and soft, in words."""
    labels = getattr(digits, split).labels
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
    return (
        f"accuracy {(logits.argmax(axis=1) == labels).mean():.2%}, "
        f"NLL {negative_log_likelihood(digits.kind, logits, labels):.3f}, "
        f"calibration error {calibration_error(digits.kind, logits, labels):.3f}, "
        f"mean certainty {sure.mean():.3f}"
    )


def report(digits: Task, arms: list[TrainedArm], said: NDArray[np.float32]) -> None:
    """Print a line a way of training: means over its seeds."""
    labels, kind = digits.test.labels, digits.kind
    print(f"  {'the forest':34}  {quality(digits, 'test', said)}")
    for name, words in ARMS.items():
        answers = [forward(arm.module, digits.test.inputs) for arm in arms if arm.name == name]
        rows = np.array(
            [
                (
                    (ours.argmax(axis=1) == labels).mean(),
                    negative_log_likelihood(kind, ours, labels),
                    calibration_error(kind, ours, labels),
                    agreement(kind, ours, said, labels),
                )
                for ours in answers
            ]
        )
        (accuracy, nll, error, share), spread = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        print(
            f"  {words:34}  accuracy {accuracy:.2%} ({spread[0]:.2%}), NLL {nll:.3f} "
            f"({spread[1]:.3f}), calibration error {error:.3f}, agreement {share:.2%}"
        )
    comparison = compared([arm for arm in arms if arm.name in (DISTILLED, CONTROL)])
    print(f"\n  On validation: {comparison.words if comparison else 'nothing to compare'}")


def costs(digits: Task, module: nn.Module) -> None:
    """Print what forest and student cost."""
    row = digits.test.take(slice(0, 1)).inputs
    trees = forest().fit(digits.train.inputs["pixels"], digits.train.labels)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        trees.predict_proba(row["pixels"])
        times.append(1000 * (time.perf_counter() - started))
    print(
        f"  the forest in scikit-learn   {np.median(times):8.4f} ms   "
        f"{len(pickle.dumps(trees)):9,} bytes pickled"
    )
    with tempfile.TemporaryDirectory() as folder:
        model = export(module, row, Path(folder) / "student.onnx")
        settings = MeasureSettings(seconds_per_process=0.2)
        cost = measure({"student": model}, {"student": row}, settings, processes=5)["student"]
    print(
        f"  the student in ONNX Runtime  {cost.latency_ms.p50:8.4f} ms   {model.size_bytes:9,} "
        f"bytes, {cost.peak_memory_bytes / 1e6:.1f} MB of memory at its peak"
    )


def wrapped(settings: DistillSettings) -> None:
    """Print how the same student does as a scikit-learn estimator."""
    digits = task()
    rows = np.concatenate([s.inputs["pixels"] for s in (digits.train, digits.validation)])
    labels = np.concatenate([s.labels for s in (digits.train, digits.validation)])
    ours = DistilledClassifier(
        forest(), hidden=(HIDDEN,), temperature=4.0, kd_weight=0.7, epochs=settings.epochs,
        random_state=0,
    )  # fmt: skip
    print("\nAs scikit-learn estimators, five-fold cross_val_score on train and validation\n")
    for words, estimator in (("the forest", forest()), ("DistilledClassifier", ours)):
        scores = cross_val_score(estimator, rows, labels, cv=5)
        print(f"  {words:19}  {scores.mean():.2%} ({scores.std(ddof=1):.2%})")


if __name__ == "__main__":
    main()
