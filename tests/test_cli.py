"""The command line: what it prints, where, how fast it starts, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import blobs
import jsonschema
import numpy as np
import pytest
import sample_report
import tiny_models
import torch

from edgecompress import errors, records
from edgecompress.cli import main as main_module
from edgecompress.cli.main import explain, main
from edgecompress.cli.show import Progress, table
from edgecompress.recipe import MeasureSettings, load_recipe
from edgecompress.report.document import report_schema
from edgecompress.report.write import write_report

HERE = Path(__file__).parent
EDGECOMPRESS = [
    sys.executable,
    "-c",
    "import sys; from edgecompress.cli.main import main; sys.exit(main())",
]


@pytest.fixture(autouse=True)
def _measure_briefly(monkeypatch):
    """Let the commands measure five short processes a model instead of long ones."""
    brief = partial(MeasureSettings, processes=(5,), seconds_per_process=0.02)
    monkeypatch.setattr("edgecompress.recipe.MeasureSettings", brief)
    monkeypatch.setattr("edgecompress.cli.costs.MeasureSettings", brief)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in an empty folder that holds two tiny models."""
    monkeypatch.chdir(tmp_path)
    tiny_models.save_mlp(tmp_path / "model.onnx")
    tiny_models.save_mlp(tmp_path / "large.onnx", width=64)
    return tmp_path


def quick_profile(folder: Path, budget: str, host: bool = True) -> str:
    """Write a profile whose budgets are far from any limit, so that any machine decides them."""
    (folder / "quick.toml").write_text(
        f'name = "quick"\n[device]\ndescription = "q"\nhost = {str(host).lower()}\n'
        f"[budget]\n{budget}\n"
    )
    return "quick.toml"


def result(capsys) -> str:
    return capsys.readouterr().out


def document(capsys) -> dict:
    found = json.loads(result(capsys))
    assert found["schema_version"] == 1
    return found


# How a command ends


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.RecipeError("r.toml: bad"), 2, "r.toml: bad"),
        (errors.FolderLockedError("locked"), 4, "locked"),
        (errors.OutOfTimeError("out of time"), 4, "out of time"),
        (errors.EdgecompressError("odd"), 70, "odd"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("kept in x"), 130, "kept in x"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 4, ""),
        (MemoryError(), 4, "out of memory; close other programs or use smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1"), 4, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 4, "out/x: No space left on"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 4, "out: Permission denied"),
        (ZeroDivisionError("oops"), 70, "a bug in edgecompress: ZeroDivisionError: oops; please"),
        (SystemExit(1), 70, "a bug in edgecompress: SystemExit: 1"),
    ],
)
def test_every_way_of_ending_has_its_code_and_line(error, code, line):
    found, words = explain(error)
    assert found == code
    assert words.startswith(line)
    assert bool(words) == bool(line)


def test_an_error_is_one_printable_line(monkeypatch, capsys):
    monkeypatch.setattr(main_module, "_call", lambda _: exec("raise ValueError('a\\n\\x1b[31mb')"))
    assert main(["doctor"]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


def test_a_traceback_is_shown_only_with_debug(capsys):
    assert main(["profiles", "show", "toaster"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["profiles", "show", "toaster", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: unknown profile 'toaster'")


def test_sigterm_ends_a_command_like_an_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(main_module, "_call", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_closed_pipe_ends_in_4_without_a_word():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*EDGECOMPRESS, "doctor"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (4, b"")


def test_a_closed_stdout_or_an_odd_alphabet_is_no_bug(folder):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = f"{shlex.join(EDGECOMPRESS)} profiles show cpu-1core"
    assert subprocess.run(["sh", "-c", f"{command} >&-"]).returncode == 0
    Path("odd.toml").write_text(
        'name = "\u03bc"\n[device]\ndescription = "\u03bc"\n[budget]\nmodel_size_mb = 1\n'
    )
    done = subprocess.run(
        [*EDGECOMPRESS, "profiles", "show", "odd.toml"], env=ascii_only, stdout=subprocess.PIPE
    )
    assert (done.returncode, b"\\u03bc" in done.stdout) == (0, True)


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "edgecompress", "--version"], stdout=subprocess.PIPE
    )
    assert (done.returncode, done.stdout.count(b".")) == (0, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_ends_in_4_with_one_line():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*EDGECOMPRESS, "doctor"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 4
    assert done.stderr == b"error: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("arguments", "code"), [(["profiles", "list"], 0), (["nosuch"], 2)])
def test_a_stderr_that_nothing_can_be_written_to_changes_no_exit_code(arguments, code):
    with Path("/dev/full").open("wb") as full:
        for debug in ([], ["--debug"]):
            done = subprocess.run(
                [*EDGECOMPRESS, *arguments, *debug], stdout=subprocess.PIPE, stderr=full
            )
            assert done.returncode == code


@pytest.mark.skipif(os.name == "nt", reason="Windows numbers its streams otherwise")
def test_no_file_takes_the_number_of_a_closed_stream(tmp_path):
    """What a library writes to stderr must not land in a file that was opened since."""
    program = (
        "import os; from edgecompress.cli import main as m; m._prepare_streams(); "
        "open('file', 'w'); os.write(1, b'x'); os.write(2, b'x')"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(["sh", "-c", f"{shlex.join(command)} >&- 2>&-"], cwd=tmp_path, check=True)
    assert (tmp_path / "file").read_text() == ""


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", result(capsys))
    assert main(["--help"]) == 0
    shown = result(capsys)
    commands = "run check measure distill prune export quantize report compare profiles init doctor"
    assert all(f"  {command}  " in shown for command in commands.split())
    assert main(["run", "--help"]) == 0
    assert "\x1b" not in result(capsys)


def test_nothing_but_training_imports_torch(folder):
    np.savez("data.npz", x=np.ones((4, 8), np.float32), y=np.zeros(4, np.int64))
    write_report(replace(sample_report.passing(), folder=folder / "run"), folder / "run")
    quick = quick_profile(folder, "model_size_mb = 1")
    lines = [
        ["--help"],
        ["profiles", "list"],
        ["run", "gone.toml", "--profile", "cpu-1core"],
        ["run", "--profile", "cpu-1core", "--dry-run"],
        ["init", "new"],
        ["doctor"],
        ["check", "model.onnx", "--profile", quick, "--data", "data.npz"],
        ["measure", "model.onnx", "--processes", "1"],
        ["report", "run"],
        ["compare", "run", "run"],
    ]
    program = (
        "import sys; from edgecompress.cli.main import main\n"
        "heavy = {'torch', 'sklearn'}\n"
        f"for line in {lines!r}:\n"
        "    main(line)\n"
        "    assert not heavy & sys.modules.keys(), line\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# Models from anywhere


def test_check_prints_one_report_and_its_verdict(folder, capsys):
    quick = quick_profile(folder, "latency_ms.p95 = 1000\nmodel_size_mb = 1")
    assert main(["check", "model.onnx", "--profile", quick]) == 0
    out = result(capsys)
    assert out.startswith("PASS: model fits quick")
    assert "latency_ms.p95" in out
    assert "report.html" not in out
    assert "\x1b" not in out


def test_check_fails_over_budget(folder, capsys):
    quick = quick_profile(folder, "model_size_mb = 0.0001")
    assert main(["check", "model.onnx", "--profile", quick, "--json"]) == 1
    found = document(capsys)
    jsonschema.validate(found, report_schema())
    assert found["verdict"] == "fail"
    assert found["profile"] == "quick"
    assert found["chosen"] == "model"
    assert found["teacher"] is None
    check = found["checks"][0]
    assert (check["budget"], check["basis"], check["status"]) == ("model_size_mb", "exact", "fail")
    assert found["candidates"][0]["path"] == "model.onnx"


def test_check_of_an_absent_device_without_a_basis_is_inconclusive(folder, capsys):
    quick = quick_profile(folder, "latency_ms.p95 = 1000", host=False)
    assert main(["check", "model.onnx", "--profile", quick, "--json"]) == 3
    assert document(capsys)["checks"][0]["basis"] == "none"


def test_check_of_several_models_and_profiles_is_one_document(folder, capsys):
    quick = quick_profile(folder, "model_size_mb = 0.001")
    arguments = ["check", "model.onnx", "large.onnx", "--profile", quick]
    assert main([*arguments, "--profile", "android-cpu", "--json"]) == 1
    found = document(capsys)
    jsonschema.validate(found, report_schema())
    assert found["verdict"] == "fail"
    each = [(r["chosen"], r["profile"], r["verdict"]) for r in found["reports"]]
    assert each == [
        ("model", "quick", "pass"),
        ("model", "android-cpu", "pass"),
        ("large", "quick", "fail"),
        ("large", "android-cpu", "pass"),
    ]


def test_a_bad_model_among_several_leaves_the_others_judged(folder, capsys):
    quick = quick_profile(folder, "model_size_mb = 0.001")
    Path("torn.onnx").write_bytes(b"torn")
    arguments = ["check", "torn.onnx", "model.onnx", "large.onnx", "--profile", quick, "--json"]
    assert main(arguments) == 2  # bad input weighs more than the budget that large exceeds
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1
    assert "torn.onnx" in printed.err
    found = json.loads(printed.out)
    jsonschema.validate(found, report_schema())
    assert [(r["chosen"], r["verdict"]) for r in found["reports"]] == [
        ("model", "pass"),
        ("large", "fail"),
    ]


def test_require_measured_lets_no_prediction_pass(folder, capsys):
    arguments = ["check", "model.onnx", "--profile", "android-cpu", "--json"]
    assert main([*arguments, "--require-measured"]) == 3
    found = document(capsys)
    latency = next(c for c in found["checks"] if c["basis"] == "predicted")
    assert latency["status"] == "inconclusive"
    assert latency["reason"].endswith("but a measurement is demanded")


def test_models_of_one_name_are_told_apart(folder, capsys):
    Path("other").mkdir()
    shutil.copy("large.onnx", "other/model.onnx")
    assert main(["measure", "model.onnx", "other/model.onnx", "--processes", "1", "--json"]) == 0
    assert [m["label"] for m in document(capsys)["models"]] == ["model.onnx", "other/model.onnx"]


def test_check_scores_labelled_data(folder, capsys):
    x = np.eye(8, dtype=np.float32)
    np.savez("data.npz", x=x, labels=np.arange(8))
    quick = quick_profile(folder, "model_size_mb = 1")
    assert main(["check", "model.onnx", "--profile", quick, "--data", "data.npz", "--json"]) == 0
    metric = document(capsys)["candidates"][0]["metrics"]["accuracy"]
    assert metric["split"] == "test"
    assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1


def test_measure_shows_quantiles_memory_and_size(folder, capsys):
    assert main(["measure", "model.onnx", "--processes", "1", "--batch", "3"]) == 0
    out, err = capsys.readouterr()
    head, row = out.splitlines()
    for column in ("p50 ms", "p90 ms", "p95 ms", "p99 ms", "cold ms", "memory", "size"):
        assert column in head
    assert row.startswith("model")
    assert "error" not in err


def test_measure_as_json(folder, capsys):
    arguments = ["measure", "model.onnx", "--processes", "1", "--batch", "3", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    (found,) = document(capsys)["models"]
    host = found["host"]
    assert (host["batch"], host["threads"], host["processes"]) == (3, 1, 1)
    assert set(host["latency_ms"]) == {"p50", "p90", "p95", "p99"}
    assert found["size_bytes"] == Path("model.onnx").stat().st_size


def test_quantize_writes_int8_models_and_compares_them(folder, capsys):
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(64, 64)).astype(np.float32))
    arguments = ["quantize", "large.onnx", "--data", "data.npz", "--out", "int8"]
    assert main([*arguments, "--set", "quantize.per_channel=false", "--json"]) == 0
    found = document(capsys)
    assert [m["label"] for m in found["models"]] == ["large", "int8-static", "int8-dynamic"]
    assert found["models"][1]["parity"]["agreement"] > 0.9
    assert found["models"][1]["size_bytes"] < found["models"][0]["size_bytes"]
    assert sorted(p.name for p in Path("int8").iterdir()) == [
        "int8-dynamic.onnx",
        "int8-static.onnx",
    ]


def test_quantize_says_why_a_model_is_not_made(folder, capsys):
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32))
    assert main(["quantize", "model.onnx", "--data", "data.npz"]) == 0
    out, err = capsys.readouterr()
    assert "same class" not in out
    assert "warning: int8-static: not made: static int8 has nothing to gain" in err


# Runs


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


# Setting up


def test_profiles_are_listed_with_their_budgets(capsys):
    assert main(["profiles", "list"]) == 0
    lines = result(capsys).splitlines()
    assert len(lines) == 12
    row = next(line for line in lines if line.startswith("android-cpu "))
    assert row.split()[1:6] == ["50", "150", "10", "-", "predicted"]
    assert main(["profiles", "list", "--json"]) == 0
    assert len(document(capsys)["profiles"]) == 11


def test_a_profile_is_shown_as_it_is_written(capsys):
    assert main(["profiles", "show", "cpu-1core"]) == 0
    assert tomllib.loads(result(capsys))["budget"]["latency_ms"]["p95"] == 20
    assert main(["profiles", "show", "cpu-1core", "--json"]) == 0
    assert document(capsys)["device"]["host"] is True


def test_a_new_profile_starts_from_another(folder, capsys):
    assert main(["profiles", "new", "my-phone", "--from", "android-low"]) == 0
    assert result(capsys) == "wrote my-phone.toml\n"
    text = Path("my-phone.toml").read_text()
    assert text.startswith("# A copy of android-low: edit it, then use --profile my-phone.toml\n")
    assert tomllib.loads(text)["name"] == "my-phone"
    assert main(["profiles", "new", "my-phone", "--force", "--out", "x.toml"]) == 0
    assert main(["profiles", "show", "x.toml"]) == 0


def test_init_writes_a_project_that_loads(folder, capsys):
    assert main(["init", "mine"]) == 0
    assert "edgecompress run mine/recipe.toml --profile android-cpu" in result(capsys)
    text = Path("mine/recipe.toml").read_text()
    assert text.startswith("#:schema ./recipe.schema.json\n")
    assert len(text.splitlines()) <= 25
    assert load_recipe(Path("mine/recipe.toml")).task.endswith("my_task.py:task")
    schema = json.loads(Path("mine/recipe.schema.json").read_text())
    jsonschema.validate(tomllib.loads(text), schema)
    assert json.loads(Path("mine/profile.schema.json").read_text())["required"]
    assert main(["init", "mine"]) == 2
    assert main(["init", "mine", "--force"]) == 0


@pytest.mark.slow
def test_what_init_writes_runs_as_it_is(folder, capsys):
    assert main(["init"]) == 0
    epochs = [f"--set={stage}.epochs=1" for stage in ("teacher", "distill", "redistill")]
    assert main(["export", "recipe.toml", *epochs]) == 0
    assert "pruned-fp32: parity holds" in result(capsys)


def test_doctor_says_what_this_machine_can_do(capsys):
    assert main(["doctor"]) == 0
    out = result(capsys)
    for fact in ("processor", "instructions", "counts waiting", "torch", "browser"):
        assert f"\n{fact}" in f"\n{out}"
    assert main(["doctor", "--json"]) == 0
    found = document(capsys)
    assert found["host"]["fingerprint"]
    assert found["versions"]["torch"] == torch.__version__
    assert isinstance(found["missing"], list)


def test_doctor_words_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("edgecompress.cli.diagnosis._version", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["doctor"]) == 0
    out = result(capsys)
    assert "- torch is not installed" in out
    assert "- xgboost is not installed; XGBoost teachers need it: install 'edgecompress[" in out
    assert "- no Chromium; only the test that opens report.html in a browser needs it" in out


# Showing


def test_a_table_cuts_nothing_and_moves_no_cursor():
    rows = [("a", "b"), ("x" * 200, "1\x1b[2J")]
    assert table(rows).splitlines()[1] == f"{'x' * 200}  1 [2J"


def test_the_bar_shows_progress_on_a_terminal():
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(file=StringIO(), force_terminal=True, width=80)
    shown = Progress(Bar(console=console, auto_refresh=False))
    shown.wait("measuring")
    assert shown.bar.tasks[0].total is None
    shown.tick("epoch 1", 1, 4)
    shown.tick("epoch 2", 2, 4)
    (bar,) = shown.bar.tasks
    assert (bar.description, bar.completed, bar.total) == ("epoch 2", 2, 4)
    shown.say("distill: [done]")
    assert shown.bar.tasks == []
    assert "distill: [done]" in console.file.getvalue()


def test_without_a_terminal_there_is_no_bar(capsys):
    shown = Progress()
    shown.tick("epoch 1", 1, 4)
    shown.say("distill: started")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "distill: started\n")
