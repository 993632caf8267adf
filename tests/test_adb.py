"""`--target adb` end to end: the real adb client against a fake phone of old protocol.

The phone is this machine's shell (`adbd.py`). No real phone has run this.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from adbd import Phone
from command_line import document, quick_profile

from edgecompress.cli.main import main
from edgecompress.measuring import lock

ADB = shutil.which("adb")
pytestmark = [
    pytest.mark.skipif(ADB is None, reason="no adb client is installed (apt install adb)"),
    pytest.mark.usefixtures("measure_briefly"),
]
# What stands in for onnxruntime_perf_test: its options, its input files, and what it writes, as
# onnxruntime/test/perftest in ONNX Runtime's sources has them; ONNX Runtime itself is real.
PERF_TEST = """\
import resource, sys, time
from pathlib import Path
import onnx, onnxruntime
from onnx import numpy_helper
options = dict(zip(sys.argv[1:11:2], sys.argv[2:11:2]))
assert list(options) == ["-e", "-m", "-r", "-x", "-y"] and sys.argv[11] == "-D", sys.argv
model, result = sys.argv[12:]
feeds = {}
for file in sorted((Path(model).parent / "data").glob("input_*.pb")):
    tensor = onnx.load_tensor(file)
    feeds[tensor.name] = numpy_helper.to_array(tensor)
clock = time.perf_counter
start = clock()
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
created = clock()
session.run(None, feeds)
first = clock()
took = []
for _ in range(int(options["-r"])):
    begun = clock()
    session.run(None, feeds)
    took.append(clock() - begun)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with open(result, "a") as file:
    for number, seconds in enumerate(took):
        file.write(f"{Path(model).parent.name},{seconds:.6g},{peak},99,{number}\\n")
print(f"\\nSession creation time cost: {created - start:.6g} s")
print(f"First inference time cost: {int((first - created) * 1e3)} ms")
print(f"Total inference requests: {len(took)}")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run an adb server of this module's own, in a home of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("ANDROID_SERIAL", raising=False)
        adb("start-server")
        yield
        adb("kill-server")


def adb(*words: str) -> str:
    asked = ["adb", *words]
    return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False).stdout


@pytest.fixture
def attach(
    folder: Path, server: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Phone]]:
    """Return what plugs a phone in; at the end all are unplugged, and must be as they were."""
    monkeypatch.setattr(lock, "COMMON", folder)
    (folder / "tools").mkdir()
    with ExitStack() as stack:

        def plug_in(name: str = "phone", **traits: bool | str) -> Phone:
            place = folder / name
            place.mkdir()
            path = f"{folder / 'tools'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
            phone = Phone(place, {"PATH": path, "HOME": str(folder)}, **traits)
            phone.listen()
            adb("connect", f"127.0.0.1:{phone.port}")
            stack.callback(phone.door.close)
            stack.callback(adb, "disconnect", f"127.0.0.1:{phone.port}")
            return phone

        yield plug_in
    for left in folder.glob("phone*/edgecompress-*"):
        raise AssertionError(f"left behind: {left}")


def measure(*words: str) -> int:
    return main(["measure", "model.onnx", "--target", "adb", "--processes", "1", *words])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ended with."""
    told = capsys.readouterr()
    (line,) = (line for line in told.err.splitlines() if line.startswith("error: "))
    assert told.out == ""
    return line


def fake(folder: Path, tool: str, script: str) -> None:
    """Put a tool of that name at the front of the phone's PATH."""
    path = folder / "tools" / tool
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def without_python(folder: Path) -> None:
    for python in ("python3", "python"):
        fake(folder, python, f"echo '{python}: not found' >&2; exit 127")


def give_perf_test(phone: Phone, script: str = PERF_TEST) -> None:
    tool = phone.folder / "onnxruntime_perf_test"
    tool.write_text(f"#!{sys.executable}\n{script}")
    tool.chmod(0o755)


# It works


def test_measure_with_the_python_of_the_phone(attach, capsys):
    phone = attach()
    assert measure("--json") == 0
    (model,) = document(capsys)["models"]
    device = model["device"]
    assert device["machine"].startswith(f"adb:127.0.0.1:{phone.port}: ")
    assert device["latency_ms"]["p50"] > 0
    assert any(line.startswith("outputs agree with") for line in device["conditions"])


def test_check_judges_the_phone(folder, attach, capsys):
    attach()
    quick = quick_profile(folder, "latency_ms.p95 = 1000", host=False)
    assert main(["check", "model.onnx", "--profile", quick, "--target", "adb", "--json"]) == 0
    assert document(capsys)["checks"][0]["basis"] == "on-device"


def test_measure_with_perf_test(folder, attach, capsys):
    phone = attach()
    without_python(folder)
    give_perf_test(phone)
    fake(folder, "getprop", 'test "$1" = ro.product.model && echo Pixel')
    assert measure("--json") == 0
    (model,) = document(capsys)["models"]
    device = model["device"]
    assert ": Pixel, " in device["machine"]
    assert device["machine"].endswith("version untold (onnxruntime_perf_test)")
    assert 0 < device["latency_ms"]["p50"] <= device["latency_ms"]["p99"]
    assert device["cold_start_ms"] > 0
    assert any("parity with this host was not checked" in line for line in device["conditions"])
    masks = [found[1] for asked in phone.asked if (found := re.search(r"taskset (\S+) ", asked))]
    assert len(set(masks)) == 1


# It refuses


def test_several_phones_and_no_serial(attach, capsys):
    serials = sorted(f"127.0.0.1:{attach(name).port}" for name in ("phone1", "phone2"))
    assert measure() == 4
    assert error(capsys) == (
        f"error: adb: 2 phones are attached ({', '.join(serials)}); say which one, "
        f"such as --target adb:{serials[0]}"
    )


def test_the_serial_picks_the_phone(attach, capsys):
    wanted, other = attach("phone1"), attach("phone2")
    words = ["measure", "model.onnx", "--target", f"adb:127.0.0.1:{wanted.port}"]
    assert main([*words, "--processes", "1"]) == 0
    assert wanted.asked
    assert not other.asked


def test_no_phone(attach, capsys):
    assert measure() == 4
    assert "adb: no phone is attached; plug one in, switch USB debugging on" in error(capsys)


def test_another_serial(attach, capsys):
    phone = attach()
    assert main(["measure", "model.onnx", "--target", "adb:nobody"]) == 4
    assert f"adb:nobody: not attached; 'adb devices' lists 127.0.0.1:{phone.port}" in error(capsys)


def test_a_phone_that_trusts_nobody(attach, capsys):
    phone = attach(trusts=False)
    assert measure() == 4
    assert f"adb:127.0.0.1:{phone.port}: is unauthorized; unlock it and allow USB" in error(capsys)


def test_no_client_here(folder, attach, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(folder / "tools"))
        assert measure() == 4
    assert "adb: no adb client here; install one (Debian: apt install adb" in error(capsys)


def test_unplugged_midway(attach, capsys):
    phone = attach(unplug_at="< 0.json")
    assert measure() == 4
    told = error(capsys)
    assert f"adb:127.0.0.1:{phone.port}: went away (" in told
    assert told.endswith("plug it in, keep it awake, then run the same command again")
    shutil.rmtree(next(phone.folder.glob("edgecompress-visit-*")))  # nobody could clean up


def test_what_an_unplugged_phone_kept_goes_another_day(attach, capsys):
    phone = attach()
    visits = [phone.folder / f"edgecompress-visit-{age}" for age in ("old", "new")]
    foreign = phone.folder / "edgecompress-run"
    for kept in (*visits, foreign):
        kept.mkdir()
    for kept in (visits[0], foreign):
        os.utime(kept, (0, 0))
    assert measure() == 0
    assert [kept.exists() for kept in (*visits, foreign)] == [False, True, True]
    for kept in (visits[1], foreign):
        kept.rmdir()


def test_a_full_disk(attach, capsys):
    attach(full=True)
    assert measure() == 4
    assert "its disk is full: child.py (" in error(capsys)


def test_a_damaged_copy(attach, capsys):
    attach(spoils=True)
    assert measure() == 4
    assert "child.py arrived damaged (SHA-256 differs)" in error(capsys)


def test_the_old_protocol_hides_no_failure(folder, attach, capsys):
    attach()
    fake(folder, "mkdir", "echo 'Permission denied'; exit 1")
    assert measure() == 4
    assert "no folder can be made in /data/local/tmp (Permission denied)" in error(capsys)


def test_neither_python_nor_perf_test(folder, attach, capsys):
    attach()
    without_python(folder)
    fake(folder, "getprop", 'test "$1" = ro.product.cpu.abi && echo arm64-v8a')
    assert measure() == 4
    told = error(capsys)
    assert "cannot measure yet (no Python found there, and no onnxruntime_perf_test)" in told
    assert "push onnxruntime_perf_test built for arm64-v8a" in told
    assert "or a Python with numpy and onnxruntime to /data/local/tmp/python" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("not executable: 64-bit ELF file", "is built for another processor than this armeabi"),
        ('CANNOT LINK EXECUTABLE: library "libonnxruntime.so" not found', "push its libraries"),
    ],
)
def test_a_perf_test_that_does_not_start(folder, attach, capsys, words, message):
    phone = attach()
    without_python(folder)
    give_perf_test(phone, f"import sys; sys.exit({words!r})")
    fake(folder, "getprop", 'test "$1" = ro.product.cpu.abi && echo armeabi-v7a')
    assert measure() == 4
    assert message in error(capsys)


def test_a_perf_test_that_refuses_the_model(folder, attach, capsys):
    phone = attach()
    without_python(folder)
    refusing = "import sys\nif '/model.onnx' in sys.argv[-2] and 'bare' not in sys.argv[-2]:\n"
    give_perf_test(phone, f"{refusing}    sys.exit('Invalid model')\n{PERF_TEST}")
    assert measure() == 2
    assert re.search(r"model\.onnx: does not run on adb:\S+: Invalid model$", error(capsys))
