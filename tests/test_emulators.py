"""Setting the emulators up, with fake clients; the real ones run in test_verify_command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgecompress.errors import ChildFailedError, ResourceError
from edgecompress.runtime import onnx_model
from edgecompress.verifying import emulators, machines
from edgecompress.verifying.emulators import Kits, absence, command, default_cache, set_up
from edgecompress.verifying.processors import PROCESSORS

A53, HASWELL = PROCESSORS[0], PROCESSORS[-1]


@pytest.fixture
def clients(monkeypatch):
    """Stand in for apt-get, dpkg-deb and pip: each call is kept, and makes the files it would."""
    monkeypatch.setattr(emulators, "obstacle", lambda: "")
    called: list[list[str]] = []

    def fake(words, *, stdout, env=None, **_):
        words = list(words)
        called.append(words)
        if "install" in words:
            assert env["APT_CONFIG"].endswith("/apt.conf")
            archives = Path(next(w for w in words if w.startswith("Dir::Cache")).partition("=")[2])
            for package in words[words.index("--no-install-recommends") + 1 :]:
                (archives / f"{package.partition(':')[0]}_1.deb").write_text(package)
        elif words[1] == "-x":
            (Path(words[3]) / "usr/bin").mkdir(parents=True, exist_ok=True)
            (Path(words[3]) / "usr/bin/python3.11").touch()
        elif words[1] == "--fsys-tarfile":
            _write_tar(stdout)
        elif "pip" in words:
            folder = Path(words[words.index("--dest") + 1])
            folder.mkdir(parents=True)
            with zipfile.ZipFile(folder / "onnxruntime.whl", "w") as wheel:
                wheel.writestr("onnxruntime/__init__.py", "")
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(emulators.subprocess, "run", fake)
    return called


def _write_tar(handle: int) -> None:
    with (
        open(handle, "wb", closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for name in ("qemu-aarch64-static", "qemu-x86_64-static", "qemu-mips-static"):
            entry = tarfile.TarInfo(f"./usr/bin/{name}")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"elf"))


def test_set_up_with_fake_clients_makes_both_kits_once(clients, tmp_path):
    said: list[str] = []
    qemu, arm64 = set_up("arm64", tmp_path, said.append)
    assert sorted(p.name for p in (qemu / "bin").iterdir()) == [
        "qemu-aarch64-static",
        "qemu-x86_64-static",
    ]
    assert (qemu / "bin/qemu-aarch64-static").stat().st_mode & 0o111
    face = arm64 / "roots/cortex-a53"
    assert (face / "proc/cpuinfo").read_text() == A53.cpuinfo
    assert (face / "usr/bin/python3.11").exists()
    assert (arm64 / "site/onnxruntime/__init__.py").exists()
    assert f"onnxruntime-{emulators.library_version('onnxruntime')}-" in arm64.name
    files = json.loads((arm64 / "manifest.json").read_text())["files"]
    assert files.keys() == {"python3_1.deb", "libstdc++6_1.deb", "onnxruntime.whl"}
    assert all(len(digest) == 64 for digest in files.values())
    assert {p.name for p in tmp_path.iterdir()} == {qemu.name, arm64.name}  # nothing else stays
    assert said[0] == f"setting up {qemu.name}: downloading"
    done = len(clients)
    set_up("arm64", tmp_path, said.append)
    set_up("x86-avx2", tmp_path, said.append)
    assert len(clients) == done


def test_the_clients_are_told_to_install_nothing(clients, tmp_path):
    set_up("arm64", tmp_path, print)
    apt = [words for words in clients if words[0] == "apt-get"]
    assert [words[4] for words in apt] == ["update", "autoclean", "install"] * 2
    assert all("--download-only" in words for words in apt if words[4] == "install")
    (pip,) = (words for words in clients if "pip" in words)
    assert pip[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--only-binary=:all:" in pip
    assert f"onnxruntime=={emulators.library_version('onnxruntime')}" in pip
    assert pip[pip.index("--python-version") + 1] == "3.11"


@pytest.mark.parametrize(
    ("release", "servers"),
    [
        ({"ID": "ubuntu", "UBUNTU_CODENAME": "noble"}, ["archive", "archive", "ports", "ports"]),
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, []),
    ],
)
def test_an_ubuntu_is_told_where_arm64_lies(clients, tmp_path, monkeypatch, release, servers):
    monkeypatch.setattr(emulators.platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setattr(emulators.shutil, "rmtree", lambda *_, **__: None)  # keep the downloads
    set_up("x86-avx2", tmp_path, print)
    lines = (tmp_path / "downloads/sources.list").read_text().splitlines()
    assert [line.split("http://")[1].split(".")[0] for line in lines] == servers
    assert all(" noble" in line and "signed-by=" in line for line in lines)
    own = 'Dir::Etc::sourceparts "-";' in (tmp_path / "downloads/apt.conf").read_text()
    assert own == bool(servers)


def test_a_set_up_that_failed_goes_on_from_what_it_had(clients, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(28, "No space left on device", "/root")

    with monkeypatch.context() as patch:
        patch.setattr(emulators, "_wheels", broken)
        with pytest.raises(ResourceError) as failed:
            set_up("arm64", tmp_path, print)
    assert str(failed.value) == (
        "/root: No space left on device while setting up arm64; free some space or give another "
        "--cache, then run the same command again"
    )
    assert not Kits(tmp_path).ready("arm64")
    assert Kits(tmp_path).ready("x86-avx2")  # qemu itself was whole
    assert (tmp_path / "downloads").is_dir()
    assert not list(tmp_path.glob(".*.partial"))
    set_up("arm64", tmp_path, print)
    assert Kits(tmp_path).ready("arm64")
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo Reading; echo 'E: no network' >&2; exit 100",
         "apt-get update failed: E: no network; see that it is installed and has a network, then "
         "run the same command again"),
        ("exit 3", "apt-get update failed: exit status 3"),
        (None, "apt-get update: this machine has no apt-get, with which Debian's packages are "
               "fetched; set up on Debian or Ubuntu"),
    ],
)  # fmt: skip
def test_a_client_that_fails_is_quoted(tmp_path, monkeypatch, program, words):
    if program:
        (tmp_path / "apt-get").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    with pytest.raises(ResourceError) as failed:
        set_up("x86-avx2", tmp_path / "cache", print)
    assert words in str(failed.value)


def test_what_is_missing_is_said_with_the_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr(emulators.platform, "system", lambda: "Linux")
    monkeypatch.setattr(emulators.platform, "machine", lambda: "x86_64")
    assert absence("arm64", Kits(tmp_path)) == (
        f"not set up; run 'edgecompress verify --set-up --isa arm64 --cache {tmp_path}' once "
        "(about 120 MB of downloads, 220 MB on disk, nothing is installed)"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "'edgecompress verify --set-up --isa arm64' once" in absence(
        "arm64", Kits(default_cache())
    )
    assert emulators.host_isa() is None
    monkeypatch.setattr(emulators.platform, "machine", lambda: "aarch64")
    assert emulators.host_isa() == "arm64"
    reason = "the emulators are made for x86-64 hosts; this is aarch64"
    assert absence("x86-avx2", Kits(tmp_path)) == reason
    monkeypatch.setattr(emulators.platform, "system", lambda: "Darwin")
    reason = "qemu's user-mode emulation needs Linux; this is Darwin"
    assert absence("arm64", Kits(tmp_path)) == reason


def test_the_cache_follows_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "edgecompress/emulation"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_cache() == Path("/home/somebody/.cache/edgecompress/emulation")


def test_command_lines(clients, tmp_path):
    kits = Kits(tmp_path)
    set_up("arm64", tmp_path, print)
    words, environment = command(kits, A53, Path("run.py"))
    assert words[0].endswith("qemu-aarch64-static")
    assert words[1:4] == ["-cpu", "cortex-a53", "-L"]
    assert words[4].endswith("roots/cortex-a53")
    assert words[5].endswith("root/usr/bin/python3.11")
    assert environment.keys() == {"PYTHONPATH", "LC_ALL"}  # nothing of this host's Python
    words, _ = command(kits, HASWELL, Path("run.py"))
    assert words[1:] == ["-cpu", "Haswell", sys.executable, "-P", "run.py"]


# --- what goes wrong in a child


def machine(program: str) -> machines.Machine:
    return machines.Machine("cortex-x", ("/bin/sh", "-c", program), {})


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("kill -ILL $$", "model.onnx: cortex-x ended by signal SIGILL; try fewer --samples"),
        ("echo \"warning: TCG doesn't support x\" >&2; echo 'bad luck' >&2; exit 3",
         "model.onnx: cortex-x ended with exit status 3 (bad luck); try fewer"),
        ("sleep 60", "model.onnx: not done on cortex-x after 0.2 s; give fewer --samples or a "
                     "longer --max-time"),
    ],
)  # fmt: skip
def test_a_child_that_dies_is_one_line(folder, program, words):
    model = onnx_model("model.onnx")
    with pytest.raises(ChildFailedError) as failed:
        machines.outputs_on(machine(program), model, {}, 0.2 if "sleep" in program else 20)
    assert words in str(failed.value)
    assert failed.value.exit_code == 4
