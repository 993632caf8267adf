"""Judging untrained students: what is measured, how carefully, and which go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from evidence import measured

from edgecompress.measuring.features import Features
from edgecompress.measuring.predict import predict
from edgecompress.profiles import Profile, load_profile
from edgecompress.records import Measurement, OnnxModel, StudentOffer, StudentSpec, Verdict
from edgecompress.search.students import (
    Design,
    Services,
    finalists,
    judge_students,
    nearest,
    screened,
)
from edgecompress.verdict import Evidence, judge


def host(**budget: float) -> Profile:
    return Profile.model_validate(
        {"name": "here", "device": {"description": "here", "host": True}, "budget": budget}
    )


@dataclass
class MadeUp:
    """Cost students by made-up times in ms, and remember what was measured and how."""

    profile: Profile
    times: dict[str, float]
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def measure(self, models, carefully):
        self.asked += [(label, carefully) for label in models]
        return {label: self.once(label, 5 if carefully else 1) for label in models}

    def once(self, label: str, processes: int) -> Measurement:
        return measured([np.full(100, self.times[label])] * processes)

    def services(self) -> Services:
        return Services(
            work=lambda models: {
                label: Features(
                    *(0.0,) * 5, model.size_bytes / 1e6, *(0.0,) * 3, 1.0, 0.1, 0.0, 0.0
                )
                for label, model in models.items()
            },
            measure=self.measure,
            predict=lambda found, work: predict(found, self.profile, work),
            judge=lambda model, found, predicted: judge(
                self.profile, Evidence(model, found, predicted)
            ),
        )


def design(family: str, width: float, **sizes: int) -> Design:
    files = {s: OnnxModel(Path(f"/{s}"), "0" * 64, size) for s, size in sizes.items()}
    return Design(StudentSpec(family, width), 1000, files)


def test_with_made_up_costs_only_what_is_near_its_limit_is_measured_carefully():
    made = MadeUp(
        host(**{"latency_ms.p95": 1.0}),
        {"ds_cnn-w1-d1/fp32": 0.1, "ds_cnn-w2-d1/fp32": 0.9, "ds_cnn-w3-d1/fp32": 3.0},
    )
    designs = [design("ds_cnn", width, fp32=int(width) * 10**6) for width in (3.0, 1.0, 2.0)]
    offers = judge_students(designs, made.services())
    assert [o.spec.width for o in offers] == [1.0, 2.0, 3.0]  # by operations
    assert [o.verdict.status for o in offers] == ["pass", "pass", "fail"]
    assert [label for label, carefully in made.asked if carefully] == ["ds_cnn-w2-d1/fp32"]
    assert "in one process" in offers[0].verdict.checks[0].reason
    assert "over 5 processes" in offers[1].verdict.checks[0].reason
    assert offers[2].latency_ms.p50 == 3.0


def test_with_made_up_costs_a_file_that_is_too_large_is_not_measured():
    made = MadeUp(
        host(**{"latency_ms.p95": 1.0, "model_size_mb": 1.0}), {"ds_cnn-w1-d1/int8-static": 0.2}
    )
    sized = {"fp32": 2_000_000, "int8-static": 500_000}
    offers = judge_students(
        [design("ds_cnn", 1.0, **sized), design("ds_cnn", 9.0, fp32=8_000_000)], made.services()
    )
    assert [label for label, _ in made.asked] == ["ds_cnn-w1-d1/int8-static"]
    small, large = offers
    assert (small.scheme, small.size_bytes, small.fits) == ("int8-static", 500_000, True)
    assert (large.verdict.status, large.latency_ms, large.peak_memory_bytes) == ("fail", None, None)


def test_with_made_up_costs_the_quickest_file_that_may_fit_is_judged():
    times = {"ds_cnn-w1-d1/fp32": 0.2, "ds_cnn-w1-d1/int8-static": 0.1}
    made = MadeUp(host(**{"latency_ms.p95": 1.0}), times)
    (offer,) = judge_students(
        [design("ds_cnn", 1.0, fp32=10, **{"int8-static": 10})], made.services()
    )
    assert (offer.scheme, offer.latency_ms.p50) == ("int8-static", 0.1)


def test_an_absent_device_is_predicted_and_one_process_tells_the_memory():
    device = load_profile("android-low")
    made = MadeUp(device, {"ds_cnn-w1-d1/fp32": 0.2, "ds_cnn-w1-d1/int8-static": 0.1})
    (offer,) = judge_students(
        [design("ds_cnn", 1.0, fp32=1000, **{"int8-static": 900})], made.services()
    )
    assert len(made.asked) == 1
    assert not made.asked[0][1]
    by_budget = {check.budget: check for check in offer.verdict.checks}
    assert by_budget["latency_ms.p95"].basis == "predicted"
    assert by_budget["peak_memory_mb"].basis == "host"
    assert offer.fits
    assert offer.peak_memory_bytes == 30_000_000


@pytest.mark.parametrize(
    ("ms", "status"),
    [(0.6, "pass"), (0.7, "inconclusive"), (1.9, "inconclusive"), (2.1, "fail")],
)
def test_one_process_settles_a_time_that_is_far_from_its_limit(ms, status):
    profile = host(**{"latency_ms.p95": 1.0})
    model = OnnxModel(Path("/m"), "0" * 64, 10)
    verdict = judge(profile, Evidence(model, measured([np.full(100, ms)])))
    assert verdict.status == "inconclusive"
    assert screened(verdict).status == status


def test_one_process_settles_nothing_that_is_predicted():
    device = load_profile("android-low").model_copy(
        update={"budget": host(**{"latency_ms.p95": 1}).budget}
    )
    prediction = predict(None, device, Features(1e3, *(0.0,) * 8, 1.0, 0.1, 0.0, 0.0))
    verdict = judge(device, Evidence(OnnxModel(Path("/m"), "0" * 64, 10), None, prediction))
    assert screened(verdict) == verdict


def offer(family: str, macs: float, status: str = "pass") -> StudentOffer:
    spec = StudentSpec(family, macs)
    return StudentOffer(spec, 1, macs, "fp32", 1, None, None, Verdict(status, (), ""))


def test_the_largest_that_fit_go_on_one_of_each_family_first():
    offers = [offer("ds_cnn", 9.0), offer("ds_cnn", 8.0), offer("resnet8", 3.0)]
    offers += [offer("resnet8", 2.0), offer("mobilenet_v1", 50.0, "fail")]
    named = partial(map, lambda o: (o.spec.family, o.macs_m))
    assert list(named(finalists(offers, 3))) == [("ds_cnn", 9.0), ("resnet8", 3.0), ("ds_cnn", 8.0)]
    assert list(named(finalists(offers, 1))) == [("ds_cnn", 9.0)]
    assert finalists([offer("ds_cnn", 1.0, "inconclusive")], 3) == ()


def test_where_none_fits_the_one_nearest_to_its_budgets_is_found():
    made = MadeUp(host(model_size_mb=1.0), {})
    offers = judge_students(
        [design("ds_cnn", w, fp32=int(w * 10**6)) for w in (5.0, 3.0, 4.0)], made.services()
    )
    assert nearest(offers).spec.width == 3.0
    assert made.asked == []
