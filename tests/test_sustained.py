"""One model for a long time: every call recorded, a slow-down flagged and explained."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import document, result
from tiny_models import save_mlp

from edgecompress.cli import lasting
from edgecompress.cli.main import main
from edgecompress.errors import ChildFailedError, ModelError
from edgecompress.measuring import child, latency, lock
from edgecompress.measuring.sustained import (
    Reading,
    Sustained,
    not_read,
    slowdown,
    sustain,
    windows,
)
from edgecompress.runtime import onnx_model


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "COMMON", tmp_path)


def made_up(
    factors: Sequence[float],
    waited: Sequence[float] = (),
    clock: Sequence[float | None] = (),
    heat: Sequence[float | None] = (),
    seed: int = 0,
) -> Sustained:
    """Return a run of 100 calls a second, of about 1 ms times the factor of that second."""
    rng = np.random.default_rng(seed)
    seconds = len(factors)
    running = np.repeat(factors, 100) * (1 + rng.gamma(2, 0.01, 100 * seconds))
    waiting = np.repeat(waited or [0.0] * seconds, 100)
    clocks, heats = (list(given) or [None] * seconds for given in (clock, heat))
    readings = [Reading(0.0, 0, clocks[0], heats[0])]
    readings += [
        Reading(i + 1.0, 100 * (i + 1), c, t)
        for i, (c, t) in enumerate(zip(clocks, heats, strict=True))
    ]
    return Sustained(running, waiting, tuple(readings), 1, "here", (), ())


STEADY = [1.0] * 60
THROTTLED = [1.0] * 25 + [1.3] * 35


# Windows and the trend


def test_windows_cover_every_call_once() -> None:
    run = made_up(THROTTLED, heat=list(range(40, 100)))
    for count in (1, 7, 10, 60, 1000):
        parts = windows(run, count)
        assert sum(part.calls for part in parts) == len(run.running_ms)
        assert parts[0].start_s == 0
        assert parts[-1].end_s == run.seconds
        assert all(a.end_s == b.start_s for a, b in pairwise(parts))
    first, last = windows(run, 2)
    assert first.p50_ms < last.p50_ms <= last.p95_ms
    assert (first.temperature_c, last.temperature_c) == (54.5, 84.5)
    assert first.clock_mhz is None


def test_a_steady_run_is_steady() -> None:
    found = [slowdown(made_up(STEADY, seed=seed)) for seed in range(20)]
    assert {f.trend for f in found} == {"steady"}
    assert found[0].low <= found[0].value <= found[0].high
    assert found[0].reason.endswith(" times the start): no slow-down")


def test_a_slow_down_is_flagged_and_measured() -> None:
    found = slowdown(made_up(THROTTLED))
    assert found.trend == "slower"
    assert found.value == pytest.approx(1.3, rel=0.01)
    assert found.reason.startswith("30.")
    assert found.reason.endswith(": nothing that could be read explains it")


@pytest.mark.parametrize("change", [1.0, 1.02, 0.8])
def test_less_than_5_percent_or_faster_is_no_slow_down(change: float) -> None:
    assert slowdown(made_up([1.0] * 20 + [change] * 40)).trend == "steady"


def test_noise_is_not_taken_for_a_trend() -> None:
    jumping = [1.0 + 0.3 * (i % 7 == 0) + 0.2 * (i % 5 < 2) for i in range(60)]
    assert slowdown(made_up(jumping)).trend != "slower"


def test_too_few_calls_say_so() -> None:
    found = slowdown(made_up([1.0, 1.3]))
    assert (found.trend, found.reason) == (
        "open",
        "too few calls to see a trend; run it for longer",
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"clock": [3000.0] * 25 + [2300.0] * 35}, "the clock fell from 3000 to 2300 MHz"),
        (
            {"heat": [45.0] * 25 + [81.0] * 35},
            "the temperature rose from 45 to 81 degrees Celsius",
        ),
        ({"waited": [0.0] * 25 + [0.65] * 35}, "other work held the core 33% of the time then"),
    ],
)
def test_what_may_explain_it_is_said(changed: dict[str, Any], words: str) -> None:
    assert slowdown(made_up(THROTTLED, **changed)).reason.endswith(f": {words}")


def test_a_quota_explains_it_too() -> None:
    run = replace(made_up(THROTTLED), throttled=("a CPU quota stopped the processes 9 times",))
    assert slowdown(run).reason.endswith(": a CPU quota stopped the processes 9 times")


def test_what_could_not_be_read_is_said() -> None:
    assert not_read(made_up(STEADY)) == (
        "the core's clock could not be read",
        "no temperature could be read",
    )
    fixed = replace(made_up(STEADY, clock=[2600.0] * 60), uncontrolled=("not pinned to a core",))
    assert not_read(fixed) == (
        "the clock that the system shows never moved; it may not be the real one",
        "no temperature could be read",
        "not pinned to a core",
    )
    moving = made_up(STEADY, clock=[2600.0, 2500.0] * 30, heat=[50.0] * 60)
    assert not_read(moving) == ()


# The sensors


def test_sensors_read_the_cores_clock_and_the_hottest_zone(tmp_path: Path) -> None:
    cpu = tmp_path / "sys/devices/system/cpu/cpu2/cpufreq"
    cpu.mkdir(parents=True)
    (cpu / "scaling_cur_freq").write_text("1800000\n")
    for number, text in enumerate(("45500", "71200", "-273000", "900000", "odd")):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    sensors = child.Sensors(2, tmp_path / "sys", tmp_path / "proc")
    assert (sensors.clock_mhz(), sensors.temperature_c()) == (1800.0, 71.2)


def test_a_clock_is_read_from_cpuinfo_where_there_is_no_governor(tmp_path: Path) -> None:
    text = "processor\t: 0\ncpu MHz\t\t: 1000.0\n\nprocessor\t: 1\ncpu MHz\t\t: 2596.094\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert child.Sensors(1, tmp_path / "sys", tmp_path).clock_mhz() == 2596.094
    assert child.Sensors(7, tmp_path / "sys", tmp_path).clock_mhz() is None


def test_sensors_that_are_not_there_say_nothing(tmp_path: Path) -> None:
    sensors = child.Sensors(0, tmp_path, tmp_path)
    assert (sensors.clock_mhz(), sensors.temperature_c()) == (None, None)


# For real


def test_a_run_records_every_call(tmp_path: Path) -> None:
    model = onnx_model(save_mlp(tmp_path / "m.onnx", width=64))
    said: list[str] = []
    run = sustain("m", model, {"x": np.ones((1, 64), np.float32)}, 1.0, progress=said.append)
    assert said == ["running m for 1 s"]
    assert run.seconds >= 1.0
    assert run.readings[-1].calls == len(run.running_ms) == len(run.waited_ms) > 100
    assert len(run.readings) > 20
    assert (run.running_ms > 0).all()
    assert (run.running_ms + run.waited_ms).sum() <= run.seconds * 1e3
    assert "onnxruntime" in run.machine


def test_the_lock_is_held_and_the_child_has_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx_model(save_mlp(tmp_path / "m.onnx"))
    (tmp_path / "child.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(latency, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(latency, "TIMEOUT_S", 0.2)
    words = r"m\.onnx: measuring took over 1\.2 s a process"
    with pytest.raises(ChildFailedError, match=words):
        sustain("m", model, {"x": np.ones((1, 8), np.float32)}, 1.0)


def test_a_runner_that_records_no_calls_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx_model(save_mlp(tmp_path / "m.onnx"))
    monkeypatch.setattr(latency, "_run_child", lambda *_: {"wall_ms": [1.0]})
    with pytest.raises(ChildFailedError, match=r"takes no --sustained; it needs a Python there"):
        sustain("m", model, {"x": np.ones((1, 8), np.float32)}, 1.0)


def test_a_model_that_does_not_run(tmp_path: Path) -> None:
    model = onnx_model(save_mlp(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=r"m\.onnx: does not run: "):
        sustain("m", model, {"x": np.ones((1, 7), np.float32)}, 1.0)


# The command


def test_the_command_shows_ten_windows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "large.onnx", "--sustained", "1s"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split(":")[0] in ("STEADY", "SLOWER", "NOT CLEAR")
    assert " ran " in lines[0]
    head = [
        "seconds",
        "calls",
        "p50",
        "ms",
        "p95",
        "ms",
        "wall",
        "p95",
        "waited",
        "MHz",
        "deg",
        "C",
    ]
    assert lines[2].split() == head
    assert 8 <= len(lines[3:-2]) <= 10
    assert all("#" in line for line in lines[3:-2])
    assert lines[-1].startswith("# to the p50, - to the p95 (the longest: ")
    assert "error" not in err


def test_the_document_holds_all_windows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_up(THROTTLED, clock=[3000.0] * 25 + [2300.0] * 35)
    monkeypatch.setattr(lasting, "sustain", lambda *_, **__: run)
    assert main(["measure", "large.onnx", "--sustained", "1m", "--batch", "2", "--json"]) == 0
    found = document(capsys)
    assert found["model"]["path"] == "large.onnx"
    lasted = found["sustained"]
    assert (lasted["trend"], lasted["calls"], lasted["batch"]) == ("slower", 6000, 2)
    assert len(lasted["windows"]) == 60
    assert lasted["windows"][-1]["clock_mhz"] == 2300
    assert lasted["not_known"] == ["no temperature could be read"]
    assert json.dumps(found, allow_nan=False)


def test_one_model_at_a_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "model.onnx", "large.onnx", "--sustained", "1s"]) == 2
    assert capsys.readouterr().err == "error: --sustained: runs one model at a time, given 2\n"


@pytest.mark.parametrize("text", ["5", "m", "0s", "25h", "nans", "", "-1m"])
def test_a_duration_that_is_none(folder: Path, text: str, capsys: Any) -> None:
    assert main(["measure", "model.onnx", f"--sustained={text}"]) == 2
    words = f"given {text!r}, expected a duration from 1s to 24h, such as 5m"
    assert words in capsys.readouterr().err
    assert result(capsys) == ""


def test_sensors_of_this_system_raise_nothing() -> None:
    sensors = child.Sensors(0)
    for value in (sensors.clock_mhz(), sensors.temperature_c()):
        assert value is None or value > 0
    assert sys.platform != "linux" or Path("/proc/cpuinfo").exists()
