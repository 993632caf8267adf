"""Refuse a teacher that has nothing to teach, in tasks that are not single-label classification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from edgecompress.errors import TeacherError
from edgecompress.tasks.scores import COSINE, R2
from edgecompress.tasks.task import IGNORED, Task

FAR = 100.0


def check_skill(task: Task, outputs: NDArray[Any], labels: NDArray[Any]) -> None:
    """Check what a teacher answers on validation; raise TeacherError.

    Logits of labels must rank true above false, numbers must beat the labels' own mean, vectors
    must point the labels' way, and tokens be right more often than the commonest class is.
    """
    match task.kind:
        case "binary" | "multilabel":
            _check_ranking(task, outputs, labels.reshape(len(labels), -1) > 0)
        case "regression":
            score = float(R2.per_sample(outputs, labels).mean())
            if score <= 0:
                raise _nothing(task, f"its R2 is {score:.3g} where the labels' mean gives 0")
        case "embedding":
            score = float(COSINE.per_sample(outputs, labels).mean())
            if score <= 0:
                raise _nothing(task, f"its mean cosine with the labels is {score:.3g}")
        case "tokens":
            count = labels != IGNORED
            right = float((outputs.argmax(axis=1) == labels)[count].mean())
            most = float(np.bincount(labels[count].astype(np.intp)).max() / count.sum())
            if right < most:
                raise _nothing(task, f"{right:.1%} of its tokens are right where always giving the "
                                     f"commonest class gives {most:.1%}")  # fmt: skip


def out_of_reach(task: Task, outputs: NDArray[Any]) -> str:
    """Return a warning where an untrained student's numbers are far from its labels, else nothing.

    `outputs` are its answers to a few samples. Far is what some thousand steps of an optimizer,
    which moves an answer by hundredths, do not cover.
    """
    if task.kind != "regression":
        return ""
    labels = np.asarray(task.train.labels, dtype=np.float64)
    mean, std, start = float(labels.mean()), float(labels.std()), float(outputs.mean())
    if max(abs(mean - start), std) < FAR or float(outputs.std()) > std / 100:
        return ""
    return (
        f"task {task.name!r}: the labels lie at {mean:.4g} +- {std:.3g}, and the untrained student "
        f"answers {start:.3g}, too far away to be trained there; end it with "
        "edgecompress.students.units.InUnits(mean, std), or give labels of mean 0 and spread 1"
    )


def _check_ranking(task: Task, logits: NDArray[Any], true: NDArray[np.bool_]) -> None:
    if ((logits >= 0) & (logits <= 1)).all():
        raise TeacherError(
            f"task {task.name!r}, teacher: its outputs are probabilities (all lie in 0..1); "
            "expected logits, of which 0 is even odds: take its sigmoid off"
        )
    positives, negatives = true.sum(axis=0), (~true).sum(axis=0)
    asked = (positives > 0) & (negatives > 0)
    if not asked.any():
        return
    yes, no = positives[asked], negatives[asked]
    ranks = (rankdata(logits[:, asked], axis=0) * true[:, asked]).sum(axis=0)
    area = float(((ranks - yes * (yes + 1) / 2) / (yes * no)).mean())
    # under guessing, the variance of one label's area (Mann & Whitney 1947)
    error = float(np.sqrt(((yes + no + 1) / (12 * yes * no)).sum()) / asked.sum())
    if area < 0.5 + 2 * error:
        turned = "; the signs look turned round" if area < 0.5 - 2 * error else ""
        raise _nothing(
            task, f"its area under the ROC curve is {area:.3f} where guessing gives 0.5{turned}"
        )


def _nothing(task: Task, figure: str) -> TeacherError:
    return TeacherError(
        f"task {task.name!r}, teacher: on validation {figure}; it has nothing to teach: train it, "
        "or check that its inputs are prepared as it expects and its outputs in the labels' unit"
    )
