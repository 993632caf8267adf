"""The reference network, and how each measuring process times it beside the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgecompress.measuring import child
from edgecompress.measuring.pace import reference_network


def test_the_reference_is_always_the_same_and_computes(reference: Path) -> None:
    assert reference_network() == reference.read_bytes()
    session = onnxruntime.InferenceSession(reference)
    (shape,) = [x.shape for x in session.get_inputs()]
    (answer,) = session.run(None, {"x": np.ones(shape, np.float32)})
    assert np.isfinite(answer).all() and answer.std() > 0


def test_the_reference_is_timed_after_every_stretch(reference: Path) -> None:
    timed = child.Reference(str(reference))
    calls: list[int] = []
    request = {"seconds": 1e-9, "min_calls": 3, "max_calls": 10}

    def pause() -> None:
        calls.append(1)
        timed.look()

    wall, _ = child.sample(lambda: None, request, pause)
    assert len(wall) == len(calls) == len(timed.looks_ms) == 3
    assert min(timed.looks_ms) > 0


def test_without_a_reference_nothing_is_timed() -> None:
    none = child.Reference(None)
    none.look()
    assert none.looks_ms == []


def test_neither_memory_nor_cold_start_holds_the_reference(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Memory(child.Memory):
        def peak(self) -> int:
            events.append("peak")
            return self.resident() + len(events)

    monkeypatch.setattr(child, "Memory", Memory)
    monkeypatch.setattr(child, "pin", lambda _: True)
    monkeypatch.setattr(child, "warm_up", lambda *_: events.append("cold start over"))
    look = child.Reference.look
    monkeypatch.setattr(child.Reference, "look", lambda r: (events.append("look"), look(r)))
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3, 32, 32), np.float32))
    request = {"model": str(reference), "inputs": str(tmp_path / "x.npz"), "names": ["x"]}
    request |= {"threads": 1, "cores": [0], "seconds": 1e-9, "min_calls": 2, "max_calls": 2}
    answer = child.measure(request | {"reference": str(reference)})
    assert events[:3] == ["cold start over", "peak", "look"]
    assert len(answer["reference_ms"]) == 2


def test_a_reference_that_finds_no_memory_is_done_without(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = child.Reference(str(reference))
    timed.look()

    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(child, "warm_up", refuse)
    timed.look()
    monkeypatch.undo()
    timed.look()
    assert timed.looks_ms == []


def test_a_slow_model_stops_as_soon_as_it_was_called_often_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a faked clock: a call takes 50 ms, a stretch holds ten."""
    now, pauses = [0], []
    monkeypatch.setattr(child, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(child, "waiting_clock", lambda: None)

    def call() -> None:
        now[0] += 50 * 10**6

    def pause() -> None:
        pauses.append(now[0])
        now[0] += 30 * 10**6  # belongs to no stretch

    request = {"seconds": 0.5, "min_calls": 25, "max_calls": 4000}
    wall, _ = child.sample(call, request, pause)
    assert len(wall) == 25
    assert [moment // 10**6 for moment in pauses] == [500, 1030, 1310]


def test_a_look_is_short_where_the_reference_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a faked clock: a small board, a call of the reference takes 50 ms."""
    now = [0]
    monkeypatch.setattr(child, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(child, "waiting_clock", lambda: None)

    def call() -> None:
        now[0] += 50 * 10**6

    monkeypatch.setattr(child.Reference, "_open", lambda *_: call)
    timed = child.Reference("reference.onnx")
    timed.look()
    assert timed.looks_ms == [50.0]
    assert now[0] < 0.6e9
