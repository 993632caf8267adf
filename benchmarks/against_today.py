"""Set what a run ships beside what people do today with the same teacher, in one measurement.

    python benchmarks/against_today.py RUN_FOLDER

The rows: the teacher in float; ONNX Runtime's own `quantize_dynamic` and `quantize_static` on it,
with their defaults; the student trained on hard labels alone; and what edgecompress ships. All are
scored on the test split and measured interleaved, five fresh pinned processes each. Run it on the
machine and with the data of the run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgecompress.measuring.latency import measure
from edgecompress.recipe import MeasureSettings
from edgecompress.records import OnnxModel, Report
from edgecompress.report.record import RECORD_FILE, load_record
from edgecompress.runtime import onnx_model, run
from edgecompress.tasks.load import load_task
from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.task import Task

CALIBRATION_SAMPLES = 512


class Batches(CalibrationDataReader):
    """Hand ONNX Runtime's calibrator one training sample at a time."""

    def __init__(self, task: Task) -> None:
        """Take evenly spaced training samples."""
        rows = np.linspace(0, len(task.train) - 1, CALIBRATION_SAMPLES).astype(int)
        inputs = task.train.take(rows).inputs
        self.feeds = iter([{k: v[i : i + 1] for k, v in inputs.items()} for i in range(len(rows))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, or None."""
        return next(self.feeds, None)


def main() -> None:
    """Print the table of one run."""
    report = load_record(Path(sys.argv[1]).absolute() / RECORD_FILE)
    settings = report.settings
    data = settings["data"]
    task = load_task(str(settings["task"]), Path(), Path(str(data)) if data else None)
    with tempfile.TemporaryDirectory() as folder:
        models = rows_of(report, task, Path(folder))
        one = task.validation.take(slice(0, 1)).inputs
        costs = measure(models, dict.fromkeys(models, one), MeasureSettings(), processes=5)
        print("| model | bytes | p50 ms | p95 ms | test accuracy | 95 % interval |")
        print("|---|--:|--:|--:|--:|--:|")
        for name, model in models.items():
            labels = np.asarray(task.test.labels)
            score = evaluate(task.metric, run(model, task.test.inputs), labels, "test").metric
            ms = costs[name].latency_ms
            print(
                f"| {name} | {model.size_bytes:,} | {ms.p50:.3f} | {ms.p95:.3f} "
                f"| {score.value:.2%} | {score.low:.2%} to {score.high:.2%} |"
            )


def rows_of(report: Report, task: Task, folder: Path) -> dict[str, OnnxModel]:
    """Return the models to compare, by the name of their row."""
    if report.teacher is None or report.best is None or report.control is None:
        sys.exit("the run has no ONNX teacher, no control or no chosen model to compare")
    teacher = report.teacher.model.path
    prepared, dynamic, static = (folder / f"{n}.onnx" for n in ("prepared", "dynamic", "static"))
    quant_pre_process(str(teacher), str(prepared))
    quantize_dynamic(prepared, dynamic)
    quantize_static(prepared, static, Batches(task))
    return {
        "teacher, float": report.teacher.model,
        "teacher, ONNX Runtime quantize_dynamic": onnx_model(dynamic),
        "teacher, ONNX Runtime quantize_static": onnx_model(static),
        "student, hard labels only, float": report.control.model,
        f"**edgecompress ships: {report.best.label}**": report.best.model,
    }


if __name__ == "__main__":
    main()
