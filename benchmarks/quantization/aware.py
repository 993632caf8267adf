"""Train a MobileNetV3-like student of Fashion-MNIST in 8 bits, beside the best int8 made after.

    python benchmarks/quantization/aware.py OUT --data DATA [--teacher FILE.onnx] [--samples N]

The stages of edgecompress, in the folder OUT, distil the student and then, by `[quantize.aware]`,
distil it on while it rounds. Beside it stand int8 models, per channel, by every calibration and two
sizes of sample: of the same float student, and of it distilled on in float for as many epochs.
DATA is laid out as sets.py says; without --teacher the example's own is trained first. What is
finished is found again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from sets import calibration_of, load_set
from torch import Tensor, nn

from edgecompress import Task, load_profile, quantize
from edgecompress.distilling.beginnings import Student
from edgecompress.pipeline.arms import Course
from edgecompress.pipeline.aware import aware_candidate
from edgecompress.pipeline.candidates import export_network
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import Run, RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher
from edgecompress.quantization import AwareSettings
from edgecompress.recipe import DistillSettings, QuantizeSettings, Recipe, TrainSettings
from edgecompress.records import Candidate, OnnxModel
from edgecompress.runtime import run as outputs_of
from edgecompress.statistics import paired_drop
from edgecompress.tasks.loaders import split_rows
from edgecompress.teachers.weights import load_weights_

SAMPLES = (512, 2048)
TWO_SIDED = 0.025  # on each side
Right = Mapping[str, NDArray[np.float64]]  # 1 where an answer is right, by split


class Squeeze(nn.Module):
    """Scale channels by what the whole image says (arXiv:1709.01507)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(8, width // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *(nn.Conv2d(width, inner, 1), nn.ReLU()),
            *(nn.Conv2d(inner, width, 1), nn.Hardsigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its channels scaled."""
        return x * self.gate(x)


class Bottleneck(nn.Module):
    """Widen, filter each channel, squeeze, narrow; added to the input where sizes agree."""

    def __init__(self, size: tuple[int, int, int], kernel: int, stride: int, late: bool) -> None:
        super().__init__()
        inputs, wide, outputs = size
        bend = nn.Hardswish() if late else nn.ReLU()
        self.branch = nn.Sequential(
            *(conv(inputs, wide, 1), bend),
            *(conv(wide, wide, kernel, stride, groups=wide), bend),
            Squeeze(wide) if late else nn.Identity(),
            conv(wide, outputs, 1),
        )
        self.adds = (inputs, 1) == (outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, h, w) to (batch, outputs, h / stride, w / stride)."""
        return x + self.branch(x) if self.adds else self.branch(x)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return a convolution with its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def student() -> nn.Module:
    """Return the first two thirds of MobileNetV3-Small (arXiv:1905.02244), for small images."""
    rows = (
        ((16, 16, 16), 3, 1, False),
        ((16, 72, 24), 3, 2, False),
        ((24, 88, 24), 3, 1, False),
        ((24, 96, 40), 5, 2, True),
        ((40, 240, 40), 5, 1, True),
        ((40, 120, 48), 5, 1, True),
    )
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(288, 128), nn.Hardswish())
    blocks = (Bottleneck(*row) for row in rows)
    return nn.Sequential(
        *(conv(1, 16, 3, 2), nn.Hardswish(), *blocks, conv(48, 288, 1), nn.Hardswish()),
        *(*head, nn.Linear(128, 10)),
    )


@dataclass(frozen=True)
class File:
    """Hold one model and where it is right."""

    label: str
    model: OnnxModel
    right: Right


def main() -> None:
    """Run, make the others, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--samples", type=int, help="training images; all by default")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--aware-epochs", type=int, default=6)
    asked = parser.parse_args()
    task = task_of(asked)
    candidates = trained(asked, task)
    whole, longer, aware = files = [scored(task, c.label, c.model) for c in candidates]
    after = [scored(task, *made) for f in (whole, longer) for made in others(f, task, asked.out)]
    print(table(whole, [*files, *after]))
    for origin in (whole, longer):
        print(against(aware, [file for file in after if file.label.startswith(f"{origin.label} ")]))
    parity = candidates[-1].parity
    assert parity is not None
    print(f"{parity.agreement:.2%} of {parity.samples} as {parity.reference} has them")


def trained(asked: argparse.Namespace, task: Task) -> tuple[Candidate, Candidate, Candidate]:
    """Return the distilled student, the same trained on in float, and trained on in 8 bits."""
    with open_run(recipe_of(asked), asked.out, RunOptions(say=print), task) as run:
        teacher, settings = obtain_teacher(run), run.recipe.distill
        assert settings is not None
        whole = distilled(run, teacher, student, settings, "distill")
        more = AwareSettings(epochs=asked.aware_epochs).model_dump()
        longer = distilled(run, teacher, whole.module, settings.model_copy(update=more), "longer")
        first, second = (export_network(run, n, f"{n.label}-fp32") for n in (whole, longer))
        (int8,) = aware_candidate(run, load_profile("cpu-1core"), teacher, first)
    return first, second, int8


def distilled(
    run: Run, teacher: TeacherInHand, start: Student, settings: DistillSettings, stage: str
) -> Network:
    """Return the student distilled from where it starts."""
    course = Course(run, stage, start, teacher.calibrated(settings))
    weights = course.arm("distilled", settings, run.recipe.seed).weights
    label = "student" if stage == "distill" else stage
    return Network(label, load_weights_(student(), weights.path), weights.sha256)


def task_of(asked: argparse.Namespace) -> Task:
    """Return the task with this file's student, and as many training images as asked for."""
    task = replace(load_set("fashion_mnist", asked.data), student=student)
    if asked.teacher is not None:
        task = replace(task, teacher=lambda: asked.teacher)
    if asked.samples is None or asked.samples >= len(task.train):
        return task
    share = asked.samples / len(task.train)
    kept, _ = split_rows(np.asarray(task.train.labels), (share, 1 - share))
    return replace(task, train=task.train.take(kept))


def recipe_of(asked: argparse.Namespace) -> Recipe:
    """Return the recipe: the same losses, batches and views in both trainings of the student."""
    teacher = TrainSettings(
        epochs=12, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, clip_norm=10.0
    )
    return Recipe(
        teacher=None if asked.teacher else teacher,
        distill=DistillSettings(epochs=asked.epochs, learning_rate=4e-3, views=4),
        quantize=QuantizeSettings(
            schemes=("static",), aware=AwareSettings(epochs=asked.aware_epochs)
        ),
        measure=None,
    )


def others(origin: File, task: Task, out: Path) -> Iterator[tuple[str, OnnxModel]]:
    """Yield int8 models of a float student by every calibration."""
    for calibration in get_args(QuantizeSettings.model_fields["calibration"].annotation):
        for samples in SAMPLES:
            settings = QuantizeSettings(
                schemes=("static",), calibration=calibration, calibration_samples=samples
            )
            sample, label = calibration_of(task, samples).inputs, f"{calibration}-{samples}"
            folder = out / "others" / origin.label / label
            (made,) = quantize(origin.model, sample, folder, settings)
            assert made.model is not None, made.reason
            yield f"{origin.label} {label}", made.model


def scored(task: Task, label: str, model: OnnxModel) -> File:
    """Return the file with what it gets right on validation and test."""
    splits = {"validation": task.validation, "test": task.test}
    right = {
        name: (outputs_of(model, s.inputs).argmax(axis=1) == s.labels).astype(np.float64)
        for name, s in splits.items()
    }
    return File(label, model, right)


def table(whole: File, files: Sequence[File]) -> str:
    """Return the figures of all files in Markdown; drops are of the float student's test score."""
    rows = [
        "| model | bytes | validation | test | points lost on test, 95 % |",
        "|---|--:|--:|--:|--:|",
    ]
    for file in files:
        lost = points(paired_drop(whole.right["test"], file.right["test"], TWO_SIDED))
        scores = " | ".join(f"{file.right[split].mean():.2%}" for split in ("validation", "test"))
        rows.append(f"| {file.label} | {file.model.size_bytes:,} | {scores} | {lost} |")
    return "\n".join(rows)


def against(aware: File, after: Sequence[File]) -> str:
    """Say how the trained int8 stands beside the best that were made after training."""
    lines = []
    for split in ("validation", "test"):
        best = max(after, key=lambda file: float(file.right[split].mean()))
        lost = points(paired_drop(best.right["test"], aware.right["test"], TWO_SIDED))
        lines.append(f"best on {split}: {best.label}; {aware.label} loses {lost} points on test")
    return "\n".join(lines)


def points(drop: tuple[float, float, float]) -> str:
    """Return a drop and its interval in points."""
    value, low, high = (100 * part for part in drop)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    main()
