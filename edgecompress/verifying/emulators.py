"""Set up the emulators: qemu, an arm64 Python and its ONNX Runtime, in a folder of the user's.

Nothing is installed. Debian's packages and PyPI's wheels are downloaded by their own clients, apt
with a configuration of its own, and unpacked; no line of what they carry runs but under emulation.
A kit is built in a temporary folder and renamed when it is whole; its `manifest.json` holds the
digest of all that was downloaded. What an interrupted set-up had downloaded is used by the next.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import ResourceError
from edgecompress.store import (
    digest_of,
    file_digest,
    library_version,
    sweep_killed,
    user_cache,
    write_atomic,
)
from edgecompress.verifying.processors import PROCESSORS, Isa, Processor

Say = Callable[[str], None]

_QEMU = {"arm64": "qemu-aarch64-static", "x86-avx2": "qemu-x86_64-static"}
_QEMU_PACKAGE = "qemu-user-static:amd64"
_ARM_PACKAGES = ("python3", "libstdc++6")
_PLATFORMS = tuple(f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 17))
_MANIFEST = "manifest.json"
_APT = """\
APT::Architecture "arm64";
APT::Architectures { "arm64"; "amd64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "@/state";
Dir::State::status "@/state/status";
Dir::Cache "@/cache";
"""
# Ubuntu keeps arm64 on servers of its own, which its usual sources do not name.
_UBUNTU_KEYS = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
_UBUNTU_SERVERS = {
    "amd64": "http://archive.ubuntu.com/ubuntu",
    "arm64": "http://ports.ubuntu.com/ubuntu-ports",
}
_OWN_SOURCES = """\
Dir::Etc::sourcelist "@/sources.list";
Dir::Etc::sourceparts "-";
"""
_SECONDS = 900
_RECIPE = digest_of(
    [_QEMU_PACKAGE, _ARM_PACKAGES, _PLATFORMS, _APT, [(p.name, p.cpuinfo) for p in PROCESSORS]]
)[:8]


@dataclass(frozen=True)
class Kits:
    """Name the folders below `cache`, one a recipe; the arm64 one also a version of the runtime."""

    cache: Path

    @property
    def downloads(self) -> Path:
        """Return the folder of what is downloaded; it goes when all is set up."""
        return self.cache / "downloads"

    @property
    def qemu(self) -> Path:
        """Return the folder of the emulators themselves."""
        return self.cache / f"qemu-{_RECIPE}"

    @property
    def arm64(self) -> Path:
        """Return the folder of the arm64 Python with this host's version of ONNX Runtime."""
        return self.cache / f"arm64-onnxruntime-{library_version('onnxruntime')}-{_RECIPE}"

    def needed(self, isa: Isa) -> tuple[Path, ...]:
        """Return the kits that an instruction set needs."""
        return (self.qemu, self.arm64) if isa == "arm64" else (self.qemu,)

    def ready(self, isa: Isa) -> bool:
        """Return whether all of them are there."""
        return all((kit / _MANIFEST).is_file() for kit in self.needed(isa))


def default_cache() -> Path:
    """Return the user's folder for emulators: $XDG_CACHE_HOME/edgecompress/emulation."""
    return user_cache() / "emulation"


def host_isa() -> Isa | None:
    """Return the instruction set that this host runs natively, where it is one of ours."""
    return "arm64" if platform.machine().lower() in ("aarch64", "arm64") else None


def obstacle() -> str:
    """Return why nothing can be emulated on this kind of machine, or nothing where it can."""
    if platform.system() != "Linux":
        return f"qemu's user-mode emulation needs Linux; this is {platform.system()}"
    if platform.machine() != "x86_64":
        return f"the emulators are made for x86-64 hosts; this is {platform.machine()}"
    return ""


def absence(isa: Isa, kits: Kits) -> str:
    """Return why `isa` cannot be imitated here and now, with the remedy, or nothing if it can."""
    if reason := obstacle():
        return reason
    if kits.ready(isa):
        return ""
    where = "" if kits.cache == default_cache() else f" --cache {kits.cache}"
    return (
        f"not set up; run 'edgecompress verify --set-up --isa {isa}{where}' once (about 120 MB of "
        "downloads, 220 MB on disk, nothing is installed)"
    )


def command(kits: Kits, processor: Processor, script: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command line that runs a Python script on `processor`, and its environment."""
    qemu = [str(kits.qemu / "bin" / _QEMU[processor.isa]), "-cpu", processor.model]
    if processor.isa == "x86-avx2":  # this host's own Python, libraries and all
        return [*qemu, sys.executable, "-P", str(script)], dict(os.environ)
    python = next((kits.arm64 / "root/usr/bin").glob("python3.*[0-9]"))
    root = kits.arm64 / "roots" / processor.name
    environment = {"PYTHONPATH": str(kits.arm64 / "site"), "LC_ALL": "C.UTF-8"}
    return [*qemu, "-L", str(root), str(python), "-P", str(script)], environment


def set_up(isa: Isa, cache: Path, say: Say) -> tuple[Path, ...]:
    """Make what `isa` needs and is not there yet; return the kits.

    Takes about ten seconds and 120 MB of downloads. Raise ResourceError, in one line, when a
    program, the network or the disk fails; the same call then goes on from what is there.
    """
    kits = Kits(cache.absolute())
    for kit in (kit for kit in kits.needed(isa) if not (kit / _MANIFEST).is_file()):
        say(f"setting up {kit.name}: downloading")
        try:
            _make(kit, kits, say)
        except OSError as error:
            raise ResourceError(
                f"{error.filename or kit}: {error.strerror or error} while setting up {isa}; "
                "free some space or give another --cache, then run the same command again"
            ) from error
        say(f"setting up {kit.name}: done")
    shutil.rmtree(kits.downloads, ignore_errors=True)
    return kits.needed(isa)


def _make(kit: Path, kits: Kits, say: Say) -> None:
    packages = (_QEMU_PACKAGE,) if kit == kits.qemu else _ARM_PACKAGES
    files = _debs(kits.downloads, kit.name, packages)
    kits.cache.mkdir(parents=True, exist_ok=True)
    sweep_killed(kits.cache, kit.name)
    new = Path(tempfile.mkdtemp(dir=kits.cache, prefix=f".{kit.name}.", suffix=".partial"))
    try:
        new.chmod(0o755)
        if kit == kits.qemu:
            _unpack_qemu(files, new / "bin")
        else:
            files += _make_arm64(files, kits.downloads / "wheels", new)
        manifest = {"files": {file.name: file_digest(file) for file in files}}
        write_atomic(new / _MANIFEST, json.dumps(manifest, indent=2).encode())
        if not (kit / _MANIFEST).is_file():  # else another process was faster
            new.rename(kit)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _make_arm64(debs: Sequence[Path], downloads: Path, kit: Path) -> list[Path]:
    """Unpack an arm64 root, with a face for each processor, and the wheels; return those."""
    root = kit / "root"
    for deb in debs:
        _run(["dpkg-deb", "-x", str(deb), str(root)], "unpacking arm64 packages")
    python = next((root / "usr/bin").glob("python3.*[0-9]"))
    wheels = _wheels(downloads, python.name.removeprefix("python"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(kit / "site")
    for processor in (p for p in PROCESSORS if p.isa == "arm64"):
        _write_face(kit / "roots" / processor.name, root, processor)
    return wheels


def _write_face(face: Path, root: Path, processor: Processor) -> None:
    """Make a root of links with its own /proc/cpuinfo, without which ONNX Runtime crashes."""
    (face / "proc").mkdir(parents=True)
    (face / "proc/cpuinfo").write_text(processor.cpuinfo)
    for part in root.iterdir():
        if part.name != "proc":
            (face / part.name).symlink_to(Path("../../root") / part.name)


def _debs(folder: Path, name: str, packages: Sequence[str]) -> list[Path]:
    """Download Debian packages with all that they need, from the sources this system trusts."""
    archives = folder / name
    for part in (folder / "state/lists", folder / "cache", archives):
        (part / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "state/status").touch()
    sources = _ubuntu_sources()
    (folder / "sources.list").write_text(sources)
    configuration = _APT + (_OWN_SOURCES if sources else "")
    (folder / "apt.conf").write_text(configuration.replace("@", str(folder)))
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}
    install = ["install", "--yes", "--download-only", "--no-install-recommends", *packages]
    for words in (["update"], ["autoclean"], install):
        apt = ["apt-get", "-q", "-o", f"Dir::Cache::archives={archives}", *words]
        _run(apt, f"apt-get {words[0]}", environment)
    return sorted(archives.glob("*.deb"))


def _ubuntu_sources() -> str:
    """Return where an Ubuntu gets packages of both kinds, or nothing on any other system."""
    try:
        codename = platform.freedesktop_os_release().get("UBUNTU_CODENAME", "")
    except OSError:
        return ""
    return "".join(
        f"deb [arch={kind} signed-by={_UBUNTU_KEYS}] {server} {suite} main universe\n"
        for kind, server in _UBUNTU_SERVERS.items()
        for suite in (codename, f"{codename}-updates")
        if codename
    )


def _wheels(folder: Path, python: str) -> list[Path]:
    """Download arm64 wheels of ONNX Runtime, in this host's version, and of numpy."""
    runtime = f"onnxruntime=={library_version('onnxruntime')}"
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), *platforms]
    pip += ["--implementation", "cp", "--python-version", python, runtime, "numpy>=2"]
    _run(pip, "pip download")
    return sorted(folder.glob("*.whl"))


def _unpack_qemu(debs: Sequence[Path], folder: Path) -> None:
    """Take the two emulators out of Debian's package, which holds some sixty."""
    folder.mkdir()
    for deb in (d for d in debs if d.name.startswith("qemu-user-static")):
        with tempfile.TemporaryFile() as stream:
            _run(["dpkg-deb", "--fsys-tarfile", str(deb)], "unpacking qemu", output=stream.fileno())
            stream.seek(0)
            with tarfile.open(fileobj=stream) as archive:
                for name in _QEMU.values():
                    found = archive.extractfile(f"./usr/bin/{name}")
                    assert found is not None
                    with found, (folder / name).open("wb") as target:
                        shutil.copyfileobj(found, target)
                    (folder / name).chmod(0o755)


def _run(
    words: Sequence[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    output: int = subprocess.PIPE,
) -> None:
    """Run a program to its end; raise ResourceError with its last words when it fails."""
    remedy = "see that it is installed and has a network, then run the same command again"
    try:
        subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.PIPE, timeout=_SECONDS, check=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ResourceError(
            f"{what}: this machine has no {words[0]}, with which Debian's packages are fetched; "
            "set up on Debian or Ubuntu"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"{what}: not done after {_SECONDS} s; {remedy}") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
        named = [line for line in said if line.startswith(("E:", "ERROR"))]
        failed = [*named, *said[-1:], f"exit status {error.returncode}"][0]
        raise ResourceError(f"{what} failed: {failed[:300]}; {remedy}") from error
