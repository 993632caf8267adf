"""A model that needs more memory than there is ends in one line, not in the system's hands."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tiny_models import save, value

from edgecompress.cli.main import main
from edgecompress.measuring import child, host, latency, lock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds memory")


@pytest.fixture
def hungry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model of a few bytes that fills 1.6 GB."""
    monkeypatch.setattr(lock, "COMMON", tmp_path)
    monkeypatch.chdir(tmp_path)
    weights = [
        numpy_helper.from_array(np.array([200_000_000]), "shape"),
        numpy_helper.from_array(np.array([0]), "axis"),
    ]
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("Exp", ["wide"], ["exp"]),
        helper.make_node("ReduceSum", ["exp", "axis"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "hungry", [value("x", 1)], [value("y", 1)], weights)
    return save(graph, tmp_path / "hungry.onnx")


@pytest.mark.parametrize("command", [["measure"], ["check", "--profile", "cpu-1core"]])
def test_it_ends_in_one_line_and_4(
    hungry: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(latency, "free_memory", lambda: 500_000_000)
    assert main([*command, "hungry.onnx"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: {hungry}: needs more memory than the machine has free; give smaller inputs, or "
        "measure on a larger machine\n"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 800"), True),
        (RuntimeError("Got invalid dimensions for input: x"), False),
    ],
)
def test_the_child_knows_what_ran_out(error: Exception, expected: bool) -> None:
    assert child.is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "inactive_file 200"}, 500),
        ({"memory.max": "max", "memory.current": "700"}, 10_000),
        ({"memory.limit_in_bytes": "900", "memory.usage_in_bytes": "1000"}, 0),
        ({}, 10_000),
    ],
)
def test_free_memory_knows_both_kinds_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], free: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "_groups", lambda *_: iter([tmp_path]))
    total = type("Memory", (), {"available": 10_000})
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: total)
    assert host.free_memory() == free
