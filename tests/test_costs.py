"""What `measure` shows of each model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence import MODEL, measured

from edgecompress.cli.costs import cost_table
from edgecompress.records import Candidate, Quantiles

COST = replace(measured([np.full(50, 4.0)] * 5), batch=8)


def cells(candidate: Candidate) -> dict[str, str]:
    """Return a row's cells by the column that they end under."""
    head, row = cost_table([candidate]).splitlines()
    names = ("p50 ms", "p90 ms", "p95 ms", "p99 ms", "cold ms", "wall p50", "wall p95",
             "samples/s", "memory", "at load", "size")  # fmt: skip
    ends = {name: head.index(name) + len(name) for name in names if name in head}
    found, before = {}, len("model")
    for name, end in ends.items():
        found[name] = row[before:end].strip()
        before = end
    return found


def given(**fields: object) -> Candidate:
    made = Candidate("m", MODEL, "given", None, (), COST, None)
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_row_holds_latency_throughput_memory_and_size() -> None:
    assert cells(given()) == {
        "p50 ms": "4",
        "p90 ms": "4",
        "p95 ms": "4",
        "p99 ms": "4",
        "cold ms": "50",
        "samples/s": "2,000",
        "memory": "30 MB",
        "at load": "20 MB",
        "size": "2 MB",
    }


@pytest.mark.parametrize(("wall", "shown"), [(4.1, False), (4.3, True)])
def test_wall_times_stand_beside_where_waiting_was_notable(wall: float, shown: bool) -> None:
    found = cells(given(measurement=replace(COST, wall_latency_ms=Quantiles(*[wall] * 4))))
    assert ("wall p95" in found) is shown
    assert found["p95 ms"] == "4"
    assert not shown or found["wall p50"] == found["wall p95"] == "4.3"


def test_a_devices_interruptions_are_its_own() -> None:
    there = replace(COST, wall_latency_ms=Quantiles(*[5.0] * 4))
    found = cells(given(measurement=None, device=there))
    assert (found["p50 ms"], found["samples/s"]) == ("5", "1,600")
    assert "wall p50" not in found
