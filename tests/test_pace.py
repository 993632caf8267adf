"""The machine's usual pace: timed beside each model, remembered, and taken out of a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence import MODEL, measured
from hypothesis import given
from hypothesis import strategies as st
from sample_report import bare

from edgecompress.bounds import conclude
from edgecompress.cli.costs import conditions
from edgecompress.cli.diagnosis import diagnose
from edgecompress.errors import ResourceError
from edgecompress.measuring import child, host, latency
from edgecompress.measuring.pace import (
    KNOWN,
    OCCASION_S,
    RECENT,
    remember_pace,
    usual_of,
    usual_pace,
)
from edgecompress.measuring.readings import FARTHEST, usual_latency
from edgecompress.profiles import Budget, Device, Profile
from edgecompress.recipe import MeasureSettings
from edgecompress.records import BudgetCheck, Candidate, Measurement, OnnxModel, UsualPace
from edgecompress.report.text import render_text
from edgecompress.runtime import onnx_model
from edgecompress.store import user_cache
from edgecompress.verdict import Evidence, judge

USUAL = UsualPace(0.25, 2 * KNOWN)


# Remembering


def test_an_occasion_counts_once_however_often_the_machine_was_seen(tmp_path: Path) -> None:
    for second in range(10):
        remember_pace("here", [9.0], tmp_path, float(second))
    for number in range(1, KNOWN):
        assert usual_pace("here", tmp_path) is None
        remember_pace("here", [0.25, 0.25, 9.0], tmp_path, number * OCCASION_S)
    assert usual_pace("here", tmp_path) == UsualPace(0.25, KNOWN)
    assert usual_pace("another machine", tmp_path) is None


def test_a_machine_that_changed_for_good_is_known_anew() -> None:
    before = [(i * OCCASION_S, 0.5) for i in range(RECENT)]
    after = [((RECENT + i) * OCCASION_S, 0.25) for i in range(RECENT // 2 + 1)]
    assert usual_of(before) == UsualPace(0.5, RECENT)
    assert usual_of(before + after) == UsualPace(0.25, RECENT)


def test_a_clock_that_was_ahead_and_set_back_hides_nothing() -> None:
    ahead = [((9000 + i) * OCCASION_S, 0.5) for i in range(RECENT)]
    since = [(i * OCCASION_S, 0.25) for i in range(RECENT // 2 + 1)]
    assert usual_of(ahead + since) == UsualPace(0.25, RECENT)


def test_nothing_seen_is_no_pace() -> None:
    assert usual_of([]) is None


def often(folder: Path, reference_ms: float) -> None:
    """Let the machine be seen as often as it takes to know it."""
    for number in range(KNOWN):
        remember_pace("here", [reference_ms], folder, number * OCCASION_S)


@pytest.mark.parametrize(
    "kept", [b"", b"{", b'[[1, "x"]]', b"[[0, 0]]", b"[[NaN, 1]]", b"[[1, Infinity]]"]
)
def test_a_spoilt_memory_starts_anew(tmp_path: Path, kept: bytes) -> None:
    often(tmp_path, 0.5)
    (file,) = tmp_path.iterdir()
    file.write_bytes(kept)
    assert usual_pace("here", tmp_path) is None
    often(tmp_path, 0.25)
    assert usual_pace("here", tmp_path) == UsualPace(0.25, KNOWN)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    remember_pace("here", [0.25], blocked / "pace")
    assert usual_pace("here", blocked / "pace") is None


def test_a_user_without_a_home_measures_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("edgecompress.measuring.pace.user_cache", user_cache)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    remember_pace("here", [0.25])
    assert usual_pace("here") is None
    with pytest.raises(ResourceError, match=r"no home folder .*; name a folder in XDG_CACHE_HOME"):
        user_cache()


def _answers(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Let processes answer without running any."""
    answer: dict[str, Any] = {
        "wall_ms": [1.0] * 10,
        "waited_ms": [0.0] * 10,
        "reference_ms": [0.25],
        "warmup_calls": 1,
        "cold_start_ms": 1.0,
        "peak_memory_bytes": 1,
        "load_memory_bytes": 1,
        "uncontrolled": [],
    }
    monkeypatch.setattr(latency, "_run_child", lambda *_: answer | changed)


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, True),
        ({"uncontrolled": [child.PEAK_UNRESET]}, True),
        ({"waited_ms": [0.01] * 10}, False),
        ({"uncontrolled": ["not pinned to a core"]}, False),
        ({"reference_ms": []}, False),
    ],
    ids=["quiet", "memory alone", "contended", "uncontrolled", "not timed"],
)
def test_only_a_quiet_machine_is_remembered(
    reference: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], kept: bool
) -> None:
    _answers(monkeypatch, **changed)
    remembered: list[Sequence[float]] = []
    monkeypatch.setattr(latency, "remember_pace", lambda _, ms: remembered.append(list(ms)))
    models = {"model": onnx_model(reference)}
    latency.measure(models, {"model": {}}, MeasureSettings(processes=(3,)))
    assert remembered == ([[0.25] * 3] if kept else [])


@pytest.mark.parametrize(("threads", "timed"), [(1, True), (2, False)])
def test_the_reference_runs_beside_models_of_one_thread(
    reference: Path, monkeypatch: pytest.MonkeyPatch, threads: int, timed: bool
) -> None:
    requests: list[dict[str, Any]] = []
    _answers(monkeypatch)
    answering = latency._run_child

    def ask(model: OnnxModel, request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        return answering(model, request)

    monkeypatch.setattr(latency, "_run_child", ask)
    monkeypatch.setattr(latency, "remember_pace", lambda *_: None)
    models = {"model": onnx_model(reference)}
    latency.measure(models, {"model": {}}, MeasureSettings(processes=(1,)), threads)
    assert ("reference" in requests[0]) is timed


def test_a_measurement_holds_what_was_known_before_it(
    reference: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgecompress.measuring.pace.user_cache", lambda: tmp_path)
    _answers(monkeypatch)
    models = {"model": onnx_model(reference)}

    def measure() -> Measurement:
        return latency.measure(models, {"model": {}}, MeasureSettings(processes=(3,)))["model"]

    for number in range(KNOWN):
        remember_pace(host.describe_host().fingerprint, [0.2], at=number * OCCASION_S)
    for found in (measure(), measure()):
        assert [p.reference_ms for p in found.processes] == [(0.25,)] * 3
        assert found.pace is not None and found.usual is not None
    assert found.usual == UsualPace(0.2, KNOWN + 1)
    assert found.pace == pytest.approx([1.25] * 3)


def test_doctor_says_whether_the_pace_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    usual: list[UsualPace | None] = [None, UsualPace(0.2364, 12)]
    monkeypatch.setattr("edgecompress.cli.diagnosis.usual_pace", lambda _: usual.pop(0))
    controls = {"pinning": True, "counts_waiting": True}
    found = [replace(d, host=replace(d.host, **controls)) for d in (diagnose(), diagnose())]
    found += [
        replace(d, host=replace(d.host, **{c: False})) for c, d in zip(controls, found, strict=True)
    ]
    assert [dict(d.facts)["usual pace"] for d in found] == [
        "not known yet: measure on 5 quiet occasions, some minutes apart",
        "0.2364 ms for the reference network, from 12 quiet occasions",
        *["cannot be known: this system does not pin processes and count their waiting"] * 2,
    ]


# Judging


def paced(milliseconds: float, slower: float, usual: UsualPace | None = USUAL) -> Measurement:
    """Return twenty processes on a machine that runs so many times slower than usual."""
    rng = np.random.default_rng(0)
    calls = [milliseconds * slower * (1 + 0.002 * rng.standard_normal(50)) for _ in range(20)]
    found = measured(calls)
    processes = tuple(replace(p, reference_ms=(0.25 * slower,)) for p in found.processes)
    return replace(found, processes=processes, usual=usual)


def check(measurement: Measurement, **budget: float) -> BudgetCheck:
    limits = budget or {"latency_ms.p50": 10.0}
    profile = Profile(
        name="here",
        device=Device(description="this machine", host=True),
        budget=Budget.model_validate(limits),
    )
    (found,) = judge(profile, Evidence(MODEL, measurement)).checks
    return found


@given(slower=st.floats(1 - 0.9 * FARTHEST, 1 + 0.9 * FARTHEST))
def test_the_machines_pace_changes_no_figure_and_no_answer(slower: float) -> None:
    for milliseconds, status in ((9.6, "pass"), (9.8, "inconclusive"), (10.4, "fail")):
        found = check(paced(milliseconds, slower))
        assert found.status == status
        assert found.value == pytest.approx(milliseconds, rel=2e-3)


@pytest.mark.parametrize(
    ("slower", "words"), [(1.03, "now 3.0% slower"), (0.98, "now 2.0% faster")]
)
def test_the_reason_says_that_the_pace_was_taken_out(slower: float, words: str) -> None:
    assert f"over 20 processes, at the usual pace ({words})" in (check(paced(9.0, slower)).reason)


@pytest.mark.parametrize(
    "measurement",
    [
        paced(9.8, 1.0, usual=None),
        paced(9.8 / 1.1, 1.1),
        replace(paced(9.8, 1.0), processes=measured([np.full(50, 9.8)] * 20).processes),
    ],
    ids=["unknown", "another machine", "not timed"],
)
def test_what_is_not_known_is_not_taken_out(measurement: Measurement) -> None:
    found = check(measurement)
    assert found.status == "inconclusive"
    assert "at the usual pace" not in found.reason
    assert found.value == pytest.approx(9.8, rel=2e-3)


def test_a_machine_far_from_its_usual_pace_is_said() -> None:
    assert "over 20 processes, 10.0% slower than usual" in check(paced(9.0, 1.1)).reason


@pytest.mark.parametrize(("slower", "said"), [(1.03, True), (0.97, True), (1.01, False)])
def test_measure_says_when_the_machine_was_far_from_its_usual_pace(
    slower: float, said: bool
) -> None:
    candidate = Candidate("model", MODEL, "given", None, (), paced(9.0, slower), None)
    words = f"this machine ran 3.0% {'slower' if slower > 1 else 'faster'} than usual meanwhile"
    lines = [f"{words}, as known from {USUAL.occasions} occasions"] if said else []
    assert conditions([candidate]) == lines
    together = replace(candidate, measurement=paced(9.0, slower + 1e-3))
    assert len(conditions([candidate, together])) == len(lines)


@pytest.mark.parametrize(
    ("measurement", "p50"),
    [(paced(9.0, 1.03), 9.0), (paced(9.0, 1.1), 9.9), (paced(9.0, 1.03, usual=None), 9.27)],
    ids=["near", "too far off", "unknown"],
)
def test_the_times_at_the_usual_pace_are_those_that_are_judged(
    measurement: Measurement, p50: float
) -> None:
    assert usual_latency(measurement).p50 == pytest.approx(p50, rel=2e-3)
    assert check(measurement).value == pytest.approx(usual_latency(measurement).p50, rel=2e-3)


def test_the_terminal_says_why_a_figure_is_not_the_tables() -> None:
    found = check(paced(9.0, 1.03))
    candidate = Candidate("model", MODEL, "given", None, (), paced(9.0, 1.03), None)
    report = replace(bare(), candidates=(candidate,), chosen="model")
    told = render_text(replace(report, verdict=conclude([found])))
    line = "latency_ms.p50: judged at this machine's usual pace; it ran 3.0% slower meanwhile"
    assert line in told
    assert line not in render_text(replace(report, verdict=conclude([])))


def test_a_cold_start_is_judged_as_it_was() -> None:
    found = check(paced(9.0, 1.03), cold_start_ms=55.0)
    assert found.value == pytest.approx(50.0)
    assert "usual pace" not in found.reason
