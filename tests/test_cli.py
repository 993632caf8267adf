"""The command line: what it prints, where, how fast it starts, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from io import StringIO
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import sample_report
import torch
from command_line import EDGECOMPRESS, document, quick_profile, result

from edgecompress import errors
from edgecompress.cli import main as main_module
from edgecompress.cli.main import explain, main
from edgecompress.cli.show import Progress, table
from edgecompress.recipe import load_recipe
from edgecompress.report.write import write_report

pytestmark = pytest.mark.usefixtures("measure_briefly")


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


# Runs


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
