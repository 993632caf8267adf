"""What the distillation benchmark says of its results, on results made up for the purpose."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest

from benchmarks.distillation import figures


def line(name, seed, arm, value, validation=0.5):
    return {
        "set": name,
        "seed": seed,
        "arm": arm,
        "metric": "accuracy",
        "value": value,
        "teacher": 0.95,
        "lead_error": 0.01,
        "validation": validation,
    }


def results(name, control, distilled):
    lines = [line(name, seed, "control", value) for seed, value in enumerate(control)]
    return lines + [line(name, seed, "distilled", value) for seed, value in enumerate(distilled)]


def test_the_doctests_hold():
    assert doctest.testmod(figures).failed == 0


def test_the_share_of_the_gap_that_is_closed():
    found = figures.compared("s", results("s", [0.84, 0.86], [0.91, 0.91]))
    assert found.lead == pytest.approx(0.10)
    assert found.closed == pytest.approx(0.60)
    assert found.lead_error == pytest.approx(np.sqrt(0.01**2 + np.var([0.84, 0.86], ddof=1) / 2))


def test_losses_are_in_standard_deviations_of_the_control():
    found = figures.compared("s", results("s", [0.80, 0.82, 0.84], [0.80, 0.80, 0.84]))
    assert found.losses == pytest.approx([0.0, 1.0, 0.0])
    assert 0.1 < found.worse_p < 0.3


def test_a_set_that_loses_is_named_and_raises_the_bound():
    worse = figures.compared("bad", results("bad", [0.90, 0.91, 0.92], [0.88, 0.8901, 0.90]))
    even = figures.compared("even", results("even", [0.84, 0.86, 0.85], [0.85, 0.85, 0.85]))
    said = figures.does_not_lose([worse, even])
    assert "Worse at p < 0.01: bad." in said
    assert figures.upper_bound(worse.losses) > 1.5


def test_a_gap_counts_only_where_it_is_sure():
    sure = figures.compared("sure", results("sure", [0.84, 0.86], [0.93, 0.91]))
    unsure = figures.compared("unsure", results("unsure", [0.93, 0.94], [0.95, 0.95]))
    assert "in 1 of 2 rows; at least 50% of the gap is closed in 1: sure." in figures.gains(
        [sure, unsure]
    )
    assert "(" in figures.table([unsure]).splitlines()[-1]


def test_pairs_are_made_by_seed_and_choice_by_validation(tmp_path, capsys):
    lines = results("s", [0.80, 0.81], [0.90, 0.91])
    lines[0]["validation"] = 0.6
    lines.append(line("s", 7, "control", 0.1))  # its pair is not there yet
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    figures.main(path)
    said = capsys.readouterr().out
    assert "1 of 2" in said and "control would have shipped in 1 of 2 pairs (50%)" in said
    assert "| s | control | 0.8000 | 0.8100 | 0.1000 |" in said
