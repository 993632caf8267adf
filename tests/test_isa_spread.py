"""The spread of scores between processors: its bounds, the fleet's members, the budget in a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import blobs
import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.cli.data import Samples
from edgecompress.cli.spreading import Elsewhere
from edgecompress.errors import ChildFailedError
from edgecompress.pipeline import spread as pipeline_spread
from edgecompress.pipeline.candidates import export_network
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.networks import Network
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.spread import with_isa_spread
from edgecompress.profiles import Device, Profile, load_profile
from edgecompress.recipe import AcceptSettings, Recipe
from edgecompress.records import BudgetCheck, Candidate, Verdict
from edgecompress.runtime import admit
from edgecompress.verifying import fleet as fleets
from edgecompress.verifying.budget import judge_spread
from edgecompress.verifying.emulators import Kits
from edgecompress.verifying.fleet import NO_VNNI, Member, members
from edgecompress.verifying.machines import RefusedError, native
from edgecompress.verifying.spread import largest_spread

HERE, HASWELL, A53 = Member("this host (x86-vnni)"), Member("haswell"), Member("cortex-a53")
SERVERS = Device(description="servers", host=True, fleet=("x86-vnni", "x86-avx2", "arm64"))


# --- the figure


@given(st.lists(st.lists(st.integers(0, 1), min_size=20, max_size=20), min_size=2, max_size=4))
@settings(deadline=None)  # a busy machine is no slow test
def test_a_spread_lies_within_its_bounds_in_any_order(rows: list[list[int]]) -> None:
    scores = {f"p{i}": row for i, row in enumerate(rows)}
    found = largest_spread(scores)
    assert 0 <= found.low <= found.value <= found.high
    assert found.value == pytest.approx((max(map(sum, rows)) - min(map(sum, rows))) / 20)
    backwards = largest_spread(dict(reversed(scores.items())))
    assert (backwards.value, backwards.low, backwards.high) == (found.value, found.low, found.high)


def test_a_real_spread_is_beyond_doubt() -> None:
    good, bad = [1] * 1000, [1] * 900 + [0] * 100
    found = largest_spread({"a": good, "b": bad, "c": good})
    assert (found.value, found.lowest, found.samples) == (pytest.approx(0.1), "b", 1000)
    assert 0.07 < found.low < 0.1 < found.high < 0.12


# --- who is in a fleet


def test_what_this_host_is_runs_natively(tmp_path: Path) -> None:
    found = members(SERVERS, SERVERS.fleet, "x86-vnni", Kits(tmp_path))
    assert [m.name for m in found] == [
        "this host (x86-vnni)",
        "cortex-a53",
        "cortex-a76",
        "haswell",
    ]
    assert (found[0].processor, found[0].missing) == (None, "")
    assert all(m.missing for m in found[1:])


def test_an_arm_host_answers_for_arm_and_nothing_imitates_vnni(tmp_path: Path) -> None:
    found = members(SERVERS, SERVERS.fleet, "arm64", Kits(tmp_path))
    assert [m.name for m in found] == ["this host (arm64)", "x86-vnni", "haswell"]
    assert found[1].missing == NO_VNNI


def test_without_a_fleet_a_device_stands_for_itself(tmp_path: Path) -> None:
    board = load_profile("raspberry-pi-4").device
    assert [m.name for m in members(board, ("arm64",), None, Kits(tmp_path))] == ["cortex-a72"]
    phones = load_profile("android-flagship").device
    found = members(phones, ("arm64",), "x86-vnni", Kits(tmp_path))
    assert [m.name for m in found] == ["cortex-a53", "cortex-a76", "max"]


# --- the budget


def judged(fleet: Sequence[Member], limit: float = 0.05, **wrong: object) -> BudgetCheck:
    """Score 1000 samples on each member: 30 fewer right on `haswell`."""

    def scores_on(member: Member) -> list[float]:
        if (error := wrong.get(member.name)) is not None:
            assert isinstance(error, Exception)
            raise error
        return [1.0] * 970 + [0.0 if member is HASWELL else 1.0] * 30

    return judge_spread(limit, "accuracy", fleet, scores_on)


@pytest.mark.parametrize(
    ("limit", "status"), [(0.05, "pass"), (0.03, "inconclusive"), (0.01, "fail")]
)
def test_a_spread_is_judged_by_its_bounds(limit: float, status: str) -> None:
    check = judged((HERE, A53, HASWELL), limit)
    assert (check.budget, check.unit, check.basis) == ("isa_spread", "accuracy", "measured")
    assert (check.value, check.status) == (pytest.approx(0.03), status)
    words = "between this host (x86-vnni) and haswell, paired on 1000 samples"
    assert check.reason.startswith(f"0.03 accuracy {words}, ")


def test_what_cannot_run_leaves_it_open_and_says_how() -> None:
    missing = Member("haswell", missing="not set up; run 'edgecompress verify --set-up'")
    check = judged((HERE, missing))
    assert (check.status, check.value) == ("inconclusive", None)
    assert check.reason == "haswell: not set up; run 'edgecompress verify --set-up'"
    check = judged((HERE, HASWELL), haswell=ChildFailedError("m.onnx: not done on haswell"))
    assert (check.status, check.reason) == ("inconclusive", "m.onnx: not done on haswell")
    check = judged(())
    assert (check.status, check.reason) == (
        "inconclusive",
        "the profile names no device.fleet, and no device.isa",
    )


def test_a_file_that_is_refused_on_one_of_them_fails() -> None:
    check = judged((HERE, HASWELL), haswell=RefusedError("no kernel"))
    assert (check.status, check.value) == ("fail", None)
    assert check.reason == "ONNX Runtime refuses it on haswell: no kernel"


def test_a_fleet_of_one_cannot_disagree() -> None:
    check = judged((HERE,), limit=0.0)
    assert (check.status, check.value, check.basis) == ("pass", 0.0, "exact")
    assert "for the fleet is this host (x86-vnni) alone" in check.reason


# --- in a run


@pytest.fixture
def imitated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every processor of the fleet be this host."""
    monkeypatch.setattr(fleets, "absence", lambda isa, kits: "")
    monkeypatch.setattr(fleets, "emulated", lambda kits, processor: native())
    yield


def checked(folder: Path, accept: AcceptSettings) -> tuple[Verdict, int, list[str]]:
    """Return the verdict with the spread of an untrained student, the reads, and what was said."""
    recipe = Recipe(task="digits", accept=accept)
    profile: Profile = load_profile("android-cpu")
    said: list[str] = []
    torch.manual_seed(0)
    with open_run(recipe, folder, RunOptions(say=said.append), blobs.task()) as run:
        student = Network("student", blobs.student().eval(), "as drawn")
        whole: Candidate = export_network(run, student, "student-fp32")
        verdict = with_isa_spread(run, profile, whole, Verdict("pass", (), ""))
        return verdict, run.store.finished("test"), said


@pytest.mark.usefixtures("imitated")
def test_a_recipe_that_asks_gets_the_check_and_its_reads_are_counted(tmp_path: Path) -> None:
    accept = AcceptSettings(max_drop=0.1, max_isa_spread=0.1, isa_samples=50)
    verdict, reads, said = checked(tmp_path, accept)
    (check,) = verdict.checks
    assert (verdict.status, check.budget, check.value) == ("pass", "isa_spread", 0.0)
    assert "paired on 50 samples" in check.reason
    assert reads == 2
    assert "test score of student-fp32 on cortex-a53: started" in said
    again, reads, said = checked(tmp_path, accept)
    assert (again, reads) == (verdict, 2)
    assert not [line for line in said if line.endswith("started")]


def test_a_recipe_that_does_not_ask_pays_nothing(tmp_path: Path) -> None:
    verdict, reads, _ = checked(tmp_path, AcceptSettings(max_drop=0.1))
    assert (verdict, reads) == (Verdict("pass", (), ""), 0)


def test_without_the_emulators_the_check_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.verifying.emulators.obstacle", lambda: "")
    monkeypatch.setattr(pipeline_spread, "default_cache", lambda: tmp_path / "none")
    here = replace(pipeline_spread.describe_host(), isa=("avx2",))
    monkeypatch.setattr(pipeline_spread, "describe_host", lambda: here)
    accept = AcceptSettings(max_drop=0.1, max_isa_spread=0.1)
    verdict, reads, _ = checked(tmp_path / "out", accept)
    assert (verdict.status, reads) == ("inconclusive", 0)
    assert "run 'edgecompress verify --set-up --isa arm64" in verdict.checks[0].reason


@pytest.mark.slow
def test_int8_ships_beside_what_real_kernels_answer(kits: Kits, tmp_path: Path) -> None:
    training = {"epochs": 4, "batch_size": 32, "learning_rate": 1e-2, "precision": "fp32"}
    sections = {
        "teacher": training,
        "distill": training,
        "quantize": {"schemes": ["static"], "calibration_samples": 64},
        "accept": {"max_drop": 0.2, "max_isa_spread": 0.1, "isa_samples": 60},
    }
    recipe = Recipe.model_validate(sections).model_copy(update={"measure": None})
    device = Device(description="clouds", host=True, fleet=("x86-avx2", "arm64"))
    profile = load_profile("cpu-1core").model_copy(update={"device": device, "name": "clouds"})
    report = compress(recipe, profile, tmp_path, task=blobs.task())
    assert report.chosen == "student-int8-static"
    check = report.verdict.checks[-1]
    assert (check.budget, check.status, check.basis) == ("isa_spread", "pass", "measured")
    assert "paired on 60 samples" in check.reason
    assert any(
        note.startswith("int8 weights use 7 bits: the fleet of clouds") for note in report.notes
    )
    done = [p.name for p in (tmp_path / "stages").iterdir() if p.name.startswith("test-")]
    assert report.test_reads == len(done) == 6  # teacher, int8, control; three kinds of processors


# --- in a check


def spread_of_file(
    folder: Path, samples: Samples | None, limit: float | None = 0.1, said: list[str] | None = None
) -> Verdict:
    """Return what a check says of a tiny model's spread, on android-cpu's fleet."""
    facts = admit(tiny_models.save_mlp(folder / "model.onnx"))
    accept = AcceptSettings(max_drop=0.1, max_isa_spread=limit, isa_samples=40)
    tell = (said if said is not None else []).append
    elsewhere = Elsewhere(facts, accept, samples, tell)
    return elsewhere.with_spread(Verdict("pass", (), ""), load_profile("android-cpu"))


@pytest.mark.usefixtures("imitated")
def test_a_check_judges_the_spread_that_its_recipe_limits(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    samples, said = Samples("here", {"x": x}, np.zeros(60, np.int64)), list[str]()
    verdict = spread_of_file(tmp_path, samples, 0.5, said)
    (check,) = verdict.checks
    assert (check.budget, check.status, check.value) == ("isa_spread", "pass", 0.0)
    assert "paired on 40 samples" in check.reason
    assert said == [f"model.onnx: scoring on {name}" for name in ("cortex-a53", "cortex-a76")]


@pytest.mark.usefixtures("imitated")
@pytest.mark.parametrize("refused", [False, True])
def test_profiles_share_the_answers_of_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def refuse(*_: object) -> None:
        raise RefusedError("no kernel")

    if refused:
        monkeypatch.setattr(fleets, "outputs_on", refuse)
    said = list[str]()
    facts = admit(tiny_models.save_mlp(tmp_path / "model.onnx"))
    accept = AcceptSettings(max_drop=0.1, max_isa_spread=0.5, isa_samples=40)
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    samples = Samples("here", {"x": x}, np.zeros(60, np.int64))
    elsewhere = Elsewhere(facts, accept, samples, said.append)
    found = [
        elsewhere.with_spread(Verdict("pass", (), ""), load_profile(name)).checks[0]
        for name in ("android-low", "android-cpu", "android-flagship")
    ]
    assert {check.status for check in found} == ({"fail"} if refused else {"pass"})
    asked = [line.rpartition(" ")[2] for line in said]
    assert asked == (["cortex-a53"] if refused else ["cortex-a53", "cortex-a76", "max"])


def test_a_check_without_labels_or_limit_says_so_or_nothing(tmp_path: Path) -> None:
    (check,) = spread_of_file(tmp_path, None).checks
    assert (check.status, check.reason) == ("inconclusive", "not scored; give data with labels")
    assert spread_of_file(tmp_path, None, limit=None).checks == ()
