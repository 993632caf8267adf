"""A whole run whose student plain int8 ruins: control makes the candidate, once, and says how."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.quantization.hard_nets import digits, harden_, trained
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.run import RunOptions
from edgecompress.profiles import load_profile
from edgecompress.recipe import QuantizeSettings, Recipe
from edgecompress.records import Candidate, Report
from edgecompress.report.document import report_json
from edgecompress.runtime import session
from edgecompress.tasks.task import Split, Task

LABELS = ["student-fp32", "student-int8-static", "student-int8-controlled"]
ALLOWED = 0.01


def finished(repairs: list[str], out: Path) -> tuple[Report, list[str]]:
    """Return the report of a run, and what it said."""
    torch.set_num_threads(1)
    net = harden_(trained("gated", epochs=5))
    splits = {name: Split({"x": x}, y) for name, (x, y) in digits().items()}
    recipe = Recipe(
        distill=None,
        measure=None,  # what is slower than float would be out
        quantize=QuantizeSettings.model_validate(
            {"schemes": ["static"], "max_drop": ALLOWED, "repairs": repairs}
        ),
    )
    said: list[str] = []
    task = Task("hard digits", **splits, teacher=lambda: net)
    options = RunOptions(say=said.append)
    return compress(recipe, load_profile("cpu-1core"), out, options, task), said


def score(candidate: Candidate) -> float:
    found = candidate.evaluation("validation")
    assert found
    return found.metric.value


@pytest.mark.slow
def test_a_run_controls_what_plain_int8_ruins(tmp_path: Path) -> None:
    report, said = finished([], tmp_path / "out")
    assert [c.label for c in report.candidates] == LABELS
    whole, plain, made = report.candidates
    assert plain.dropped or score(whole) - score(plain) > ALLOWED
    assert score(whole) - score(made) <= ALLOWED
    assert made.control and made.control.keep_float and made.control.evaluations <= 10
    assert made.control.plain_loss > ALLOWED >= made.control.loss
    assert made.parity and made.parity.passed
    assert session(made.model.path)
    (note,) = [line for line in report.notes if line.startswith("student-int8-controlled: ")]
    assert note.startswith("student-int8-controlled: plain static int8 loses 0.")
    assert f"no repair helped; {len(made.control.keep_float)} nodes stay float (" in note
    assert note.endswith(f"{made.control.evaluations} full evaluations")
    assert note in report_json(report)["notes"]
    (told,) = [c["control"] for c in report_json(report)["candidates"] if c["control"]]
    assert told["keep_float"] == list(made.control.keep_float)

    assert "control student's int8: started" in said
    again, second = finished([], tmp_path / "out")
    assert [line for line in second if line.endswith("started")] == []
    assert "control student's int8: reused" in second
    assert again == report


@pytest.mark.slow
def test_what_control_cannot_reach_is_said_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.pipeline.controlled._lost", lambda *_: 1.0)
    report, said = finished([], tmp_path / "out")
    assert [c.label for c in report.candidates] == LABELS[:2]
    assert report.candidates[0].control and report.candidates[0].control.evaluations <= 10
    reason = "student-int8-controlled left out: nothing but float was within"
    assert [line for line in said if reason in line]
    assert [line for line in report.notes if reason in line]
