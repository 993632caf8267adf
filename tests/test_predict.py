"""Predictions follow the work, and no doubt ever narrows an interval."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import ProfileError
from edgecompress.measuring.features import Features
from edgecompress.measuring.predict import predict
from edgecompress.profiles import (
    Budget,
    Costs,
    Device,
    PredictionBasis,
    Profile,
    load_profile,
    shipped_profiles,
)
from edgecompress.records import LatencySamples, Measurement, Prediction, Quantiles
from edgecompress.settings import parse

KINDS = list(Costs.model_fields)
WORK = Features(100, 200, 10, 20, 0, 1, 0, 5, 0, 30, 4, 6, 8)


def costs(value: float = 0.1, within: float = 1.2) -> Costs:
    return Costs.model_validate({kind: {"value": value, "within": within} for kind in KINDS})


def profile(**changes: object) -> Profile:
    basis = {"floats": costs(), "int8": costs(0.05), "source": "a table", "rows": 30, **changes}
    return Profile(
        name="there",
        device=Device(description="a phone"),
        budget=Budget(model_size_mb=1),
        prediction=PredictionBasis.model_validate(basis),
    )


def here(p50: float = 2.0) -> Measurement:
    one = LatencySamples((p50,), (0.0,), 1, 1.0, 1, 1)
    quantiles = Quantiles(p50, p50, p50, p50)
    return Measurement((one,), quantiles, quantiles, 1.0, 1, 1, 1, "this machine")


def predicted(features: Features = WORK, device: Profile | None = None) -> Prediction:
    found = predict(here(), device or profile(), features)
    assert found is not None
    return found


def test_the_typical_time_is_the_sum_of_work_times_cost() -> None:
    assert predicted().latency_ms.p50 == pytest.approx(0.1 * (331 + 5 + 30 + 4 + 6 + 8))
    eight = predicted(replace(WORK, int8=True))
    assert eight.latency_ms.p50 == pytest.approx(0.05 * (331 + 5 + 30 + 4 + 6 + 8))


def test_the_tail_lies_beyond_the_upper_end() -> None:
    found = predicted()
    p50, factor = found.latency_ms.p50, found.high_factor
    assert found.low_factor == pytest.approx(1 / factor)
    assert found.latency_ms.p95 == pytest.approx(p50 * factor * 1.5)
    assert found.latency_ms.p90 == found.latency_ms.p95
    assert found.latency_ms.p99 == pytest.approx(found.latency_ms.p95 * 1.5)


def test_the_basis_is_in_words() -> None:
    words = predicted().basis
    assert "331 M MACs (float)" in words
    assert "costs fitted on 30 published ncnn times of this device" in words
    assert "within a factor" in words
    assert "; nearest published models: " in words
    assert words.endswith("a table; tail 1.5: unverified")
    assert "spec sheet, no published time" in predicted(device=profile(spec_sheet=True)).basis


def test_a_ratio_to_this_host_still_works() -> None:
    device = profile(floats=None, int8=None, host_ratio=4.0, interval_factor=3.0)
    found = predict(here(2.0), device, "nobody counted it")
    assert found is not None
    assert found.latency_ms == Quantiles(8.0, 36.0, 36.0, 54.0)
    assert (found.low_factor, found.high_factor) == pytest.approx((1 / 3, 3))
    assert "this host's p50 of 2 ms (this machine) x 4" in found.basis


def test_nothing_is_predicted_without_a_basis() -> None:
    assert predict(here(), load_profile("cpu-1core"), WORK) is None
    assert predict(here(), profile(), "its operators could not be counted") is None
    assert predict(here(), profile(threads=4), WORK) is None  # the profile runs one


@given(
    scale=st.floats(1.0, 1e4),
    kind=st.sampled_from([f.name for f in fields(Features) if f.name != "int8"]),
)
def test_more_work_takes_longer(scale: float, kind: str) -> None:
    more = replace(WORK, **{kind: getattr(WORK, kind) * scale})
    assert predicted(more).latency_ms.p50 >= predicted().latency_ms.p50


@given(scale=st.floats(1.0, 1e3))
def test_time_scales_with_the_work(scale: float) -> None:
    more = {f.name: getattr(WORK, f.name) * scale for f in fields(Features) if f.name != "int8"}
    times = predicted(Features(**more)).latency_ms.p50, predicted().latency_ms.p50
    assert times[0] == pytest.approx(scale * times[1])


@given(
    field=st.sampled_from(["unexplained", "runtime_factor", "coverage_sd"]),
    more=st.floats(1.0, 3.0),
)
def test_more_doubt_never_narrows(field: str, more: float) -> None:
    basis = profile().prediction
    assert basis is not None
    wider = profile(**{field: getattr(basis, field) * more})
    assert predicted(device=wider).high_factor >= predicted().high_factor


@given(kind=st.sampled_from(KINDS), more=st.floats(1.0, 3.0))
def test_a_cost_known_worse_never_narrows(kind: str, more: float) -> None:
    worse = costs().model_dump()
    worse[kind]["within"] *= more
    assert predicted(device=profile(floats=worse)).high_factor >= predicted().high_factor


@given(share=st.floats(1e-6, 1.0))
def test_smaller_than_any_published_model_never_narrows(share: float) -> None:
    work = {f.name: getattr(WORK, f.name) * share for f in fields(Features) if f.name != "int8"}
    assert predicted(Features(**work)).high_factor >= predicted().high_factor * (1 - 1e-9)


def test_a_tiny_model_stays_far_below_a_phones_budget() -> None:
    tiny = Features(0.0, 0.02, 0.01, 0.0, 0.0, 0.001, 0.0, 0.01, 0.0, 8, 0.002, 0.02, 0.0)
    found = predict(here(0.02), load_profile("android-cpu"), tiny)
    assert found is not None
    assert 0.001 < found.latency_ms.p50 < found.latency_ms.p95 < 10


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_predict_where_the_host_is_not_the_device(name: str) -> None:
    device = load_profile(name)
    found = predict(here(), device, WORK)
    assert (found is None) == device.device.host
    if found is not None and device.prediction is not None:
        assert 1 < found.latency_ms.p50 < 1000
        assert 1.2 < found.high_factor < 8
        assert device.prediction.spec_sheet == (name == "ios-cpu")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "expected host_ratio, or the costs [prediction.floats] and [prediction.int8]"),
        ({"host_ratio": 2.0, "int8": costs().model_dump()}, "host_ratio with costs: give one"),
        ({"floats": costs().model_dump()}, "expected host_ratio, or the costs"),
    ],
)
def test_a_basis_rests_on_one_thing(given: dict[str, object], wanted: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse(PredictionBasis, {"source": "x", **given}, "mine.toml", ProfileError)
    assert str(caught.value).startswith("mine.toml: ")
    assert wanted in str(caught.value)


def test_the_nearest_published_models_are_named() -> None:
    like_mobilenet = Features(540, 0, 11, 17, 0, 1, 0, 0.2, 0, 30, 4.2, 21, 0)
    like_vgg = Features(0, 15000, 80, 0, 0, 120, 0, 30, 0, 22, 138, 437, 0)
    like_transformer = Features(0, 0, 300, 0, 0, 1, 50000, 1000, 500, 230, 86, 4, 0)
    assert "nearest published models: mobilenet" in predicted(like_mobilenet).basis
    assert "nearest published models: vgg16" in predicted(like_vgg).basis
    assert "nearest published models: vision_transformer" in predicted(like_transformer).basis
