from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from sample_report import ALL, passing, training

from edgecompress.errors import UsageError
from edgecompress.records import Report
from edgecompress.report.document import report_json, report_schema, reports_json
from edgecompress.report.record import load_record, save_record


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
        "Distillation helped: +2.00 points"
    )
    assert lost["distilled_minus_control"]["helped"] is False
    assert lost["distilled_minus_control"]["words"].startswith("Distillation lost: -3.00 points")
    same = replace(passing(), trainings=(training(gain=0.0),))
    words = report_json(same)["trainings"][0]["distilled_minus_control"]["words"]  # type: ignore[index]
    assert words.startswith("Distillation made no difference that these samples can show: +0.00")


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
