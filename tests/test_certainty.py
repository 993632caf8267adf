"""A run says how sure its teacher is against how often it is right, and calibrates it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import blobs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecompress.distilling.certainty import certainty_of
from edgecompress.pipeline.answer import _teacher_note
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, train_student
from edgecompress.recipe import DistillSettings, Recipe
from edgecompress.tasks.metrics import teacher_quality
from edgecompress.teachers.adapters import predict_logits

SETTINGS = DistillSettings(epochs=1, batch_size=32, precision="fp32")


class Corners(nn.Module):
    """Know the blobs, not without mistakes, and with a certainty of its own."""

    def __init__(self, certainty: float) -> None:
        super().__init__()
        self.certainty = certainty

    def forward(self, image: Tensor) -> Tensor:
        corners = ((0, 0), (0, 5), (5, 0))
        pixels = torch.stack([image[:, 0, t + 1, x + 1] for t, x in corners], dim=1)
        return self.certainty * (pixels + image[:, 0, 3:6, 4])


def task(certainty: float) -> object:
    return replace(blobs.task(), teacher=lambda: Corners(certainty), augment=None)


@pytest.mark.parametrize(("certainty", "wish"), [(30.0, "auto"), (3.0, "auto"), (30.0, False)])
def test_run_calibrates_where_it_helps(certainty: float, wish: object, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"calibrate_teacher": wish})
    recipe = Recipe(task="digits", distill=settings)
    with open_run(recipe, tmp_path, RunOptions(), task(certainty)) as run:
        teacher = obtain_teacher(run)
        calibrated = teacher.calibrated(settings)
        train_student(run, teacher)
        (note,) = _teacher_note(run, teacher)
    before = predict_logits(teacher.teacher, run.task.validation.inputs)
    after = predict_logits(calibrated.teacher, run.task.validation.inputs)
    figures = teacher_quality(before, run.task.validation.labels)
    assert note.startswith(
        f"the teacher on validation: accuracy {figures.accuracy:.2%}, NLL {figures.nll:.4f}, "
        f"calibration error {figures.ece:.4f}"
    )
    if certainty == 30 and wish == "auto":
        temperature = calibrated.teacher.temperature
        assert 5 < temperature < 20
        np.testing.assert_allclose(after, before / temperature, rtol=1e-5)
        assert calibrated.digest != teacher.digest
        assert f"calibrated with temperature {temperature:.3g}: on held-out folds NLL" in note
    else:
        assert calibrated is teacher
        words = "" if wish is False else "; no temperature makes its certainty better than noise"
        assert words in note
        assert "calibrated" not in note


def test_many_samples_are_enough() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 3, 12_000)
    logits = 9 * (np.eye(3)[labels] + draws.normal(0, 0.5, (12_000, 3)))
    big = replace(blobs.task(), validation=replace(blobs.blobs(1, 0), labels=labels))
    found = certainty_of(big, logits)
    assert found.calibration.held_out.shape == (10_000, 3)
    assert found.temperature("auto") == found.temperature(True) == pytest.approx(2.3, abs=0.3)
    assert found.temperature(False) == 1
