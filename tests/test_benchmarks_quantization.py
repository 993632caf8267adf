"""What the int8 benchmark says of its files, on files made up for the purpose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.quantization import compared


def file(label, right, p50, of=1000):
    hits = np.arange(of) < right
    whole = np.arange(of) < 900
    return compared.File(label, hits, hits, 10, p50, compared.within(whole, hits), {})


def test_half_a_point_may_be_lost_and_one_sample_of_few():
    whole = np.arange(1000) < 900
    assert compared.within(whole, np.arange(1000) < 895)
    assert not compared.within(whole, np.arange(1000) < 894)
    assert compared.within(whole[800:], whole[800:] & (np.arange(200) > 0))
    assert not compared.within(whole[800:], whole[800:] & (np.arange(200) > 1))


def test_the_best_file_is_the_fastest_of_those_that_lose_little():
    slow, fast, bad = file("slow", 900, 2.0), file("fast", 896, 1.0), file("bad", 800, 0.5)
    assert compared.best_of([slow, fast, bad]) is fast
    assert compared.best_of([bad, file("worse", 700, 0.1)]) is bad


@pytest.fixture
def folder(tmp_path):
    hits = {"validation": np.arange(1000) < 900, "test": np.arange(1000) < 900}
    labels = ("fp32", "student-int8-static", "student-int8-weights", "nncf-controlled")
    for label in labels:
        np.savez(tmp_path / f"{label}.npz", sha256="x", **hits)
        (tmp_path / f"{label}.onnx").write_bytes(b"x" * 8)
    times = dict(zip(labels, (2.0, 1.0, 0.5, 0.99), strict=True))
    measured = {label: {"p50_ms": p50} for label, p50 in times.items()}
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    (tmp_path / "nncf-controlled.json").write_text('{"full_evaluations": 14}')
    (tmp_path / "nncf-mixed.json").write_text('{"failed": "no such operator"}')
    return tmp_path


def test_weight_only_files_are_shown_and_not_chosen(folder):
    one = compared.Set.read(folder, "fsdd")
    assert one.best.label == "student-int8-static"
    assert "student-int8-weights" in compared.everything([one])


def test_the_tables_tell_speed_evaluations_and_failures(folder):
    one = compared.Set.read(folder, "fsdd")
    text = compared.tables("larger", [one])
    assert "| 2.00x |" in text and "Median speed-up 2.00x; 0 of 1 slower." in text
    assert "| 1.01 of it | 2 | 14 | yes |" in text
    assert "| fsdd | nncf-mixed | failed: no such operator |" in text


def test_a_peer_that_is_faster_beyond_three_percent_is_worse_for_us(folder):
    path = folder / "measured.json"
    times = json.loads(path.read_text())
    times["nncf-controlled"]["p50_ms"] = 0.96
    path.write_text(json.dumps(times))
    assert "| **no** |" in compared.against([compared.Set.read(folder, "fsdd")])
