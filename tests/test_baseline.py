"""A model beside the one it is to replace: what is compared, how surely, and what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import quick_profile, result
from evidence import evaluation, measured
from onnx import helper
from tiny_models import save, value

from edgecompress.baseline import Tolerance, Version, compare_latency, compare_with_baseline
from edgecompress.cli.main import main
from edgecompress.measuring import lock
from edgecompress.records import BudgetCheck, Measurement, Metric

LOOKS = (5, 10, 20)


def pair(ratio: float, seed: int, processes: int = 5) -> tuple[Measurement, Measurement]:
    """Return a baseline and a model `ratio` times as slow, whose machine drifts by 20 %."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(1.0, 1.2, processes)
    made = []
    for factor in (1.0, ratio):
        noise = 1 + 0.01 * rng.standard_normal(processes)
        calls = [
            factor * d * n * (1 + rng.gamma(2, 0.02, 60)) for d, n in zip(drift, noise, strict=True)
        ]
        made.append(measured(calls))
    return made[0], made[1]


def statuses(ratio: float, sets: int = 60) -> list[str]:
    return [compare_latency(*pair(ratio, seed), 0.05, LOOKS).status for seed in range(sets)]


def by_budget(checks: tuple[BudgetCheck, ...]) -> dict[str, BudgetCheck]:
    return {check.budget: check for check in checks}


# Latency


def test_drift_that_meets_both_alike_decides_nothing_wrongly() -> None:
    assert statuses(1.0).count("pass") >= 57
    assert statuses(1.10).count("fail") >= 57
    at_the_limit = statuses(1.05)
    assert max(at_the_limit.count("pass"), at_the_limit.count("fail")) <= 6  # 5 % each


def test_a_faster_model_passes_and_says_how_much() -> None:
    check = compare_latency(measured([np.full(9, 2.0)] * 5), measured([np.full(9, 1.5)] * 5), 0, ())
    assert (check.budget, check.unit, check.limit) == ("baseline.latency_ms.p50", "x", 1.0)
    assert (check.status, check.value) == ("pass", pytest.approx(0.75))
    assert check.reason.startswith("0.75 x the baseline's 2 ms over 5 pairs of processes")
    assert check.reason.endswith("25.0% under the limit")


def test_a_slower_model_fails_and_says_what_would_pass() -> None:
    check = compare_latency(*pair(1.2, 0), 0.05, LOOKS)
    assert check.status == "fail"
    assert "over the limit; it would pass a limit of 1.2" in check.reason


def test_two_pairs_say_nothing() -> None:
    check = compare_latency(*pair(3.0, 0, processes=2), 0.05, LOOKS)
    assert (check.status, check.low, check.high) == ("inconclusive", None, None)
    assert "measure more processes" in check.reason


def test_only_processes_that_ran_in_turns_are_paired() -> None:
    old, new = pair(1.0, 1, processes=20)[0], pair(1.0, 1)[1]
    assert "over 5 pairs of processes" in compare_latency(old, new, 0.05, LOOKS).reason


# Size and score


def test_size_is_exact() -> None:
    old = Version(1_000_000)
    for size, status in ((1_050_000, "pass"), (1_050_001, "fail")):
        (check,) = compare_with_baseline(old, Version(size), Tolerance(), LOOKS)
        assert (check.budget, check.basis, check.status) == (
            "baseline.model_size_mb",
            "exact",
            status,
        )
        assert check.reason.startswith("1.05 MB (the baseline: 1 MB): ")


@pytest.mark.parametrize(("lost", "status"), [(0, "pass"), (8, "inconclusive"), (40, "fail")])
def test_scores_on_the_same_samples_are_paired(lost: int, status: str) -> None:
    old = Version(1, evaluation=evaluation([1.0] * 1000))
    new = Version(1, evaluation=evaluation([0.0] * lost + [1.0] * (1000 - lost)))
    check = by_budget(compare_with_baseline(old, new, Tolerance(), LOOKS))["baseline.accuracy"]
    assert (check.status, check.unit, check.limit) == (status, "accuracy", 0.01)
    assert "lost, paired on 1000 validation samples" in check.reason


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize(
    ("worse_by", "status"), [(-0.2, "pass"), (0.012, "inconclusive"), (0.2, "fail")]
)
def test_a_score_from_a_report_is_compared_by_its_interval(
    higher_is_better: bool, worse_by: float, status: str
) -> None:
    sign = -1 if higher_is_better else 1
    old = Metric("m", 0.5, 0.48, 0.52, "test", higher_is_better)
    shift = 0.5 + sign * worse_by
    new = evaluation([shift] * 4, higher_is_better)
    check = compare_with_baseline(
        Version(1, metric=old), Version(1, evaluation=new), Tolerance(), ()
    )
    found = check[-1]
    assert (found.status, found.value) == (status, pytest.approx(worse_by))
    assert found.low <= found.value <= found.high
    assert "lost against the score in the baseline's report, not paired" in found.reason


def test_a_report_without_that_score_leaves_it_open() -> None:
    new = Version(1, evaluation=evaluation([1.0] * 9))
    check = compare_with_baseline(Version(1), new, Tolerance(), LOOKS)[-1]
    assert (check.status, check.basis) == ("inconclusive", "none")
    assert check.reason == "the baseline's report holds no accuracy on test"


# The command


@pytest.fixture
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch, measure_briefly: None) -> str:
    monkeypatch.setattr(lock, "COMMON", folder)
    return quick_profile(folder, "model_size_mb = 1")


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict, str]:
    """Return the checks against the baseline by name, and what stderr said."""
    main(["check", "model.onnx", *arguments, "--json"])
    out, err = capsys.readouterr()
    return {c["budget"]: c for c in json.loads(out)["checks"] if "baseline" in c["budget"]}, err


def test_the_baselines_file_is_measured_again_in_turns(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--profile", quick, "--baseline", "large.onnx", "--max-regression", "900%"]
    found, err = checked(capsys, *arguments)
    assert set(found) == {"baseline.latency_ms.p50", "baseline.model_size_mb"}
    latency = found["baseline.latency_ms.p50"]
    assert (latency["limit"], latency["status"], latency["basis"]) == (10.0, "pass", "measured")
    assert "note" not in err


def test_model_and_baseline_each_take_their_own_inputs(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node = helper.make_node("Relu", ["sound"], ["y"])
    graph = helper.make_graph([node], "m", [value("sound", "n")], [value("y", "n")])
    save(graph, folder / "old.onnx")
    arguments = ["--profile", quick, "--baseline", "old.onnx", "--max-regression", "900%"]
    found, _ = checked(capsys, *arguments, "--shape", "x:2x8", "--shape", "sound:16")
    assert set(found) == {"baseline.latency_ms.p50", "baseline.model_size_mb"}
    assert main(["check", "model.onnx", *arguments, "--shape", "smell:16"]) == 2
    assert "--shape: the model has no input 'smell'" in capsys.readouterr().err


def test_a_larger_model_than_the_baseline_fails(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--profile", quick, "--baseline", "model.onnx", "--max-regression", "100%"]
    assert main(["check", "large.onnx", *arguments]) == 1
    assert "baseline.model_size_mb" in result(capsys)


def test_accuracy_is_paired_where_both_files_are_here(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("data.npz", x=np.eye(8, dtype=np.float32), labels=np.arange(8))
    shutil.copy("model.onnx", "old.onnx")
    arguments = ["--profile", quick, "--baseline", "old.onnx", "--data", "data.npz"]
    found, _ = checked(capsys, *arguments)
    accuracy = found["baseline.accuracy"]
    assert (accuracy["value"], accuracy["limit"]) == (0.0, 0.01)
    assert "paired on 8 test samples" in accuracy["reason"]


def test_of_a_report_only_size_and_accuracy_are_compared_and_that_is_said(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("data.npz", x=np.eye(8, dtype=np.float32), labels=np.arange(8))
    data = ["--profile", quick, "--data", "data.npz"]
    main(["check", "model.onnx", *data, "--json"])
    Path("old.json").write_text(result(capsys))
    found, err = checked(capsys, *data, "--baseline", "old.json")
    assert set(found) == {"baseline.model_size_mb", "baseline.accuracy"}
    assert err == (
        "note: --baseline old.json: only size and accuracy are compared, for a report says nothing "
        "of speed here and now; give the model's file to compare latency\n"
    )


def test_of_a_fleets_report_the_model_of_the_same_name_counts(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", "model.onnx", "large.onnx", "--profile", quick, "--json"])
    Path("old.json").write_text(result(capsys))
    found, _ = checked(capsys, "--profile", quick, "--baseline", "old.json")
    size = found["baseline.model_size_mb"]
    assert size["value"] * 1.05 == pytest.approx(size["limit"])
    shutil.copy("model.onnx", "other.onnx")
    assert main(["check", "other.onnx", "--profile", quick, "--baseline", "old.json"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --baseline old.json: holds no check of 'other', only of large, model; give the "
        "report or the file of one model"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "chosen: Field required; expected a model's ONNX file, or what"),
        ("no json", "the file: Invalid JSON"),
        (None, "cannot be read (No such file or directory)"),
        ('{"chosen": null, "candidates": []}', "names no model; give the report of one"),
    ],
)
def test_a_baseline_that_is_no_report(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    if text is not None:
        Path("old.json").write_text(text)
    assert main(["check", "model.onnx", "--profile", quick, "--baseline", "old.json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: --baseline old.json: ")
    assert words in err


@pytest.mark.parametrize("share", ["-1%", "much", "nan", "2000%", "5", "inf"])
def test_a_share_that_is_none(quick: str, capsys: pytest.CaptureFixture[str], share: str) -> None:
    arguments = ["--baseline", "large.onnx", f"--max-regression={share}"]
    assert main(["check", "model.onnx", "--profile", quick, *arguments]) == 2
    assert f"given '{share}', expected a share such as 5% or 0.05" in capsys.readouterr().err


def test_a_share_of_nothing(quick: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "model.onnx", "--profile", quick, "--max-regression", "5%"]) == 2
    assert capsys.readouterr().err == (
        "error: --max-regression: given without --baseline, which says worse than what\n"
    )
