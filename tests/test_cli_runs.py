"""The commands around a run: run and its stages, report, compare."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import blobs
import jsonschema
import numpy as np
import pytest
import sample_report
import torch
from command_line import HERE, document, quick_profile, result

from edgecompress import records
from edgecompress.cli import checking
from edgecompress.cli.main import main
from edgecompress.report.document import report_schema
from edgecompress.report.write import write_report

pytestmark = pytest.mark.usefixtures("measure_briefly")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the whole chain on a tiny task, and hand out its folder, exit code and output."""
    place = tmp_path_factory.mktemp("run")
    shutil.copy(HERE / "blobs.py", place)
    (place / "recipe.toml").write_text(blobs.RECIPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "stdout", out := StringIO())
        patch.setattr(sys, "stderr", err := StringIO())
        code = main(["run", "recipe.toml", "--profile", "android-cpu", "--json"])
    torch.set_num_threads(threads)
    return place, code, out.getvalue(), err.getvalue()


def test_run_prints_the_report_and_writes_it(finished):
    place, code, out, err = finished
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, report_schema())
    assert found == json.loads((place / "edgecompress-run" / "report.json").read_text())
    assert (place / "edgecompress-run" / "report.html").exists()
    assert "distill" in err


def test_a_stopped_run_shares_the_store(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished[0])
    assert main(["export", "recipe.toml", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "started" not in err
    assert [training["stage"] for training in found["trainings"]] == [
        "teacher",
        "distill",
        "redistill",
    ]
    assert [model["label"] for model in found["exports"]] == ["student-fp32", "pruned-fp32"]
    assert main(["prune", "recipe.toml"]) == 0
    assert " macs " in result(capsys)
    assert main(["distill", "recipe.toml"]) == 0
    assert "(goes on)" in result(capsys)


def test_check_with_a_recipe_judges_the_loss_against_its_teacher(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished[0])
    model = json.loads(finished[2])["candidates"][0]["path"]
    path = str(Path("edgecompress-run") / model)
    quick = quick_profile(finished[0], "model_size_mb = 1")
    assert main(["check", path, "--profile", quick, "--recipe", "recipe.toml", "--json"]) == 0
    checks = document(capsys)["checks"]
    assert [check["budget"] for check in checks] == ["model_size_mb", "accept.max_drop"]


def test_check_measures_as_many_samples_a_call_as_the_recipe(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished[0])
    Path("four.toml").write_text(blobs.RECIPE.replace("[measure]", "[measure]\nbatch = 4"))
    path = str(Path("edgecompress-run") / json.loads(finished[2])["candidates"][0]["path"])
    quick, given = quick_profile(finished[0], "model_size_mb = 1"), []

    def measure(models, inputs, *rest, **named):
        given.extend(array.shape[0] for arrays in inputs.values() for array in arrays.values())
        return real(models, inputs, *rest, **named)

    real = checking.measure
    monkeypatch.setattr(checking, "measure", measure)
    assert main(["check", path, "--profile", quick, "--recipe", "four.toml", "--json"]) == 0
    assert set(given) == {4}
    assert document(capsys)["candidates"][0]["host"]["batch"] == 4


def test_a_stage_that_the_recipe_has_not_is_refused(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished[0])
    Path("plain.toml").write_text('task = "blobs.py:task"\n')
    assert main(["prune", "plain.toml", "--out", "plain"]) == 2
    assert "recipe: has no [prune] section" in capsys.readouterr().err


def test_max_time_keeps_what_is_finished(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished[0])
    arguments = ["run", "recipe.toml", "--profile", "android-cpu", "--out", "late"]
    assert main([*arguments, "--max-time", "0.00001"]) == 4
    assert "--max-time is used up" in capsys.readouterr().err


def test_an_interrupted_run_says_what_is_kept(finished, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(finished[0])
    monkeypatch.setattr("edgecompress.pipeline.compress.compress", interrupt)
    assert main(["run", "recipe.toml", "--profile", "android-cpu", "--out", "my run"]) == 130
    assert capsys.readouterr().err == (
        "error: interrupted: finished stages are kept in 'my run'; "
        "run the same command again to go on\n"
    )


def test_a_dry_run_shows_the_plan_and_touches_nothing(folder, capsys):
    before = sorted(folder.iterdir())
    arguments = ["run", "--profile", "cpu-1core", "--dry-run", "--set", "distill.epochs=7"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "epochs=7" in out
    assert "latency_ms.p95 <= 20" in out
    assert err == "no recipe given: running the built-in digits task\n"
    assert main([*arguments, "--json"]) == 0
    found = document(capsys)
    assert found["recipe"]["distill"]["epochs"] == 7
    assert found["profile"]["name"] == "cpu-1core"
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("made", "code"),
    [(sample_report.passing, 0), (sample_report.failing, 1), (sample_report.undecided, 3)],
)
def test_report_shows_a_finished_run_and_ends_as_it_did(made, code, folder, capsys):
    write_report(replace(made(), folder=folder / "run"), folder / "run")
    (folder / "run" / "report.md").unlink()
    assert main(["report", "run"]) == code
    assert made().verdict.status.upper() in result(capsys)
    assert (folder / "run" / "report.md").exists()
    assert main(["report", "run", "--json"]) == code
    jsonschema.validate(document(capsys), report_schema())


def rewarded(report: records.Report, flips: int) -> records.Report:
    """Return the report with `flips` more right answers of the chosen model on the test split."""

    def better(evaluation: records.Evaluation) -> records.Evaluation:
        scores = np.array(evaluation.scores)
        scores[np.flatnonzero(scores == 0)[:flips]] = 1
        metric = replace(evaluation.metric, value=float(scores.mean()))
        return records.Evaluation(metric, tuple(scores.tolist()))

    candidates = tuple(
        replace(c, evaluations=tuple(map(better, c.evaluations))) if c.label == report.chosen else c
        for c in report.candidates
    )
    return replace(report, candidates=candidates)


def test_compare_pairs_scores_with_the_first_run(folder, capsys):
    first = sample_report.passing()
    for name, report in (
        ("one", first),
        ("two", rewarded(first, 3)),
        ("other", replace(first, task="another", profile="ios-cpu")),
    ):
        write_report(replace(report, folder=folder / name), folder / name)
    assert main(["compare", "one", "two", "other", "--json"]) == 0
    out, err = capsys.readouterr()
    one, two, other = json.loads(out)["runs"]
    count = len(first.best.evaluation("test").scores)
    assert one["difference"] is None
    assert two["difference"]["value"] == pytest.approx(3 / count)
    assert two["difference"]["low"] < 3 / count < two["difference"]["high"]
    assert other["difference"] is None
    assert "warning: the runs were judged by different profiles" in err
    assert "warning: other: its scores cannot be paired with the first run's" in err
    assert main(["compare", "one", "two"]) == 0
    lines = result(capsys).splitlines()
    assert len(lines) == 3
    assert "against the first" in lines[0]
    assert "+0." in lines[2]
