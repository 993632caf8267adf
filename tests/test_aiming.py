"""Pruning to a target inside the chain, and what comes of a network that gains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import blobs
import numpy as np
import pytest
import torch
from command_line import quick_profile
from evidence import measured
from made_up_curves import CURVES

from edgecompress.cli.main import main
from edgecompress.errors import RecipeError
from edgecompress.pipeline import aiming
from edgecompress.pipeline.choice import without_slower
from edgecompress.pipeline.networks import Network
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.profiles import Profile
from edgecompress.recipe import PruneSettings, load_recipe
from edgecompress.records import Candidate, OnnxModel, PruningSearch, UsualPace, Verdict

MS_PER_BYTE = 1e-5


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a model take as long as its file is large, on a machine of made-up curves."""

    def measure(models, inputs, *_, **__):
        size = {label: model.size_bytes for label, model in models.items()}
        return {n: measured([np.full(100, MS_PER_BYTE * size[n])] * 3) for n in models}

    monkeypatch.setattr(aiming, "measure", measure)
    monkeypatch.setattr(aiming, "kept_curves", lambda *_, **__: CURVES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TASK = Path(blobs.__file__).read_text().replace("widths=(8,), blocks=(1,)", "(32, 48), (1, 1)")
RECIPE = blobs.RECIPE.replace("pruning_ratio = 0.5\nround_to = 2\n", "").replace(
    "epochs = 3", "epochs = 1"
)


def pruned_to(
    folder: Path, target: str, profile: Profile | None = None, *overrides: str
) -> tuple[Network, Network, PruningSearch]:
    """Return the student, the pruned network and how it was found."""
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "blobs.py").write_text(TASK)
    recipe = load_recipe(folder / "recipe.toml", (f"prune.target={target}", *overrides))
    with open_run(recipe, folder / "out", RunOptions()) as run:
        teacher = obtain_teacher(run)
        student = train_student(run, teacher)
        pruned = prune_student(run, student, teacher, profile)
        assert prune_student(run, student, teacher, profile).digest == pruned.digest
    assert pruned is not None
    assert pruned.pruning is not None
    assert pruned.pruning.search is not None
    return student, pruned, pruned.pruning.search


def host(**budget: float) -> Profile:
    return Profile.model_validate(
        {"name": "here", "device": {"description": "here", "host": True}, "budget": budget}
    )


def test_a_share_of_the_latency(tmp_path: Path) -> None:
    _, pruned, search = pruned_to(tmp_path, "0.6")
    assert 0.5 <= search.found <= 0.6  # blocks of 16 channels leave gaps
    assert (search.reached, search.gained, search.start) == (True, True, 1.0)
    assert len(search.trials) <= 6
    assert search.reason == (
        f"pruning: asked for 0.6 of the unpruned latency_ms.p50, got {search.found:.4g} in "
        f"{len(search.trials)} exported trial{'s' if len(search.trials) != 1 else ''}"
    )
    assert pruned.training is not None  # distilled again
    assert search.score is not None
    assert search.score.split == "validation"
    assert all(trial.score and 0 <= trial.score.value <= 1 for trial in search.trials)


@pytest.mark.parametrize("figure", ["macs", "size_bytes"])
@pytest.mark.parametrize("share", [True, False])
def test_macs_and_bytes_are_landed_on_without_a_measurement(
    tmp_path: Path, figure: str, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiming, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(aiming, "kept_curves", lambda *_: pytest.fail("timed"))
    limit = 0.5 if share else {"macs": 700_000, "size_bytes": 120_000}[figure]
    _, pruned, search = pruned_to(tmp_path, f"{{{figure} = {limit}}}")
    assert search.reached
    assert search.found <= limit
    assert search.found >= 0.9 * limit
    if figure == "macs":
        assert pruned.pruning is not None
        whole = pruned.pruning.macs_before if share else 1
        assert search.found == pruned.pruning.macs_after / whole


def test_what_the_budget_allows(tmp_path: Path) -> None:
    whole = MS_PER_BYTE * 260_000
    profile = host(**{"latency_ms.p50": whole / 2, "latency_ms.p95": whole})
    _, _, search = pruned_to(tmp_path, "budget", profile)
    assert search.figure == "share of the latency budget"
    assert search.start > 1
    assert 0.8 <= search.found <= 0.95
    assert search.reached


def test_the_prune_command_takes_a_profile_for_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE)
    Path("blobs.py").write_text(TASK)
    quick = quick_profile(tmp_path, f"latency_ms.p95 = {MS_PER_BYTE * 200_000}")
    asked = ["prune", "recipe.toml", "--set", "prune.target=budget"]
    assert main(asked) == 2
    assert "give --profile NAME, or a figure" in capsys.readouterr().err
    assert main([*asked, "--profile", quick]) == 0
    assert "pruning: asked for 0.95 share of the latency budget" in capsys.readouterr().err


@pytest.mark.parametrize(("share", "p50"), [(False, 10.0), (True, 10.4)])
def test_a_limit_is_aimed_at_by_the_usual_pace(share: bool, p50: float) -> None:
    found = measured([np.full(100, 10.4)] * 3)
    slow = tuple(replace(p, reference_ms=(0.26,)) for p in found.processes)
    found = replace(found, processes=slow, usual=UsualPace(0.25, 9))
    assert aiming.Goal("latency_ms.p50", 10.0, share).times(found).p50 == pytest.approx(p50)


def test_a_budget_needs_a_profile_with_a_latency(tmp_path: Path) -> None:
    settings = PruneSettings(target="budget")
    with pytest.raises(RecipeError) as caught:
        aiming.goal_of(settings, None)
    assert str(caught.value) == (
        'recipe: prune.target = "budget" is set by the profile of a device; give --profile NAME, '
        "or a figure"
    )
    with pytest.raises(RecipeError, match="profile here limits no latency; give a figure, such as"):
        aiming.goal_of(settings, host(model_size_mb=1.0))


def test_a_network_that_is_there_already_stays_whole(tmp_path: Path) -> None:
    student, pruned, search = pruned_to(tmp_path, '{"latency_ms.p50" = 50.0}')
    assert (search.trials, search.gained, search.reached) == ((), False, True)
    assert search.reason.endswith("asked for 50 latency_ms.p50, the network is there already")
    assert pruned.training is None  # nothing to recover from
    for name, value in student.module.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, pruned.module.state_dict()[name])


def test_what_is_no_faster_is_not_gained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        aiming, "measure", lambda models, *_, **__: {n: measured([np.ones(100)]) for n in models}
    )
    _, pruned, search = pruned_to(tmp_path, "0.5")
    assert not search.gained
    assert not search.reached
    assert "nothing tried beats the unpruned network by more than the noise" in search.reason
    assert pruned.training is None


@pytest.mark.parametrize(
    "given", ["fast", 0.0, 1.0, -2, True, {"latency_ms.p95": 2.0}, {"macs": 0}, {}, [0.5]]
)
def test_what_is_no_target_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match='expected a share above 0 and below 1, "budget", or'):
        PruneSettings(target=given)


@pytest.mark.parametrize("also", ["pruning_ratio", "round_to", "head_ratio"])
def test_a_target_finds_the_widths_by_itself(also: str) -> None:
    with pytest.raises(ValueError, match=f"target finds the width .* and {also} is given too"):
        PruneSettings(target=0.5, **{also: 1 if also == "round_to" else 0.5})


def candidate(label: str, ms: float) -> Candidate:
    cost = measured([np.full(100, ms)] * 3)
    model = OnnxModel(Path(f"{label}.onnx"), "", 1000)
    return Candidate(label, model, label.partition("-")[2], None, (), cost, None, None)


def dropped(*candidates: Candidate, status: str = "pass", gains: bool = True) -> dict[str, str]:
    verdicts = {c.label: Verdict(status, (), "") for c in candidates}
    found = without_slower(candidates, verdicts, gains)
    return {c.label: c.dropped for c in found if c.dropped}


def test_a_pruned_model_must_beat_its_input_by_more_than_the_noise() -> None:
    student, equal = candidate("student-fp32", 1.0), candidate("pruned-fp32", 0.98)
    assert dropped(student, equal) == {
        "pruned-fp32": "not faster than student-fp32 beyond the noise: 0.98 ms against 1 ms"
    }
    assert dropped(student, candidate("pruned-fp32", 0.96)) == {}
    assert dropped(student, equal, gains=False) == {}  # single weights at zero
    assert dropped(student, equal, status="fail") == {}  # its input did not fit
    slower = dropped(student, candidate("pruned-fp32", 1.5))
    assert slower == {"pruned-fp32": "slower than student-fp32: 1.5 ms against 1 ms"}
    quick = replace(candidate("student-static", 0.5), scheme="static")
    assert "pruned-static" in dropped(student, quick, candidate("pruned-static", 0.5))
