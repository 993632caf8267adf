"""How pruning came to its target, as the report tells it."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import pytest
from sample_report import evaluation, passing, pruning

from edgecompress.records import PruningSearch, PruningTrial, Report
from edgecompress.report.document import report_json, report_schema
from edgecompress.report.html import render_html
from edgecompress.report.markdown import render_markdown
from edgecompress.report.plots import draw_search
from edgecompress.report.searches import search_table, searches, stops
from edgecompress.report.text import render_text

REASON = "pruning: asked for 0.5 of the unpruned latency_ms.p50, got 0.48 in 2 exported trials"
TRIALS = (
    PruningTrial(2.1, 0.2, 0.41, evaluation(0.88, "validation").metric),
    PruningTrial(1.8, 0.3, 0.48, evaluation(0.93, "validation").metric),
)
SEARCH = PruningSearch(
    "latency_ms.p50", 0.5, 1.0, 0.48, reached=True, gained=True, trials=TRIALS, reason=REASON,
    score=evaluation(0.97, "validation").metric,
)  # fmt: skip


def reported(search: PruningSearch) -> Report:
    return replace(passing(), prunings=(replace(pruning(), search=search),))


def test_the_table_goes_down_from_the_unpruned_network() -> None:
    report = reported(SEARCH)
    table = search_table(report, SEARCH)
    assert table.header[1] == "share of latency_ms.p50"
    assert [row[:2] for row in table.rows] == [
        ("unpruned", "1"), ("trial 2", "0.48"), ("trial 1", "0.41"), ("taught again", "0.48"),
    ]  # fmt: skip
    assert [row[3] for row in table.rows] == [
        "", "after a short lesson, goes on", "after a short lesson", "",
    ]  # fmt: skip


@pytest.mark.parametrize("render", [render_text, render_markdown, render_html])
def test_every_form_of_the_report_shows_the_way(render) -> None:
    shown = render(reported(SEARCH))
    assert "share of latency_ms.p50" in shown
    assert "trial 2" in shown
    assert "got 0.48 in" in shown
    assert "The way to the target" in shown or render is render_text
    assert "share of latency_ms.p50" not in render(passing())


def test_the_document_holds_the_scores_as_the_schema_says() -> None:
    document = report_json(reported(SEARCH))
    jsonschema.validate(document, report_schema())
    (one,) = document["prunings"]
    assert one["search"]["score"]["value"] == SEARCH.score.value
    assert [t["score"]["value"] for t in one["search"]["trials"]] == [
        t.score.value for t in TRIALS
    ]  # fmt: skip
    unscored = replace(SEARCH, score=None, trials=tuple(replace(t, score=None) for t in TRIALS))
    jsonschema.validate(report_json(reported(unscored)), report_schema())


def test_the_curve_joins_what_was_tried_and_marks_what_came_of_it() -> None:
    svg = draw_search(reported(SEARCH), SEARCH)
    assert svg is not None
    for words in ("after a short lesson", "unpruned", "taught again", "target"):
        assert words in svg
    assert svg == draw_search(reported(SEARCH), SEARCH)


def test_without_scores_there_is_a_table_but_no_curve() -> None:
    bare = replace(SEARCH, score=None, trials=tuple(replace(t, score=None) for t in TRIALS))
    report = replace(reported(bare), trainings=())
    assert draw_search(report, bare) is None
    assert {row[2] for row in search_table(report, bare).rows} == {"-"}


def test_a_search_that_gained_nothing_has_no_outcome() -> None:
    lost = replace(SEARCH, gained=False)
    assert not any(stop.kept or stop.taught for stop in stops(reported(lost), lost))
    assert list(searches(reported(replace(SEARCH, trials=())))) == []
