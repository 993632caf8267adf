"""`--target ssh:...` end to end: the stock client against a real server on loopback.

The board is this machine, in a home and with a PATH of its own. No real board has run this.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import blobs
import jsonschema
import pytest
from command_line import EDGECOMPRESS, document, quick_profile
from loopback_ssh import SSH, Board, serving, stock_client

from edgecompress.cli.main import main
from edgecompress.errors import DeviceError
from edgecompress.measuring import lock
from edgecompress.measuring.targets.ssh import ssh_device
from edgecompress.measuring.targets.target import Target
from edgecompress.report.document import report_schema

pytestmark = [
    pytest.mark.skipif(SSH is None, reason="no ssh client is installed"),
    pytest.mark.usefixtures("measure_briefly"),
]
FAR_AWAY = "latency_ms.p95 = 1000\npeak_memory_mb = 500\ncold_start_ms = 30000\nmodel_size_mb = 1"


@pytest.fixture
def board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Serve a board, and stand in a folder with two models and a client that reaches it."""
    monkeypatch.setattr(lock, "COMMON", folder)
    for name in ("home", "scratch", "server", "tools"):
        (folder / name).mkdir()
    tools = f"{folder / 'tools'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "scratch"),
        "PATH": tools,
    }
    served = Board(folder / "home", environment)
    with serving(served, folder / "server") as configuration:
        client = stock_client(folder / "client", configuration)
        monkeypatch.setenv("PATH", f"{client}:{os.environ['PATH']}")
        yield served
    assert list((folder / "scratch").iterdir()) == []  # nothing is ever left behind


def target(board: Board) -> str:
    return f"ssh:me@localhost:{board.port}"


def measure(board: Board, *options: str) -> int:
    words = ["measure", "model.onnx", "--target", target(board), "--processes", "1"]
    return main([*words, *options])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ended with."""
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert told.out == ""
    assert len(lines) == 1
    return lines[0]


def fake(folder: Path, tool: str, script: str) -> None:
    """Put a tool of that name at the front of the board's PATH."""
    path = folder / "tools" / tool
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def fake_python(folder: Path, script: str) -> None:
    """Put a Python on the board that runs `script` first, and says that it is itself."""
    itself = 'test "$1" = -c && { echo "found $0 1.0"; exit; }'
    fake(folder, "python3", f'{itself}\n{script}\nexec {sys.executable} "$@"')


# What somebody may have written down for a host that is mostly looked at, or tunnelled through.
OWN_OPTIONS = """\
Host *
  IgnoreUnknown UseKeychain
  UseKeychain yes
  RemoteCommand tmux attach
  RequestTTY yes
  SessionType none
  StdinNull yes
  ForkAfterAuthentication yes
  ControlMaster auto
  ControlPath ~/.ssh/%C
  ControlPersist 10m
  LocalForward 127.0.0.1:1 localhost:1
  PermitLocalCommand yes
  LocalCommand touch {folder}/scratch/local
"""


# It works


def test_measure_shows_what_the_board_took(board, capsys):
    assert measure(board) == 0
    told = capsys.readouterr()
    head, row = told.out.splitlines()
    assert head.split()[:3] == ["model", "p50", "ms"]
    assert row.split()[0] == "model"
    assert all(float(cell) > 0 for cell in row.split()[1:6])
    name = re.escape(target(board))
    assert re.search(rf"device: {name}: .*, onnxruntime \d", told.err)
    assert re.search(rf"device: {name} pinned to core \d+$", told.err, re.MULTILINE)
    assert re.search(r"device: before: .*MB free", told.err)
    assert re.search(r"device: outputs agree with this host's within 0.0e\+00", told.err)


def test_measure_pulls_every_raw_sample(board, capsys):
    assert measure(board, "--processes", "2", "--json") == 0
    (model,) = document(capsys)["models"]
    assert model["host"] is None
    device = model["device"]
    assert device["basis"] == "measured on the device"
    assert device["processes"] == len(device["process_p50_ms"]) == 2
    assert 0 < device["latency_ms"]["p50"] <= device["latency_ms"]["p99"]
    assert device["peak_memory_bytes"] > 0
    assert device["cold_start_ms"] > device["latency_ms"]["p50"]
    assert any(line.startswith("after: ") for line in device["conditions"])


def test_models_take_turns_on_the_board(board):
    words = ["measure", "model.onnx", "large.onnx", "--target", target(board), "--processes", "2"]
    assert main(words) == 0
    runs = [found[1] for asked in board.asked if (found := re.search(r"< (\d)\.json", asked))]
    assert runs == ["0", "1", "0", "1"]


def test_a_sustained_run_on_the_board(board, capsys):
    assert measure(board, "--sustained", "1s", "--json") == 0
    lasted = document(capsys)["sustained"]
    assert lasted["seconds"] >= 1
    assert lasted["machine"].startswith(target(board))
    assert sum(window["calls"] for window in lasted["windows"]) == lasted["calls"] > 100


def test_check_judges_the_device(folder, board, capsys):
    quick = quick_profile(folder, FAR_AWAY, host=False)
    words = ["check", "model.onnx", "--profile", quick, "--target", target(board), "--json"]
    assert main(words) == 0
    found = document(capsys)
    jsonschema.validate(found, report_schema())
    bases = {check["budget"]: check["basis"] for check in found["checks"]}
    assert bases == {
        "latency_ms.p95": "on-device",
        "peak_memory_mb": "on-device",
        "cold_start_ms": "on-device",
        "model_size_mb": "exact",
    }
    assert found["candidates"][0]["host"] is None
    assert target(board) in found["environment"]["machine"]


def test_check_fails_on_the_device(folder, board, capsys):
    quick = quick_profile(folder, "latency_ms.p95 = 0.000001", host=False)
    assert main(["check", "model.onnx", "--profile", quick, "--target", target(board)]) == 1
    assert capsys.readouterr().out.startswith("FAIL: model does not fit quick")


@pytest.mark.slow
def test_run_measures_the_finalists_on_the_device(folder, board, capsys):
    shutil.copy(blobs.__file__, folder)
    (folder / "recipe.toml").write_text(blobs.RECIPE)
    words = ["run", "recipe.toml", "--profile", "android-cpu", "--target", target(board), "--json"]
    words += ["--set", "measure.processes=[5]"]  # fewer decide nothing
    assert main(words) == 0
    found = document(capsys)
    jsonschema.validate(found, report_schema())
    bases = {check["budget"]: check["basis"] for check in found["checks"]}
    assert bases["latency_ms.p95"] == bases["peak_memory_mb"] == "on-device"
    there = [c["label"] for c in found["candidates"] if "machine" in (c["device"] or {})]
    assert found["chosen"] in there
    assert len(there) < len(found["candidates"])
    assert "machine" in found["teacher"]["device"]

    board.asked.clear()
    assert main(words) == 0
    assert document(capsys) == found
    assert not any("child.py <" in asked for asked in board.asked)  # known already


def test_the_clients_own_configuration_does_not_stand_in_the_way(folder, board, capsys):
    configuration = folder / "server" / "config"
    own = OWN_OPTIONS.format(folder=folder)
    configuration.write_text(own + configuration.read_text())
    assert measure(board) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "model"
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"-p {board.port}" not in running.stdout  # hung up


def test_failures_there_are_told_in_english(board):
    board.environment |= {"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8"}
    with ssh_device(Target("ssh", "me@localhost", board.port)) as device:
        assert device.run("echo $LC_ALL").output == "C"


def test_a_private_folder_and_a_private_runner(folder, board):
    seen = folder / "seen"
    fake(folder, "sha256sum", f'stat -c %a . >> {seen}; exec {shutil.which("sha256sum")} "$@"')
    assert measure(board) == 0
    assert set(seen.read_text().split()) == {"700"}


# It refuses


def test_a_profile_of_this_machine_is_no_device(folder, board, capsys):
    quick = quick_profile(folder, FAR_AWAY)
    assert main(["check", "model.onnx", "--profile", quick, "--target", target(board)]) == 2
    assert "profile quick is of the machine that edgecompress runs on" in error(capsys)


def test_nobody_listens(folder, board, capsys):
    words = ["measure", "model.onnx", "--target", "ssh:me@localhost:1"]
    assert main(words) == 4
    assert error(capsys).startswith("error: ssh:me@localhost:1: cannot be reached (")


def test_the_login_is_refused(folder, board, capsys):
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    stranger.write_private_key(folder / "server" / "key")
    assert measure(board) == 4
    told = error(capsys)
    assert f"{target(board)}: refused the login (" in told
    assert f"set up a key with 'ssh-copy-id -p {board.port} me@localhost'" in told


def test_an_unknown_host_key(folder, board, capsys):
    (folder / "server" / "known").write_text("")
    assert measure(board) == 4
    assert f"run 'ssh -p {board.port} me@localhost' once and compare it" in error(capsys)


def test_no_client_here(folder, board, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(folder / "scratch"))
    assert measure(board) == 4
    assert "no ssh client here; install one (Debian: openssh-client)" in error(capsys)


def test_unplugged_midway(folder, board, capsys):
    board.unplug_at = "< 0.json"
    assert measure(board) == 4
    told = error(capsys)
    assert f"{target(board)}: the connection broke (" in told
    assert "run the same command again" in told
    # The board is on again: the client came back to clean up.


def test_a_full_disk_is_seen_before_copying(folder, board, capsys):
    fake(folder, "df", 'echo "Filesystem 1K-blocks Used Available"; echo "/dev/x 100 100 0"')
    assert measure(board) == 4
    assert "its disk is full: child.py (" in error(capsys)


def test_a_disk_that_fills_up_while_copying(folder, board, capsys):
    fake(folder, "cat", "echo 'cat: write error: No space left on device' >&2; exit 1")
    assert measure(board) == 4
    assert "its disk is full: child.py (" in error(capsys)


def test_a_disk_that_fills_up_while_measuring(folder, board, capsys):
    fake_python(folder, 'test "$1" = child.py && { echo "No space left on device" >&2; exit 1; }')
    assert measure(board) == 4
    assert error(capsys).endswith(": its disk is full; free some space")


def test_a_damaged_copy(folder, board, capsys):
    fake(folder, "sha256sum", f"echo {'0' * 64}")
    assert measure(board) == 4
    assert "child.py arrived damaged (SHA-256 differs)" in error(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "ModuleNotFoundError: No module named 'onnxruntime'",
            "its Python has no onnxruntime; run there: python3 -m venv ~/.edgecompress && "
            "~/.edgecompress/bin/pip install onnxruntime",
        ),
        ("python3: not found", "no Python found there; run there: "),
        (
            "ImportError: onnxruntime_pybind11_state.so: wrong ELF class: ELFCLASS32",
            "the onnxruntime there is built for another processor than this ",
        ),
    ],
)
def test_no_python_that_serves(folder, board, capsys, words, message):
    for python in ("python3", "python"):
        fake(folder, python, f'echo "{words}" >&2; exit 1')
    assert measure(board) == 4
    assert message in error(capsys)


def test_a_32_bit_arm_has_no_onnxruntime(folder, board, capsys):
    fake(folder, "uname", "echo Linux 6.1 armv7l")
    for python in ("python3", "python"):
        fake(folder, python, "exit 127")
    assert measure(board) == 4
    assert "PyPI has no onnxruntime for armv7l; use a 64-bit system" in error(capsys)


def test_a_python_of_ones_own_comes_first(folder, board, capsys):
    fake(folder, "python3", "exit 1")
    own = folder / "home" / ".edgecompress" / "bin"
    own.mkdir(parents=True)
    (own / "python3").symlink_to(sys.executable)
    shutil.copy(Path(sys.executable).parents[1] / "pyvenv.cfg", own.parent)
    (own.parent / "lib").symlink_to(Path(sys.executable).parents[1] / "lib")
    assert measure(board) == 0


def test_other_outputs_are_told(folder, board, capsys):
    other = "import numpy as n; n.savez('outputs.npz', n.full((1, 8), 9.0))"
    fake_python(folder, f'test "$1" = golden.py && exec {sys.executable} -c "{other}"')
    assert measure(board) == 0
    assert "warning: outputs differ from this host's by" in capsys.readouterr().err


def test_a_command_that_takes_too_long(board):
    found = Target("ssh", "me@localhost", board.port)
    with ssh_device(found) as device, pytest.raises(DeviceError, match=r"no answer within 0\.3 s"):
        device.run("sleep 1", 0.3)


def test_ctrl_c_leaves_nothing_behind(folder, board):
    command = ["measure", "large.onnx", "--target", target(board), "--processes", "50"]
    with subprocess.Popen(
        [*EDGECOMPRESS, *command], stderr=subprocess.PIPE, text=True, cwd=folder
    ) as child:
        while not any("< 0.json" in asked for asked in board.asked):
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in told
