"""Measuring: real fresh processes on tiny models, and what the room says when things go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_mlp

from edgecompress import runtime
from edgecompress.errors import ChildFailedError, ModelError, ResourceError
from edgecompress.measuring import child, host, latency, lock
from edgecompress.measuring.latency import measure, running_ms
from edgecompress.profiles import load_profile, shipped_profiles
from edgecompress.recipe import MeasureSettings
from edgecompress.records import Artifact, OnnxModel
from edgecompress.runtime import onnx_model
from edgecompress.store import artifact

QUICK = MeasureSettings(processes=(2,), seconds_per_process=0.02)


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep these tests from waiting for other measurements on the machine."""
    monkeypatch.setattr(lock, "COMMON", tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> OnnxModel:
    return onnx_model(save_mlp(tmp_path / "small.onnx"))


@pytest.fixture
def large(tmp_path: Path) -> OnnxModel:
    return onnx_model(save_mlp(tmp_path / "large.onnx", width=256, depth=4))


def row(width: int = 8) -> dict[str, Any]:
    return {"x": np.ones((1, width), np.float32)}


# Real measurements


def test_two_models_measured_for_real(small: OnnxModel, large: OnnxModel) -> None:
    models, said = {"small": small, "large": large}, []
    found = measure(models, {"small": row(), "large": row(256)}, QUICK, progress=said.append)
    assert said == [
        "measuring small: process 1 of 2",
        "measuring large: process 1 of 2",
        "measuring small: process 2 of 2",
        "measuring large: process 2 of 2",
    ]
    for measurement in found.values():
        assert len(measurement.processes) == 2
        q = measurement.latency_ms
        assert 0 < q.p50 <= q.p90 <= q.p95 <= q.p99
        assert measurement.cold_start_ms > q.p50
        assert measurement.peak_memory_bytes > 0
        assert measurement.threads == measurement.batch == 1
        assert "onnxruntime" in measurement.host
        for samples in measurement.processes:
            assert len(samples.wall_ms) == len(samples.waited_ms) >= 20
            assert (running_ms(samples) > 0).all()
            assert samples.peak_memory_bytes >= samples.load_memory_bytes
    assert found["large"].latency_ms.p50 > found["small"].latency_ms.p50
    assert found["small"].peak_memory_bytes < 20e6  # Python with the runtime alone is over 40 MB
    assert found["large"].peak_memory_bytes > 256 * 256 * 4 * 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin processes here")
def test_waiting_for_a_busy_core_is_counted(large: OnnxModel) -> None:
    core = host.usable_cores()[-1]
    spin = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as neighbour:
        try:
            found = measure({"m": large}, {"m": row(256)}, QUICK, processes=1)["m"]
        finally:
            neighbour.kill()
    assert sum(found.processes[0].waited_ms) > 0
    assert found.latency_ms.p99 <= found.wall_latency_ms.p99


def test_waiting_is_taken_out_of_latency_and_kept_beside_it(
    small: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = _fake_answer(5.0) | {"waited_ms": [3.5] * 20}
    monkeypatch.setattr(latency, "_run_child", lambda *_: answer)
    found = measure({"m": small}, {"m": row()}, QUICK)["m"]
    assert (found.latency_ms.p95, found.wall_latency_ms.p95) == (1.5, 5.0)


def test_threads_are_recorded(small: OnnxModel) -> None:
    found = measure({"m": small}, {"m": row()}, QUICK, threads=2, processes=1)["m"]
    assert found.threads == 2


# The looks


def _fake_answer(wall: float = 1.0) -> dict[str, Any]:
    return {
        "wall_ms": [wall] * 20,
        "waited_ms": [0.0] * 20,
        "warmup_calls": 6,
        "cold_start_ms": 5.0,
        "peak_memory_bytes": 10,
        "load_memory_bytes": 5,
        "uncontrolled": [],
    }


def test_a_model_leaves_after_the_look_that_decides(
    small: OnnxModel, large: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def fake(model: OnnxModel, _request: object) -> dict[str, Any]:
        order.append(model.path.stem)
        return _fake_answer()

    monkeypatch.setattr(latency, "_run_child", fake)
    settings = MeasureSettings(processes=(2, 4, 6))
    found = measure(
        {"small": small, "large": large},
        {"small": row(), "large": row(256)},
        settings,
        decided=lambda n, found: n == "small" or len(found[n].processes) == 4,
    )
    assert order == ["small", "large", "small", "large", "large", "large"]
    assert {label: len(m.processes) for label, m in found.items()} == {"small": 2, "large": 4}


def test_processes_override_the_looks(small: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_run_child", lambda *_: _fake_answer())
    found = measure({"m": small}, {"m": row()}, MeasureSettings(), processes=3)["m"]
    assert len(found.processes) == 3


def test_throttling_is_said(small: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 10])
    monkeypatch.setattr(latency, "throttled_periods", lambda: next(counts))
    monkeypatch.setattr(latency, "_run_child", lambda *_: _fake_answer())
    found = measure({"m": small}, {"m": row()}, QUICK)["m"]
    assert found.uncontrolled == ("a CPU quota stopped the processes 7 times",)


# What goes wrong


def test_a_model_that_does_not_take_its_inputs(small: OnnxModel) -> None:
    with pytest.raises(ModelError, match=r"small\.onnx: does not run: .*--shape") as caught:
        measure({"m": small}, {"m": row(7)}, QUICK)
    assert "\n" not in str(caught.value)


def test_weights_beside_a_model_that_changed(small: OnnxModel, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(8))
    model = replace(small, beside=(artifact(weights, Artifact),))
    weights.write_bytes(bytes(9))
    with pytest.raises(ModelError, match=r"weights\.bin: changed since it was recorded"):
        measure({"m": model}, {"m": row()}, QUICK)
    weights.unlink()
    with pytest.raises(ModelError, match=r"weights\.bin: changed since it was recorded"):
        measure({"m": model}, {"m": row()}, QUICK)


def test_a_model_that_changed(small: OnnxModel) -> None:
    small.path.write_bytes(small.path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"small\.onnx: changed since it was recorded"):
        measure({"m": small}, {"m": row()}, QUICK)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.abort()", r"the measuring process died \(exit status -6\); is there"),
        ("import sys; sys.exit('no memory')", r"died \(exit status 1\): no memory; is there"),
        ("while True: pass", "measuring took over 1 s a process"),
    ],
)
def test_a_child_that_dies_or_hangs(
    small: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(latency, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(latency, "TIMEOUT_S", 1.0)
    with pytest.raises(ChildFailedError, match=message) as caught:
        measure({"m": small}, {"m": row()}, QUICK)
    assert caught.value.exit_code == 4
    assert not list(tmp_path.glob("edgecompress-*/*.npz")), "inputs are left behind"


# The lock


def test_two_measurements_never_overlap() -> None:
    said: list[str] = []
    inside = threading.Event()

    def hold() -> None:
        with lock.alone(said.append):
            inside.set()
            time.sleep(0.3)

    other = threading.Thread(target=hold)
    other.start()
    assert inside.wait(10)
    with lock.alone(said.append):
        assert not other.is_alive() or said
    other.join()
    assert said == ["waiting for another measurement on this machine to end"]


def test_patience_ends() -> None:
    with (
        lock.alone(lambda _: None),
        pytest.raises(ResourceError, match=r"another measurement holds .*lock since 0\.1 s"),
        lock.alone(lambda _: None, patience_s=0.1),
    ):
        pass


def test_every_user_may_take_the_lock(tmp_path: Path) -> None:
    with lock.alone(lambda _: None):
        folder = tmp_path / "edgecompress-measuring"
        assert folder.stat().st_mode & 0o777 == 0o777
        assert (folder / "lock").stat().st_mode & 0o666 == 0o666


def test_the_lock_is_one_for_the_machine_whatever_tmpdir_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    with lock.alone(lambda _: None):
        assert not list(elsewhere.iterdir())
    monkeypatch.setattr(lock, "COMMON", tmp_path / "missing")
    with lock.alone(lambda _: None):
        assert (elsewhere / "edgecompress-measuring" / "lock").exists()


def test_measuring_holds_the_lock(small: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def another_tries(*_: object) -> dict[str, Any]:
        with pytest.raises(ResourceError), lock.alone(lambda _: None, patience_s=0.05):
            pass
        return _fake_answer()

    monkeypatch.setattr(latency, "_run_child", another_tries)
    measure({"m": small}, {"m": row()}, QUICK)


# The child's parts, in this process


@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_have_the_threads_asked_for_and_none_spins(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda model, options, providers: made.append(options)
    )
    child.open_call("m.onnx", {}, threads)
    runtime.session(Path("m.onnx"), threads)
    for options in made:
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
        for pool in ("intra", "inter"):
            spinning = options.get_session_config_entry(f"session.{pool}_op.allow_spinning")
            assert spinning == "0"
    assert len(made) == 2


def _calls(*milliseconds: float) -> Callable[[], None]:
    durations: Iterator[float] = iter(milliseconds)
    return lambda: time.sleep(next(durations) / 1e3)


def test_no_sample_is_dropped_for_its_length() -> None:
    request = {"seconds": 60.0, "min_calls": 1, "max_calls": 6}
    wall, waited = child.sample(_calls(1, 1, 30, 1, 1, 1), request)
    assert len(wall) == len(waited) == 6
    assert wall[2] >= 30


def test_sampling_stops_by_time_but_not_before_enough_calls() -> None:
    request = {"seconds": 0.0, "min_calls": 3, "max_calls": 10}
    assert len(child.sample(_calls(*[1] * 10), request)[0]) == 3


def test_warm_up_is_bounded_when_windows_never_agree() -> None:
    growing = (2.0 * 1.3**i for i in range(200))
    calls = child.warm_up(lambda: time.sleep(next(growing) / 1e5), window_ns=1)
    assert calls == 3 * child.WINDOWS


def test_missing_clocks_are_said(
    small: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "waiting_clock", lambda: None)
    monkeypatch.setattr(child, "pin", lambda _: False)
    np.savez(tmp_path / "x.npz", *row().values())
    request = {
        "model": str(small.path),
        "inputs": str(tmp_path / "x.npz"),
        "names": ["x"],
        "threads": 1,
        "cores": [0],
        "seconds": 0.01,
        "min_calls": 5,
        "max_calls": 50,
    }
    answer = child.measure(request)
    assert answer["uncontrolled"] == ["not pinned to a core", "waiting for a core not counted"]
    assert set(answer["waited_ms"]) == {0.0}


# The host


# Prediction


def test_shipped_profiles_predict_exactly_where_the_host_is_not_the_device() -> None:
    hosts = set()
    for name in shipped_profiles():
        profile = load_profile(name)
        assert profile.name == name
        assert (profile.prediction is None) == profile.device.host
        hosts |= {name} if profile.device.host else set()
    assert hosts == {"cpu-1core", "sla-50ms", "cloud-1vcpu"}


def test_no_torch_is_needed() -> None:
    rooms = "measuring.latency, edgecompress.measuring.predict, edgecompress.verdict"
    code = f"import sys, edgecompress.{rooms}, edgecompress.runtime; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
