"""Comparing a model's answers on two processors: the rules, the golden inputs, the processors."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import DataError, UsageError
from edgecompress.profiles import load_profile, shipped_profiles
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.runtime import admit, onnx_model, run
from edgecompress.verifying import golden
from edgecompress.verifying.processors import PROCESSORS, choose, standing_for
from edgecompress.verifying.steps import Quantization, read_quantization
from edgecompress.verifying.verify import compare, judge

FLOAT = Quantization(False, {})
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 4)).astype(np.float32)


def answer(found, quantization=FLOAT, reference=LOGITS, bounded=True):
    differences = compare({"y": reference}, {"y": found}, quantization)
    return (*judge(differences, bounded), differences[0])


def test_equal_floats_pass():
    status, reason, found = answer(LOGITS.copy())
    assert (status, reason) == ("pass", "within the bounds")
    assert (found.max_rel_error, found.agreement, found.steps) == (0.0, 1.0, None)


@given(st.floats(0.01, 100.0), st.integers(0, 49))
def test_one_float_decides_by_its_error_alone(times, sample):
    found = LOGITS.astype(np.float64)
    found[sample, LOGITS[sample].argmax()] += times * 1e-5 * np.abs(LOGITS).max()
    status, reason, difference = answer(found, reference=LOGITS.astype(np.float64))
    assert difference.max_rel_error == pytest.approx(times * 1e-5)
    if times < 0.999:
        assert status == "pass"
    elif times > 1.001:
        assert status == "fail"
        assert reason == (
            f"output 'y': relative error {difference.max_rel_error:.2g}, 1e-05 allowed"
        )


@pytest.mark.parametrize(("off", "status"), [(0, "pass"), (1, "pass"), (2, "fail")])
def test_int8_may_be_one_step_off(off, status):
    codes = RNG.integers(0, 100, (50, 4))
    codes[:, 0] = 200  # the class is beyond doubt
    reference, moved = codes.astype(np.float32), codes.copy()
    moved[7, 2] += off
    eight = Quantization(True, {"y": 0.25})
    found = answer(moved.astype(np.float32) * 0.25, eight, reference * 0.25)
    assert found[0] == status
    assert found[2].steps == pytest.approx(off)
    if off == 2:
        assert found[1] == "output 'y': 2.00 quantization steps off, 1 allowed"


def test_a_float_tail_counts_a_255th_of_its_range_as_a_step():
    found = answer(LOGITS, Quantization(True, {}))[2]
    assert found.step == pytest.approx((LOGITS.max() - LOGITS.min()) / 255)


def test_another_class_fails_when_the_reference_is_beyond_one_step():
    eight = Quantization(True, {"y": 1.0})
    reference = np.array([[5.0, 4.0], [5.0, 3.5]], np.float32)  # a tie within a step, and none
    tie = np.array([[4.0, 4.5], [5.0, 3.5]], np.float32)
    status, _, found = answer(tie, eight, reference)
    assert (status, found.agreement, found.changed) == ("pass", 0.5, 0)
    lost = np.array([[5.0, 4.0], [4.2, 4.3]], np.float32)
    status, reason, found = answer(lost, eight, reference)
    assert (status, found.agreement, found.changed) == ("fail", 0.5, 1)
    assert reason == "output 'y': another class or label on 1 of 2 samples"


def test_labels_must_be_the_same():
    labels = np.array([3, 1, 2])
    status, reason, found = answer(np.array([3, 1, 1]), reference=labels)
    assert (status, found.changed) == ("fail", 1)
    assert reason == "output 'y': another class or label on 1 of 3 samples"
    assert answer(labels.copy(), reference=labels)[0] == "pass"
    texts = np.array(["cat", "dog"])
    assert answer(texts.copy(), reference=texts)[0] == "pass"


def test_codes_are_compared_in_steps_of_one():
    codes = np.array([[200, 7]], np.uint8)
    assert answer(codes + np.uint8(1), Quantization(True, {}), codes)[2].steps == 1.0


@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_useless_fails_everywhere(bounded):
    torn = LOGITS.copy()
    torn[3, 1] = np.nan
    status, reason, _ = answer(torn, bounded=bounded)
    assert (status, reason) == ("fail", "output 'y': is not finite there on 1 of 50 samples")
    status, reason, _ = answer(LOGITS, reference=torn, bounded=bounded)
    assert (status, reason) == ("fail", "output 'y': is not finite here on 1 of 50 samples")
    status, reason, _ = answer(LOGITS[:, :3], bounded=bounded)
    assert (status, reason) == ("fail", "output 'y': has shape (50, 3) there and (50, 4) here")


def test_without_bounds_a_difference_is_reported():
    status, reason, found = answer(LOGITS + 1, bounded=False)
    assert (status, reason) == ("reported", "no bounds apply")
    assert found.max_abs_error == pytest.approx(1)


def test_halves_are_compared_as_finely_as_they_can_be():
    halves = np.array([[1.0, 2.0]], np.float16)
    assert answer(halves * np.float16(1.001), reference=halves)[0] == "pass"
    assert answer(halves * np.float16(1.01), reference=halves)[0] == "fail"


def test_the_worst_output_is_the_one_with_a_problem():
    differences = compare({"a": LOGITS, "b": LOGITS}, {"a": LOGITS + 9, "b": LOGITS[:, :1]}, FLOAT)
    assert judge(differences, bounded=True)[1].startswith("output 'b'")


# --- what a step is


def test_steps_are_read_from_the_last_dequantization(tmp_path):
    path = tiny_models.save_mlp(tmp_path / "float.onnx", width=64, depth=2)
    assert read_quantization(path) == FLOAT
    samples = {"x": RNG.normal(size=(64, 64)).astype(np.float32)}
    static = QuantizeSettings(schemes=("static",))
    (made,) = quantize(onnx_model(path), samples, tmp_path, static)
    found = read_quantization(made.model.path)
    assert found.int8
    codes = run(made.model, samples) / found.steps["y"]
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert len(np.unique(np.rint(codes))) > 50  # no multiple of a step is missing
    dynamic = QuantizeSettings(schemes=("dynamic",))
    (made,) = quantize(onnx_model(path), samples, tmp_path, dynamic)
    assert read_quantization(made.model.path) == Quantization(True, {})


# --- golden inputs


def test_samples_are_cut_into_calls_of_one(tmp_path):
    facts = admit(tiny_models.save_mlp(tmp_path / "m.onnx"))
    x = RNG.normal(size=(10, 8)).astype(np.float32)
    cut = golden.from_arrays(facts, {"x": x}, "here", None)
    assert cut.calls["x"].shape == (10, 1, 8)
    np.testing.assert_array_equal(cut.rows(cut.calls["x"]), x)
    few = golden.from_arrays(facts, {"x": x}, "here", 4)
    np.testing.assert_array_equal(few.taken, [0, 3, 6, 9])
    np.testing.assert_array_equal(few.rows(few.calls["x"]), x[[0, 3, 6, 9]])


def test_a_fixed_batch_is_filled_up_with_repeats(tmp_path):
    facts = admit(tiny_models.save_mlp(tmp_path / "m.onnx", batch=4))
    x = RNG.normal(size=(10, 8)).astype(np.float32)
    cut = golden.from_arrays(facts, {"x": x}, "here", None)
    assert cut.calls["x"].shape == (3, 4, 8)
    np.testing.assert_array_equal(cut.rows(cut.calls["x"]), x)


def test_made_up_inputs_come_from_several_seeds(tmp_path):
    facts = admit(tiny_models.save_mlp(tmp_path / "m.onnx"))
    made = golden.made_up(facts, {}, 5)
    assert made.calls["x"].shape == (5, 1, 8)
    assert len({call.tobytes() for call in made.calls["x"]}) == 5
    assert made.source == "made up from 5 seeds"
    wide = golden.made_up(facts, {"x": (3, 8)}, 5)
    assert wide.rows(wide.calls["x"]).shape == (15, 8)


def test_a_bundle_brings_its_golden_inputs(tmp_path):
    model = tmp_path / "model.onnx"
    assert golden.bundled_inputs(model) is None
    for name in ("golden.bin", "manifest.json"):
        (tmp_path / name).write_text("")
    bundled = golden.bundled_inputs(model)
    assert bundled == tmp_path / "golden.bin"
    with pytest.raises(DataError, match=r"is not laid out as the manifest beside it says; bundle"):
        golden.read_bundled(bundled)


# --- processors


def test_processors_are_chosen_by_name():
    assert [p.name for p in choose(["arm64"])] == ["cortex-a53", "cortex-a76"]
    assert [p.name for p in choose(["x86-avx2", "arm64"], ["max"])] == ["max", "haswell"]


@pytest.mark.parametrize(
    ("isas", "cpus", "words"),
    [
        (["arm46"], [], "--isa arm46: not known; did you mean 'arm64'?"),
        (["mips"], [], "--isa mips: not known; expected one of arm64, x86-avx2"),
        (["arm64"], ["cortex-a35"], "--cpu cortex-a35: not known"),
        (["x86-avx2"], ["max"], "--cpu max: chooses among arm64 processors; add --isa arm64"),
    ],
)
def test_unknown_processors_are_refused(isas, cpus, words):
    with pytest.raises(UsageError) as refused:
        choose(isas, cpus)
    assert words in str(refused.value)


def test_a_processor_never_promises_what_it_lacks():
    by_name = {p.name: p.features.split() for p in PROCESSORS}
    assert "asimddp" not in by_name["cortex-a53"] + by_name["cortex-a72"]
    assert "asimddp" in by_name["cortex-a76"]
    assert "sve=off" in next(p for p in PROCESSORS if p.name == "max").model
    a53 = next(p for p in PROCESSORS if p.name == "cortex-a53").cpuinfo
    assert "CPU part\t: 0xd03\n" in a53
    assert "Features\t: fp asimd " in a53


def test_every_shipped_arm_profile_has_a_processor():
    found = {}
    for name in shipped_profiles():
        device = load_profile(name).device
        if processor := standing_for(device.core, device.isa):
            found[name] = processor.name
    assert found["raspberry-pi-zero-2w"] == "cortex-a53"
    assert found["raspberry-pi-4"] == "cortex-a72"
    assert found["android-low"] == "cortex-a76"  # a Cortex-A55, which older qemus lack
    assert found["android-flagship"] == found["ios-cpu"] == "max"
    assert "cpu-1core" not in found


def test_a_flipped_boolean_is_another_answer_and_no_step():
    flags = np.array([True, False, True])
    assert answer(~flags, Quantization(True, {}), flags)[0] == "fail"
