"""What a report says of arms, seeds and their teacher, in every form."""

from __future__ import annotations

import re
from dataclasses import replace

import jsonschema
import pytest
from sample_report import evaluation, passing, repeated

from edgecompress.records import Figures
from edgecompress.report.document import report_json, report_schema
from edgecompress.report.html import render_html
from edgecompress.report.markdown import render_markdown
from edgecompress.report.text import render_text


def test_arms_and_seeds_are_laid_out_beside_the_teacher() -> None:
    found = replace(passing(), trainings=(repeated(),))
    document = report_json(found)
    jsonschema.validate(document, report_schema())
    (told,) = document["trainings"]  # type: ignore[misc]
    assert (told["shipped"], told["seed"]) == ("distilled", 2)
    assert told["distilled_minus_control"]["against"] == "pseudo"  # the better of two controls
    assert told["distilled_minus_control"]["by_seed"] == pytest.approx([0.02] * 3)
    assert told["distilled_minus_control"]["better_seeds"] == 3
    assert told["codistilled_minus_control"]["value"] == pytest.approx(0.01)
    assert told["teacher"]["figures"]["agreement"] is None
    assert told["arms"][0]["figures"]["membership_auc"] == 0.557
    text = render_markdown(found)
    for line in (
        "| arm | seeds | accuracy on validation | NLL | calibration error |",
        "| agrees with the teacher | membership AUC |",
        "| distilled (goes on) | 3 | 93.20 % ± 0.20 | 0.2100 | 0.0312 | 0.9600 | 0.5570 |",
        "| teacher |  | 98.00 % | 0.0500 | 0.0312 | - | 0.5570 (0.5410 to 0.5730) |",
        "| distilled (goes on) | 2 | 93.40 % | 0.2200 | 0.0312 | 0.9600 |",
        "| distilled | 1 | 93.20 % | 0.2100 | 0.0312 | 0.9600 |",
        "The teacher came trained: unless that was on the very training split of this task",
        "The distilled network of seed 2 goes on",
        "against the pseudo-label student (seed by seed +2.00 to +2.00, standard deviation 0.00; "
        "better in 3 of 3); codistillation",
    ):
        assert line in text, line
    page = render_html(found)
    assert "Seed by seed" in page
    assert "Arms of distill" in page
    assert len(re.findall(r"<text[^>]*>distilled</text>", page)) == 1  # three curves, one name
    assert render_text(found).count("distill: distillation") == 1  # one line, no table


def test_a_teacher_without_a_mistake_is_no_reason_to_doubt_the_labels() -> None:
    told = repeated()
    assert told.teacher is not None
    perfect = replace(told.teacher, evaluation=evaluation(1.0, "validation"), trained_here=True)
    text = render_markdown(replace(passing(), trainings=(replace(told, teacher=perfect),)))
    assert "The teacher came trained" not in text
    assert "agreement with the teacher, not" not in text  # a run whose labels are its own notes it


def test_tasks_without_classes_have_dashes_for_what_they_lack() -> None:
    told = repeated()
    numbers = tuple(
        replace(arm, figures=Figures(None, None, 0.9, 0.5, 0.4, 0.6)) for arm in told.arms
    )
    found = replace(passing(), trainings=(replace(told, arms=numbers),))
    jsonschema.validate(report_json(found), report_schema())
    text = render_markdown(found)
    assert "| control | 3 | 90.20 % ± 0.20 | - | - | 0.9000 | 0.5000 |" in text
    assert "| control | 0 | 90.00 % | - | - | 0.9000 | 0.5000 (0.4000 to 0.6000) |" in text
