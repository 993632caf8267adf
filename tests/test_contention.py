"""What other work on the machine does to a measurement, and what the judge makes of that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evidence import MODEL, measured
from tiny_models import save_mlp

from edgecompress.measuring import child
from edgecompress.measuring.child import PEAK_UNRESET, UNTAKEN
from edgecompress.measuring.readings import GUARD, guard_band, read_processes, timing_bounds
from edgecompress.profiles import Budget, Device, Profile
from edgecompress.records import BudgetCheck, LatencySamples, Measurement
from edgecompress.verdict import Evidence, judge

LIMIT = 10.0


def checks(measurement: Measurement, **budget: float) -> list[BudgetCheck]:
    profile = Profile(
        name="here",
        device=Device(description="this machine", host=True),
        budget=Budget.model_validate({"latency_ms.p95": LIMIT, **budget}),
    )
    return list(judge(profile, Evidence(MODEL, measurement)).checks)


def steady(milliseconds: float, processes: int = 5) -> list[np.ndarray]:
    return [np.full(50, milliseconds)] * processes


# The child


def fake_threads(process: Path, waited_ns: dict[str, int]) -> None:
    for thread, waited in waited_ns.items():
        folder = process / "task" / thread
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(f"1000 {waited} 7\n")


def test_waiting_of_the_other_threads_on_a_fake_proc(tmp_path: Path) -> None:
    import os

    fake_threads(tmp_path, {str(os.getpid()): 10**9, "70001": 200, "70002": 30})
    assert child.others_waiting(tmp_path) == 230


def test_the_waiting_clock_reads_a_fake_proc_and_is_absent_where_it_tells_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "schedstat"
    assert child.waiting_clock(file) is None  # as on macOS and Windows
    file.write_text("0 0")
    clock = child.waiting_clock(file)
    assert clock is not None
    file.write_text("1000 345 7\n")
    assert clock() == 345
    file.write_text("nonsense")
    assert child.waiting_clock(file) is None


@pytest.mark.parametrize("text", ["", "nonsense", "1 two 3"])
def test_waiting_that_a_fake_proc_does_not_tell_counts_nothing(tmp_path: Path, text: str) -> None:
    fake_threads(tmp_path, {"70001": 200})
    (tmp_path / "task/70001/schedstat").write_text(text)
    assert child.others_waiting(tmp_path) == 0
    assert child.others_waiting(tmp_path / "missing") == 0


def request(tmp_path: Path) -> dict[str, object]:
    model = save_mlp(tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", np.ones((1, 8), np.float32))
    return {
        "model": str(model),
        "inputs": str(tmp_path / "x.npz"),
        "names": ["x"],
        "threads": 2,
        "cores": [0],
        "seconds": 0.01,
        "min_calls": 5,
        "max_calls": 50,
    }


@pytest.mark.parametrize(("waited_s", "said"), [(0, False), (100, True)])
def test_threads_that_waited_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited_s: int, said: bool
) -> None:
    clock = iter([0, waited_s * 10**9])
    monkeypatch.setattr(child, "others_waiting", lambda: next(clock))
    monkeypatch.setattr(child, "pin", lambda _: True)
    assert (UNTAKEN in child.measure(request(tmp_path))["uncontrolled"]) is said


def test_a_peak_that_cannot_be_reset_is_said_as_on_macos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(child.Memory):
        def __init__(self) -> None:
            self.counts_peak = False

    monkeypatch.setattr(child, "Memory", Blind)
    monkeypatch.setattr(child, "pin", lambda _: True)
    monkeypatch.setattr(child, "others_waiting", lambda: 0)  # those of the tests themselves
    assert child.measure(request(tmp_path))["uncontrolled"] == [PEAK_UNRESET]


# The judge


@pytest.mark.parametrize(("milliseconds", "status"), [(12.0, "inconclusive"), (16.0, "fail")])
def test_contention_leaves_a_slow_model_open_unless_it_is_far_over(
    milliseconds: float, status: str
) -> None:
    check = checks(measured(steady(milliseconds), waited=4.0))[0]
    assert check.status == status
    if status == "inconclusive":
        assert "disturbed (other work held the core 25% of the time)" in check.reason


def test_contention_leaves_a_fast_model_its_pass() -> None:
    assert checks(measured(steady(9.0), waited=4.0))[0].status == "pass"


def test_contention_of_several_threads_decides_neither_way() -> None:
    for milliseconds, status in ((9.0, "inconclusive"), (5.0, "pass"), (12.0, "inconclusive")):
        two = replace(measured(steady(milliseconds), waited=4.0), threads=2)
        assert checks(two)[0].status == status


def test_waiting_of_other_threads_decides_only_far_away() -> None:
    near = measured(steady(8.0), uncontrolled=(UNTAKEN,))
    assert UNTAKEN in checks(near)[0].reason
    assert checks(near)[0].status == "inconclusive"


def test_a_stop_by_a_cpu_quota_decides_only_far_away() -> None:
    words = "a CPU quota stopped the processes 7 times"
    for milliseconds in (8.0, 12.0):
        check = checks(measured(steady(milliseconds), uncontrolled=(words,)))[0]
        assert check.status == "inconclusive"
        assert f"disturbed ({words})" in check.reason


def test_a_peak_that_cannot_be_reset_leaves_memory_open_and_latency_decided() -> None:
    latency, memory = checks(measured(steady(8.0), uncontrolled=(PEAK_UNRESET,)), peak_memory_mb=35)
    assert latency.status == "pass"
    assert memory.status == "inconclusive"
    assert f"disturbed ({PEAK_UNRESET})" in memory.reason
    blind = measured(steady(8.0), uncontrolled=(PEAK_UNRESET,))
    assert checks(blind, peak_memory_mb=60)[1].status == "pass"


# The guard band


def test_an_early_look_needs_a_clearer_answer() -> None:
    assert [round(guard_band(n), 4) for n in (5, 10, 20, 40)] == [0.0476, 0.0378, 0.03, GUARD]
    assert checks(measured(steady(9.6, 5)))[0].status == "inconclusive"
    assert checks(measured(steady(9.6, 20)))[0].status == "pass"


def test_readings_of_some_processes_are_those_of_their_measurement() -> None:
    rng = np.random.default_rng(0)
    whole = measured([rng.gamma(4.0, 1.0, 80) for _ in range(20)], waited=0.5)
    few = replace(whole, processes=whole.processes[:5])

    def read(samples: LatencySamples) -> float:
        return float(np.median(samples.wall_ms))

    taken = read_processes(whole, read).take(range(5))
    assert timing_bounds(taken, (5, 10, 20)) == timing_bounds(
        read_processes(few, read), (5, 10, 20)
    )


def test_few_calls_do_not_pass_a_quantile_that_they_cannot_show() -> None:
    profile = Profile(
        name="here",
        device=Device(description="this machine", host=True),
        budget=Budget.model_validate({"latency_ms.p99": LIMIT}),
    )
    (check,) = judge(profile, Evidence(MODEL, measured(steady(8.0)))).checks
    assert check.status == "inconclusive"
    assert "50 calls a process tell little of their slowest 1%" in check.reason
    (far,) = judge(profile, Evidence(MODEL, measured(steady(5.0)))).checks
    assert far.status == "pass"
    (slow,) = judge(profile, Evidence(MODEL, measured(steady(12.0)))).checks
    assert slow.status == "fail"


def test_a_model_that_takes_seconds_is_sampled_for_a_minute_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a faked clock: a call takes five seconds."""
    now = [0]

    def call() -> None:
        now[0] += 5 * 10**9

    monkeypatch.setattr(child, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(child, "waiting_clock", lambda: None)
    assert child.warm_up(call, 10**8) == 3
    wall, _ = child.sample(call, {"seconds": 0.5, "min_calls": 30, "max_calls": 4000})
    assert len(wall) == 13
