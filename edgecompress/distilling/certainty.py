"""How sure a teacher is against how often it is right, and what its soft targets make of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecompress.recipe import DistillSettings
from edgecompress.tasks.metrics import TeacherQuality, teacher_quality
from edgecompress.tasks.targets import labels_of
from edgecompress.tasks.task import IGNORED, Task
from edgecompress.teachers.adapters import CheckedTeacher, predict_logits
from edgecompress.teachers.calibration import Calibration, calibrate
from edgecompress.teachers.out_of_fold import OutOfFoldTeacher

# Enough to find one number; more would only take time where there are many classes.
MOST_ANSWERS = 10_000


@dataclass(frozen=True)
class Certainty:
    """Hold a teacher's quality on validation, as it is and at the temperature that suits it.

    `answers` names what is right or wrong, where that is no whole sample: labels or tokens; `rows`
    names the samples, where they are not those of validation.
    """

    before: TeacherQuality
    after: TeacherQuality
    calibration: Calibration
    answers: str = ""
    rows: str = "on validation"

    @property
    def flawless(self) -> bool:
        """Return whether every answer is right: then the surer the likelier, without end."""
        return self.before.accuracy == 1

    def temperature(self, wish: Literal["auto", True, False]) -> float:
        """Return what the teacher's logits are divided by; 1 leaves them."""
        if wish is False or self.flawless or (wish == "auto" and not self.calibration.helps):
            return 1.0
        return round(self.calibration.temperature, 3)

    def note(self, wish: Literal["auto", True, False]) -> str:
        """Return the teacher's quality in words, and what was done about it."""
        before, after, found = self.before, self.after, self.calibration
        line = (
            f"the teacher {self.rows}: accuracy{self.answers and f' of {self.answers}'} "
            f"{before.accuracy:.2%}, NLL {before.nll:.4f}, calibration error {before.ece:.4f}"
        )
        temperature = self.temperature(wish)
        if wish is False:
            return line
        if self.flawless:
            return f"{line}; it errs nowhere there, so nothing tells how sure it should be"
        if temperature == 1:
            return f"{line}; no temperature makes its certainty better than noise would"
        return (
            f"{line}; its soft targets are calibrated with temperature {temperature:.3g}: on "
            f"held-out folds NLL {after.nll:.4f}, lower by {found.gain:.4f} "
            f"[{found.low:.4f}, {found.high:.4f}], calibration error {after.ece:.4f}"
        )


def certainty_as_taught(
    task: Task, teacher: CheckedTeacher, outputs: NDArray[Any]
) -> Certainty | None:
    """Return how sure a teacher is on samples that it answers without having seen them.

    Those are validation's, where it says `outputs`. One that answers training samples out of fold
    is judged by these: each part of it saw fewer samples than the whole, errs more often, and is
    what the student hears.
    """
    inner, samples = teacher.inner, task.train.inputs
    if not isinstance(inner, OutOfFoldTeacher) or not inner.knows(samples):
        return certainty_of(task, outputs)
    found = certainty_of(replace(task, validation=task.train), predict_logits(teacher, samples))
    return found and replace(found, rows="on training samples, out of fold")


def certainty_of(task: Task, outputs: NDArray[Any]) -> Certainty | None:
    """Return how sure the teacher is on validation, from its logits there; None without classes."""
    labels = labels_of(task.validation)
    match task.kind:
        case "regression" | "embedding":
            return None
        case "classification":
            return _certainty(outputs, labels, np.arange(len(labels)))
        case "binary":
            return _certainty(_two_sided(outputs), labels, np.arange(len(labels)))
        case "multilabel":
            samples = np.repeat(np.arange(len(labels)), labels.shape[1])
            found = _certainty(_two_sided(outputs), labels.ravel().astype(np.intp), samples)
            return replace(found, answers="labels")
        case "tokens":
            counting = labels != IGNORED
            found = _certainty(
                np.moveaxis(outputs, 1, -1)[counting], labels[counting], np.nonzero(counting)[0]
            )
            return replace(found, answers="tokens")


def _certainty(logits: NDArray[Any], labels: NDArray[Any], samples: NDArray[np.intp]) -> Certainty:
    """Return the certainty of answers (answers, classes), each one given for one of the samples."""
    rows = np.random.default_rng(0).permutation(len(labels))[:MOST_ANSWERS]
    logits, labels, samples = logits[rows], labels[rows], samples[rows]
    found = calibrate(logits, labels, samples)
    return Certainty(
        teacher_quality(logits, labels), teacher_quality(found.held_out, labels), found
    )


def _two_sided(logits: NDArray[Any]) -> NDArray[Any]:
    """Return logits of a yes as those of two classes, no and yes, one row each."""
    flat = logits.reshape(-1)
    return np.stack([np.zeros_like(flat), flat], axis=1)


def calibrated(
    teacher: CheckedTeacher, certainty: Certainty | None, settings: DistillSettings
) -> CheckedTeacher:
    """Return the teacher with its certainty set right, where the settings ask for it."""
    temperature = 1.0 if certainty is None else certainty.temperature(settings.calibrate_teacher)
    return teacher if temperature == 1 else replace(teacher, temperature=temperature)
