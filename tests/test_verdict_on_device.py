"""The judge where the measurement was made on the profile's own device, over ssh or adb."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence import MODEL, measured

from edgecompress.measuring.child import UNCOUNTED
from edgecompress.profiles import Budget, Device, PredictionBasis, Profile
from edgecompress.records import BudgetCheck, Measurement, Prediction, Quantiles
from edgecompress.verdict import Evidence, decided, judge

PREDICTION = Prediction(Quantiles(10.0, 45.0, 45.0, 67.5), 1 / 3, 3.0, 1.5, "a table")
STEADY = [np.full(50, 8.0)] * 5


def phone(p95: float = 10.0, **budget: float) -> Profile:
    return Profile(
        name="phone",
        device=Device(description="a phone"),
        budget=Budget.model_validate({"latency_ms.p95": p95, **budget}),
        prediction=PredictionBasis(host_ratio=2.0, source="a table"),
    )


def p95_of(device: Measurement, profile: Profile | None = None) -> BudgetCheck:
    return judge(profile or phone(), Evidence(MODEL, device=device)).checks[0]


def test_the_device_is_judged_and_neither_the_host_nor_the_prediction() -> None:
    here = measured([np.full(50, 50.0)] * 5)
    verdict = judge(phone(), Evidence(MODEL, here, PREDICTION, device=measured(STEADY)))
    assert [(c.budget, c.status, c.basis) for c in verdict.checks] == [
        ("latency_ms.p95", "pass", "on-device")
    ]


def test_interruptions_stay_in_and_both_figures_are_shown() -> None:
    check = p95_of(measured(STEADY, waited=4.0))
    assert (check.status, check.value) == ("fail", 12.0)
    assert check.reason == (
        "12 ms over 5 processes: 20.0% over the limit; it would pass a limit of 12.6 ms "
        "(8 ms without interruptions)"
    )


def test_interruptions_are_no_disturbance_there_and_need_not_be_counted() -> None:
    assert p95_of(measured(STEADY, uncontrolled=(UNCOUNTED,))).status == "pass"
    check = p95_of(measured(STEADY, uncontrolled=("not pinned to a core",)))
    assert check.status == "inconclusive"
    assert "disturbed (not pinned to a core)" in check.reason


def test_memory_and_cold_start_are_the_devices_too() -> None:
    profile = phone(peak_memory_mb=20, cold_start_ms=500)
    here, there = measured(STEADY), measured(STEADY)
    small = tuple(replace(p, peak_memory_bytes=10_000_000) for p in there.processes)
    evidence = Evidence(MODEL, here, device=replace(there, processes=small))
    found = {c.budget: c for c in judge(profile, evidence).checks}
    assert {c.basis for c in found.values()} == {"on-device"}
    assert found["peak_memory_mb"].reason == "10 MB over 5 processes: 50.0% under the limit"


def test_a_device_that_counts_no_memory_leaves_it_open() -> None:
    there = measured(STEADY)
    blind = tuple(replace(p, peak_memory_bytes=0) for p in there.processes)
    evidence = Evidence(MODEL, device=replace(there, processes=blind))
    check = judge(phone(peak_memory_mb=20), evidence).checks[-1]
    assert (check.status, check.basis) == ("inconclusive", "none")
    assert check.reason == "this system does not count memory"


@pytest.mark.parametrize(("milliseconds", "settled"), [(8.0, True), (9.95, False)])
def test_looks_end_by_what_the_device_shows(milliseconds: float, settled: bool) -> None:
    found = measured([np.full(50, milliseconds - 4.0)] * 5, waited=4.0)
    assert decided(phone(), on_device=True)("m", found) is settled
    assert decided(phone())("m", found)  # on the host nothing of this profile is timed


def test_a_host_profile_stays_with_the_host() -> None:
    profile = phone().model_copy(
        update={"device": Device(description="here", host=True), "prediction": None}
    )
    check = judge(profile, Evidence(MODEL, measured(STEADY))).checks[0]
    assert (check.basis, check.status) == ("measured", "pass")
