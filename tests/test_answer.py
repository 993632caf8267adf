"""The end of the chain: nothing slower than what went in, and no look at the test split before."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import blobs
import pytest
import torch

from edgecompress.pipeline.answer import Choice, prove, settle
from edgecompress.pipeline.candidates import export_network, scored
from edgecompress.pipeline.choice import without_slower
from edgecompress.pipeline.quantized import quantize_candidate
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.profiles import load_profile
from edgecompress.recipe import load_recipe
from edgecompress.records import (
    Candidate,
    LatencySamples,
    Measurement,
    OnnxModel,
    Quantiles,
    Status,
    Verdict,
)


def candidate(label: str, p50: float, dropped: str | None = None) -> Candidate:
    quantiles = Quantiles(p50, p50, p50, p50)
    samples = LatencySamples((p50,), (0.0,), 1, 1.0, 1, 1)
    measurement = Measurement((samples,), quantiles, quantiles, 1.0, 1, 1, 1, "here", ())
    model = OnnxModel(Path(f"/{label}.onnx"), "0" * 64, 1000)
    return Candidate(label, model, "given", None, (), measurement, None, dropped)


def dropped(
    candidates: list[Candidate], statuses: Mapping[str, Status] | None = None
) -> dict[str, str]:
    verdicts = {c.label: Verdict((statuses or {}).get(c.label, "pass"), (), "") for c in candidates}
    return {c.label: c.dropped for c in without_slower(candidates, verdicts) if c.dropped}


def test_what_is_slower_than_its_origin_is_dropped() -> None:
    four = [
        candidate("student-fp32", 1.0),
        candidate("student-int8-static", 1.3),
        candidate("pruned-fp32", 3.0),
        candidate("pruned-int8-static", 1.1),  # faster than pruned-fp32, not than the student
    ]
    assert dropped(four) == {
        "student-int8-static": "slower than student-fp32: 1.3 ms against 1 ms",
        "pruned-fp32": "slower than student-fp32: 3 ms against 1 ms",
        "pruned-int8-static": "slower than student-fp32: 1.1 ms against 1 ms",
    }


def test_what_is_as_fast_stays() -> None:
    assert dropped([candidate("student-fp32", 1.0), candidate("pruned-fp32", 1.01)]) == {}


@pytest.mark.parametrize(("status", "stays"), [("fail", True), ("inconclusive", False)])
def test_an_origin_over_budget_is_no_reason(status: Status, stays: bool) -> None:
    two = [candidate("student-fp32", 1.0), candidate("pruned-fp32", 2.0)]
    assert (dropped(two, {"student-fp32": status}) == {}) is stays


def test_an_origin_without_parity_is_no_reason() -> None:
    two = [candidate("student-fp32", 1.0, "parity failed"), candidate("pruned-fp32", 2.0)]
    assert dropped(two) == {"student-fp32": "parity failed"}


def test_the_test_split_is_out_of_sight_until_the_choice_is_made(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (tmp_path / "recipe.toml").write_text(blobs.RECIPE)
    (tmp_path / "blobs.py").write_text(Path(blobs.__file__).read_text())
    recipe, profile = load_recipe(tmp_path / "recipe.toml"), load_profile("android-cpu")
    with open_run(recipe, tmp_path / "out", RunOptions()) as run:
        blind = replace(run, task=replace(run.task, test=None))  # type: ignore[arg-type]
        teacher = obtain_teacher(blind)
        student = train_student(blind, teacher)
        pruned = prune_student(blind, student, teacher)
        assert pruned is not None
        floats = [export_network(blind, n, f"{n.label}-fp32") for n in (student, pruned)]
        int8 = [made for one in floats for made in quantize_candidate(blind, profile, one)]
        candidates = [scored(blind, one, "validation") for one in (*floats, *int8)]
        choice = settle(blind, profile, candidates, None, teacher)
        assert choice.chosen is not None
        assert run.store.finished("test") == 0

        slow = Choice(choice.label, "chosen", choice.candidates, candidate("teacher", 1e-9))
        report = prove(run, profile, slow, (student, pruned), teacher)
    torch.set_num_threads(threads)
    assert report.test_reads in (2, 3)
    assert any(f"{choice.label} is slower here than the teacher: " in n for n in report.notes)


def test_the_reason_is_the_one_given_while_all_stood_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """With faked measuring: only the winner is measured in full and passes; it had rivals."""
    two, full = [candidate("student-fp32", 2.0), candidate("student-int8-static", 1.0)], set()

    def measured(run, profile, models, processes, settled=None):
        full.update(c.label for c in models if processes is None)
        return tuple(models)

    def judged(run, profile, one, teacher, score):
        return Verdict("pass" if one.label in full else "inconclusive", (), "")

    monkeypatch.setattr("edgecompress.pipeline.answer.measured", measured)
    monkeypatch.setattr("edgecompress.pipeline.answer.teacher_score", lambda *given: None)
    monkeypatch.setattr("edgecompress.pipeline.answer._judged", judged)
    run = SimpleNamespace(recipe=SimpleNamespace(measure=None, prune=None), options=RunOptions())
    choice = settle(run, load_profile("cpu-1core"), two, None, None)  # type: ignore[arg-type]
    assert choice.label == "student-int8-static"
    assert "the fastest of the 2 that tie" in choice.reason
