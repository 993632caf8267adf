"""Reports of what was measured on the device itself."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import sample_report

from edgecompress.records import Report
from edgecompress.report.document import report_json, report_schema
from edgecompress.report.html import render_html
from edgecompress.report.markdown import render_markdown
from edgecompress.report.text import render_text

MACHINE = "adb:0A1B: Pixel 5, arm64-v8a, onnxruntime 1.23.0"
BEFORE = "before: core 7 at 2400 of 2400 MHz, 31 °C, battery 80 %"
SLOWED = "the device throttled core 7 from 2400 to 1500 MHz"


def on_device() -> Report:
    """Return a passing report whose models were measured on a phone as well."""
    report = sample_report.passing()
    there = replace(
        sample_report.measurement(0.5),
        host=MACHINE,
        conditions=(BEFORE,),
        uncontrolled=(SLOWED,),
    )
    slower = replace(there, wall_latency_ms=sample_report.quantiles(5.0))
    teacher = replace(report.teacher, device=slower) if report.teacher else None
    candidates = tuple(
        replace(c, device=there) if c.label == report.chosen else c for c in report.candidates
    )
    return replace(report, candidates=candidates, teacher=teacher)


def test_json_tells_the_device_from_a_prediction() -> None:
    report = on_device()
    document = json.loads(json.dumps(report_json(report)))
    jsonschema.validate(document, report_schema())
    devices = {c["label"]: c["device"] for c in document["candidates"]}
    measured = devices.pop(report.chosen)
    assert measured["basis"] == "measured on the device"
    assert measured["machine"] == MACHINE
    assert measured["conditions"] == [BEFORE]
    # Interruptions stay in what is judged there: 1.3 times the median, not 1.1.
    assert measured["latency_ms"]["p95"] == 0.5 * 1.3
    assert measured["uninterrupted_latency_ms"]["p95"] == 0.5 * 1.1
    assert all(device is None or "low_factor" in device for device in devices.values())


def test_text_shows_the_figures_of_the_device() -> None:
    text = render_text(on_device())
    assert "p50 there" in text
    assert "p50 here" not in text
    assert "10x faster" in text
    assert f"- measured on {MACHINE}" in text
    assert f"- {BEFORE}" in text


def test_pages_show_the_device() -> None:
    report = on_device()
    for page in (render_markdown(report), render_html(report)):
        assert "The device" in page
        assert MACHINE in page
        assert "p50 on the device" in page
        assert f"On the device: {SLOWED}." in page
    assert "median latency on the device" in render_html(report)


def test_without_a_device_nothing_is_said_of_one() -> None:
    report = sample_report.passing()
    for page in (render_text(report), render_markdown(report), render_html(report)):
        assert "p50 on the device" not in page
        assert "latency on the device" not in page
        assert "The device" not in page
