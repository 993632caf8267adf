"""Channel curves: which widths gain, on made-up curves; and curves of this machine, kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.measuring import curves
from edgecompress.measuring.curves import (
    Curve,
    gaining_widths,
    kept_curves,
    layer,
    measure_curves,
    next_faster_width,
)


def curve(times: dict[int, float], spread: float = 0.0) -> Curve:
    """Return a made-up curve; each time varies by `spread` of itself over its turns."""
    turns = [
        tuple(ms * (1 + spread * turn) for turn in (-1, -0.5, 0, 0.5, 1)) for ms in times.values()
    ]
    return Curve("conv3x3", 8, "float", tuple(times), tuple(turns))


@given(st.sampled_from((4, 8, 16)), st.integers(1, 6))
def test_on_steps_only_whole_blocks_gain(block, blocks):
    steps = curve({w: float(-(-w // block)) for w in range(1, block * blocks + 1)})
    assert gaining_widths(steps) == tuple(block * n for n in range(blocks, 0, -1))
    for width in steps.widths:
        below = (width - 1) // block * block
        assert next_faster_width(steps, width) == (below or None)


def test_a_narrower_layer_that_is_slower_is_passed_over():
    found = curve({32: 1.0, 48: 1.5, 63: 3.5, 64: 2.0})
    assert next_faster_width(found, 64) == 48
    assert next_faster_width(found, 63) == 48
    assert gaining_widths(found) == (64, 48, 32)


def test_what_noise_could_explain_gains_nothing():
    assert next_faster_width(curve({32: 0.95, 64: 1.0}, spread=0.1), 64) is None
    assert next_faster_width(curve({32: 0.98, 64: 1.0}), 64) is None
    assert next_faster_width(curve({32: 0.95, 64: 1.0}), 64) == 32


def test_a_curve_knows_only_its_own_widths():
    with pytest.raises(ValueError, match="width 20 is not on the curve: 16, 32"):
        next_faster_width(curve({16: 1.0, 32: 2.0}), 20)


def test_every_layer_has_as_many_channels_in_as_out():
    assert layer("dense", 1, "float", 12).weights == (12, 12)
    assert layer("pointwise", 8, "float", 12).weights == (12, 12, 1, 1)
    assert layer("conv3x3", 8, "unsigned", 12).input == (1, 12, 8, 8)
    depthwise = layer("depthwise", 8, "float", 12)
    assert (depthwise.weights, depthwise.attributes["group"]) == ((12, 1, 3, 3), 12)


def test_this_machines_curves_are_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "SIZES", (8,))
    monkeypatch.setattr(curves, "WIDTHS", (8, 64))
    found = kept_curves(tmp_path, "unsigned")
    assert [(c.kind, c.size) for c in found] == [
        ("conv3x3", 8), ("pointwise", 8), ("depthwise", 8), ("dense", 1),
    ]  # fmt: skip
    assert {c.widths for c in found} == {(8, 64)}
    assert next_faster_width(found[0], 64) == 8  # 64 times the work
    monkeypatch.setattr(curves, "measure_curves", lambda *_: pytest.fail("measured again"))
    assert kept_curves(tmp_path, "unsigned") == found
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    monkeypatch.setattr(curves, "measure_curves", lambda *_: found[:1])
    assert kept_curves(tmp_path, "unsigned") == found[:1]
    assert kept_curves(tmp_path, "unsigned") == found[:1]
    monkeypatch.setattr(curves, "WIDTHS", (8, 32, 64))  # other questions, other answers
    monkeypatch.setattr(curves, "measure_curves", lambda *_: found[1:])
    assert kept_curves(tmp_path, "unsigned") == found[1:]


def test_without_a_folder_they_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = (curve({8: 1.0}),)
    monkeypatch.setattr(curves, "measure_curves", lambda *_: made)
    assert kept_curves() == made
    (file,) = (tmp_path / "edgecompress" / "curves").iterdir()
    assert file.name.startswith("curves-")
    monkeypatch.setattr(curves, "measure_curves", lambda *_: pytest.fail("measured again"))
    assert kept_curves() == made


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "measure_curves", lambda *_: (curve({8: 1.0}),))
        assert kept_curves(tmp_path / "file" / "cache") == (curve({8: 1.0}),)


def test_curves_that_time_ran_out_for_are_not_kept(tmp_path, monkeypatch):
    late = (curve({8: 1.0}), curve({}))
    monkeypatch.setattr(curves, "measure_curves", lambda *_: late)
    assert kept_curves(tmp_path) == late
    assert list(tmp_path.iterdir()) == []


def test_a_width_that_does_not_run_is_left_out(monkeypatch):
    told = {"turns_ms": [[[1.0] * 5, None]] * 4}
    monkeypatch.setattr(curves, "SIZES", (8,))
    monkeypatch.setattr(curves, "WIDTHS", (8, 64))
    monkeypatch.setattr(curves, "ask_child", lambda *_: told)
    assert {c.widths for c in measure_curves()} == {(8,)}
