from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sample_report import ALL, bare, failing, nothing, passing, training, undecided

from edgecompress.errors import UsageError
from edgecompress.records import Candidate, Metric, Quantiles, Report
from edgecompress.report.document import report_json, report_schema, reports_json
from edgecompress.report.html import render_html
from edgecompress.report.markdown import render_markdown
from edgecompress.report.record import load_record, save_record
from edgecompress.report.text import WIDTH, render_text
from edgecompress.report.write import write_report


@pytest.fixture(params=sorted(ALL))
def report(request: pytest.FixtureRequest) -> Report:
    made: Report = ALL[request.param]()
    return made


def valid(document: object) -> None:
    jsonschema.validate(document, report_schema(), jsonschema.Draft202012Validator)
    json.dumps(document, allow_nan=False)


def test_every_report_fits_the_published_schema(report: Report) -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())
    valid(report_json(report))
    valid(reports_json([report, report]))


def test_document_keeps_the_contract() -> None:
    document = json.loads(json.dumps(report_json(passing())))
    assert document["schema_version"] == 1
    assert document["verdict"] == "pass"
    assert document["profile"] == "android-cpu"
    assert document["chosen"] == "student-int8-static"
    assert document["checks"][0] == {
        "budget": "latency_ms.p95",
        "unit": "ms",
        "limit": 50.0,
        "value": 0.45,
        "low": 0.15,
        "high": 1.35,
        "status": "pass",
        "basis": "predicted",
        "reason": "the upper end of the interval, 1.35 ms, fits",
    }
    chosen = next(c for c in document["candidates"] if c["label"] == document["chosen"])
    assert chosen["path"] == "stages/student-int8-static.onnx"
    assert chosen["size_bytes"] == 118_300
    assert chosen["host"]["latency_ms"]["p50"] == 0.10
    assert set(chosen["host"]["latency_ms"]) == {"p50", "p90", "p95", "p99"}
    assert chosen["host"]["peak_memory_bytes"] == 3_000_000
    assert chosen["host"]["cold_start_ms"] == 13.0
    assert len(chosen["host"]["process_p50_ms"]) == chosen["host"]["processes"] == 5
    assert chosen["device"]["peak_memory_bytes"] is None
    assert chosen["device"]["high_factor"] == 3.0
    assert document["teacher"]["metrics"]["accuracy"]["split"] == "test"
    assert document["prunings"][0]["requested_ratio"] == 0.3
    assert document["prunings"][0]["achieved_ratio"] == 0.25
    assert document["prunings"][0]["heads"] == {"requested_ratio": 0.5, "removed": 2, "of": 4}
    assert document["prunings"][0]["achieved_macs_ratio"] == pytest.approx(0.44)
    assert document["test_reads"] == 1


def test_plain_metric_name_holds_the_test_score_only_where_it_was_read() -> None:
    document = json.loads(json.dumps(report_json(passing())))
    by_label = {c["label"]: c["metrics"] for c in document["candidates"]}
    assert by_label["student-int8-static"]["accuracy"]["split"] == "test"
    assert by_label["student-int8-static"]["validation_accuracy"]["split"] == "validation"
    assert by_label["student-float"]["accuracy"]["split"] == "validation"
    assert "validation_accuracy" not in by_label["student-float"]


def test_training_says_whether_distillation_helped() -> None:
    helped, lost = json.loads(json.dumps(report_json(passing())))["trainings"]
    assert helped["distilled_minus_control"]["helped"] is True
    assert helped["distilled_minus_control"]["value"] == pytest.approx(0.02)
    assert helped["distilled_minus_control"]["words"].startswith(
        "distillation helped: +2.00 points of accuracy ["
    )
    assert lost["distilled_minus_control"]["helped"] is False
    assert lost["distilled_minus_control"]["words"].startswith("distillation hurt: -3.00 points")
    same = replace(passing(), trainings=(training(gain=0.0),))
    words = report_json(same)["trainings"][0]["distilled_minus_control"]["words"]  # type: ignore[index]
    assert words.startswith(
        "distillation made no difference that this validation set can show: +0.0"
    )


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
    ],
)
def test_several_reports_take_the_worst_verdict(names: list[str], verdict: str) -> None:
    document = reports_json([ALL[name]() for name in names])
    assert document["verdict"] == verdict
    valid(document)


def test_record_round_trip_keeps_every_sample(report: Report, tmp_path: Path) -> None:
    report = replace(report, folder=Path("/runs/digits"))
    save_record(report, tmp_path / "record.json")
    assert b"/runs/digits" not in (tmp_path / "record.json").read_bytes()
    loaded = load_record(tmp_path / "record.json")
    assert loaded.folder == tmp_path
    assert report_json(loaded) == report_json(report)
    for before, after in zip(report.candidates, loaded.candidates, strict=True):
        assert before.measurement == after.measurement
        assert before.evaluations == after.evaluations
    if loaded.chosen == "student-int8-static":
        assert loaded.candidates[1].model.path == tmp_path / "stages/student-int8-static.onnx"


def test_missing_record_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"holds no record.json; give the folder of a finished run"
    ):
        load_record(tmp_path / "record.json")


@pytest.mark.parametrize("text", ["", "{}", '{"report": {"verdict": 3}}', "[1"])
def test_foreign_record_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not what this version writes") as caught:
        load_record(path)
    assert "\n" not in str(caught.value)


def test_text_puts_the_verdict_first_and_fits_the_terminal(report: Report) -> None:
    text = render_text(report)
    assert text.startswith(f"{report.verdict.status.upper()}: ")
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "\x1b" not in text
    for check in report.verdict.checks:
        assert check.budget in text


def test_text_shows_what_ships_beside_the_teacher() -> None:
    lines = render_text(passing()).splitlines()
    assert lines[0] == "PASS: student-int8-static fits android-cpu"
    assert lines[1].strip() == "every budget is met"
    found = {line.split("  ")[1]: line.split() for line in lines if line.startswith("  ")}
    assert found["student-int8-static"][1:] == [
        "118",
        "kB",
        "0.1",
        "ms",
        "0.11",
        "ms",
        "97.20",
        "%",
    ]
    assert found["teacher"][1:] == ["2.83", "MB", "1.07", "ms", "1.18", "ms", "98.40", "%"]
    assert "  23.9x smaller  10.7x faster  10.7x faster     98.78 % kept" in "\n".join(lines)
    assert lines[-2:] == [
        "Report  /runs/digits/report.html",
        "Model   /runs/digits/bundle/",
    ]


def test_text_gives_the_reason_of_every_budget_that_is_not_met() -> None:
    assert "- latency_ms.p95: p95 is 0.45 ms, the lower bound 0.41 ms" in render_text(failing())
    assert "does not fit cpu-1core" in render_text(failing())
    assert "is not decided" in render_text(undecided())
    text = render_text(nothing(), files=False)
    assert text.startswith("INCONCLUSIVE: no model is left to judge on cpu-1core")
    assert "- model.onnx: outputs differ from the torch model's" in text
    assert "report.html" not in text


def test_markdown_tells_the_whole_story() -> None:
    text = render_markdown(passing())
    assert text.startswith("# PASS: student-int8-static fits android-cpu\n\nevery budget is met\n")
    for told in (
        "| latency_ms.p95 | 50 ms | 0.45 ms | 0.15 to 1.35 | pass | predicted, not measured |",
        "| T | teacher | 2.83 MB |",
        "dropped: accuracy on validation is 0.032 lower",
        "- distill: distillation helped: +2.00 points of accuracy",
        "- redistill: distillation hurt: -3.00 points of accuracy",
        "student (one-sided 95 % bounds, paired over 500 validation samples)",
        "The distilled network goes on, 7,810 parameters.",
        "| 30 % of the channels, 50 % of the heads | 25.0 % of the channels, 2 of 4 heads | "
        "44.0 % | 41.1 % | 560,000 of 1,000,000 | 4,600 of 7,810 |",
        "predicted for android-cpu, not measured on it",
        "peak_memory_mb: measured on this machine, which is not android-cpu.",
        "The test split was read once, at the end; candidates were compared on validation.",
        "On this machine: the clock frequency could not be fixed.",
        "| distill.temperature | 4.0 |",
        "| onnxruntime | 1.31.1 |",
        "- the pruned model was not faster, so the unpruned one ships",
    ):
        assert told in text
    assert "predicted" not in render_markdown(bare())
    assert "The test split was read 3 times" in render_markdown(replace(passing(), test_reads=3))
    assert "The test split was not read." in render_markdown(bare())


class Page(HTMLParser):
    """Collect a page's text, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_stands_alone(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "img", "audio", "video"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:")), value
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_page_stands_alone_and_shows_the_verdict_first(report: Report) -> None:
    text = render_html(report)
    page = Page(text)
    assert_stands_alone(page)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    body = text[text.index("<body>") :]
    assert f'<span class="pill" id="verdict">{report.verdict.status}</span>' in body[:200]
    for check in report.verdict.checks:
        assert check.reason in page.text


def test_page_draws_what_there_is() -> None:
    assert render_html(passing()).count("<svg") == 4  # trade-off, latency, two trainings
    assert render_html(bare()).count("<svg") == 1
    assert render_html(nothing()).count("<svg") == 0


def test_same_report_gives_the_same_bytes(report: Report) -> None:
    assert render_html(report) == render_html(report)
    assert render_markdown(report) == render_markdown(report)


def test_plots_follow_the_theme_of_the_page() -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", render_html(passing()), flags=re.DOTALL))
    assert "var(--chosen)" in drawn and "var(--teacher)" in drawn
    assert not re.search(r": #[0-9a-f]{6}", drawn)


def test_write_report_writes_every_form(tmp_path: Path) -> None:
    write_report(passing(), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["record.json", "report.html", "report.json", "report.md"]
    valid(json.loads((tmp_path / "report.json").read_text()))
    again = tmp_path / "again"
    write_report(load_record(tmp_path / "record.json"), again)
    for name in ("report.json", "report.html"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$x^{2$ \\frac",
    "a|b\nc\r\x1b[31m\x00\x7f",
    "{{ 7 * 7 }}{% raw %}",
    "日本語モデル",
    "x" * 300,
    "",
    "\u202egnp",
)
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=("Cs",))))
SURE = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e-300, 1e300]))
FLOATS = st.one_of(st.none(), SURE)


def odd(base: Report, names: list[str], numbers: list[float | None], sure: list[float]) -> Report:
    """Return the report with every foreign text and figure replaced."""
    check = replace(
        base.verdict.checks[0],
        budget=names[0],
        unit=names[1],
        limit=sure[0],
        value=numbers[0],
        low=numbers[1],
        high=numbers[2],
        reason=names[2],
    )

    def strange(candidate: Candidate, name: str) -> Candidate:
        found = candidate.measurement
        speed = found and replace(
            found,
            latency_ms=Quantiles(*sure[1:5]),
            cold_start_ms=sure[1],
            host=name,
            uncontrolled=(name,),
            processes=tuple(
                replace(p, wall_ms=(sure[1], sure[2], sure[3]), waited_ms=(0.0, sure[4], 0.0))
                for p in found.processes
            ),
        )
        metric = Metric(name, sure[1], sure[2], sure[3], "validation")
        scored = tuple(replace(e, metric=metric) for e in candidate.evaluations[:1])
        return replace(candidate, label=name, evaluations=scored, measurement=speed, dropped=name)

    return replace(
        base,
        profile=names[3],
        task=names[4],
        chosen=names[5],
        candidates=tuple(strange(c, names[5]) for c in base.candidates),
        teacher=base.teacher and strange(base.teacher, names[6]),
        trainings=tuple(replace(t, stage=names[7], reason=names[8]) for t in base.trainings[:1]),
        environment={names[0]: names[1]},
        settings={"odd": names[2], "deep": {"number": sure[0], "path": Path("a"), "unset": None}},
        notes=(names[3],),
        verdict=replace(base.verdict, checks=(check,), reason=names[4]),
    )


@given(
    st.sampled_from(sorted(ALL)),
    st.lists(TEXTS, min_size=9, max_size=9),
    st.lists(FLOATS, min_size=3, max_size=3),
    st.lists(SURE, min_size=5, max_size=5),
)
@example("pass", list(NASTY), [None, None, None], [float("nan")] * 5)
@example("pass", [NASTY[0]] * 9, [1.0, 0.5, 2.0], [1.0, 0.5, 0.6, 0.7, 0.0])
@example("pass", [NASTY[2]] * 9, [-1.0, -2.0, 2.0], [1.0, 0.5, 0.6, 0.7, 0.0])
@example("pass", list(NASTY), [float("inf")] * 3, [float("inf")] * 5)
@settings(
    max_examples=25,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a page is too slow to shrink on
    suppress_health_check=[HealthCheck.too_slow],
)
def test_odd_values_break_no_form(
    name: str, names: list[str], numbers: list[float | None], sure: list[float]
) -> None:
    report = odd(ALL[name](), names, numbers, sure)
    valid(report_json(report))
    text = render_text(report)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert text.replace("\n", "").isprintable()
    assert "<script" not in render_markdown(report)
    assert_stands_alone(Page(render_html(report)))


@pytest.mark.parametrize("name", [NASTY[0], NASTY[1], "{{ 7 * 7 }}{% raw %}", "$x^2$ & <b>"])
def test_foreign_text_is_shown_as_it_is(name: str) -> None:
    report = replace(passing(), profile=name, notes=(name,))
    assert Page(render_html(report)).text.count(name) >= 3


def test_report_needs_no_torch() -> None:
    code = (
        "import sys, edgecompress.report.write, edgecompress.report.text;"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    light = (
        "import sys, edgecompress.report.text, edgecompress.report.document,"
        "edgecompress.report.record; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


def test_the_download_stands_beside_the_file_where_it_was_looked_at() -> None:
    report = passing()
    assert "download" not in render_markdown(report)
    found = tuple(replace(c, download_bytes=90_000) for c in report.candidates)
    report = replace(report, candidates=found)
    assert "| 118 kB | 90 kB |" in render_markdown(report)
    document = report_json(report)
    valid(document)
    assert document["candidates"][0]["download_bytes"] == 90_000  # type: ignore[index]
