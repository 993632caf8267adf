"""How sure a teacher is against how often it is right, and what its soft targets make of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecompress.recipe import DistillSettings
from edgecompress.tasks.metrics import TeacherQuality, teacher_quality
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import CheckedTeacher
from edgecompress.teachers.calibration import Calibration, calibrate

# Enough to find one number; more would only take time where there are many classes.
MOST_SAMPLES = 10_000


@dataclass(frozen=True)
class Certainty:
    """Hold a teacher's quality on validation, as it is and at the temperature that suits it."""

    before: TeacherQuality
    after: TeacherQuality
    calibration: Calibration

    def temperature(self, wish: Literal["auto", True, False]) -> float:
        """Return what the teacher's logits are divided by; 1 leaves them."""
        if wish is False or (wish == "auto" and not self.calibration.helps):
            return 1.0
        return round(self.calibration.temperature, 3)

    def note(self, wish: Literal["auto", True, False]) -> str:
        """Return the teacher's quality in words, and what was done about it."""
        before, after, found = self.before, self.after, self.calibration
        line = (
            f"the teacher on validation: accuracy {before.accuracy:.2%}, NLL {before.nll:.4f}, "
            f"calibration error {before.ece:.4f}"
        )
        temperature = self.temperature(wish)
        if wish is False:
            return line
        if temperature == 1:
            return f"{line}; no temperature makes its certainty better than noise would"
        return (
            f"{line}; its soft targets are calibrated with temperature {temperature:.3g}: on "
            f"held-out folds NLL {after.nll:.4f}, lower by {found.gain:.4f} "
            f"[{found.low:.4f}, {found.high:.4f}], calibration error {after.ece:.4f}"
        )


def certainty_of(task: Task, outputs: NDArray[Any]) -> Certainty:
    """Return how sure the teacher is on validation, from its logits there."""
    labels = np.asarray(task.validation.labels)
    rows = np.random.default_rng(0).permutation(len(labels))[:MOST_SAMPLES]
    logits, labels = outputs[rows], labels[rows]
    found = calibrate(logits, labels)
    return Certainty(
        teacher_quality(logits, labels), teacher_quality(found.held_out, labels), found
    )


def calibrated(
    teacher: CheckedTeacher, certainty: Certainty | None, settings: DistillSettings
) -> CheckedTeacher:
    """Return the teacher with its certainty set right, where the settings ask for it."""
    temperature = 1.0 if certainty is None else certainty.temperature(settings.calibrate_teacher)
    return teacher if temperature == 1 else replace(teacher, temperature=temperature)
