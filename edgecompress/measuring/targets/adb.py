"""Reach an Android phone with the real adb client."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from edgecompress.errors import DeviceError
from edgecompress.measuring.targets.device import (
    COMMAND_S,
    COPY_S,
    Ran,
    call,
    failed_copy,
    last_line,
    telling_code,
    told_code,
)
from edgecompress.measuring.targets.target import Target

# What `adb devices` calls a phone that is there but does not serve, and what to do then.
_UNFIT = {
    "unauthorized": "unlock it and allow USB debugging from this computer",
    "authorizing": "unlock it and allow USB debugging from this computer",
    "offline": "unplug it, plug it in again, or run 'adb reconnect'",
    "no permissions": "let this user use USB devices (Debian: package android-sdk-platform-tools)",
}

_PASSING = {"authorizing", "connecting"}  # a phone that was plugged in just now
SETTLE_S = 5.0


@contextmanager
def adb_device(target: Target) -> Iterator[AdbDevice]:
    """Find the phone. Raise DeviceError, with what to do, when it is not exactly one, or unfit."""
    end = time.monotonic() + SETTLE_S
    while _PASSING & set((attached := _attached(str(target))).values()) and time.monotonic() < end:
        time.sleep(0.1)
    yield AdbDevice(_pick(attached, target))


class AdbDevice:
    """A phone that adb reaches."""

    scratch = "/data/local/tmp"

    def __init__(self, serial: str) -> None:
        self.name = f"adb:{serial}"
        self._adb = ["adb", "-s", serial]

    def run(self, command: str, timeout_s: float = COMMAND_S) -> Ran:
        """Run a command of its shell."""
        done = call(self.name, [*self._adb, "shell", telling_code(command)], timeout_s)
        ran = told_code(done.stdout.decode(errors="replace"))
        if ran is None:
            raise self._gone(_why(done))
        return ran

    def push(self, file: Path, there: str) -> None:
        """Copy a file there."""
        done = call(self.name, [*self._adb, "push", str(file), there], COPY_S)
        if done.returncode != 0:
            words = _why(done)
            raise self._gone(words) if _is_gone(words) else failed_copy(self.name, file, words)

    def pull(self, there: str) -> bytes:
        """Return the bytes of a file there."""
        with TemporaryDirectory(prefix="edgecompress-") as folder:
            file = Path(folder) / "pulled"
            done = call(self.name, [*self._adb, "pull", there, str(file)], COPY_S)
            if done.returncode != 0 or not file.is_file():
                raise self._gone(_why(done))
            return file.read_bytes()

    def _gone(self, words: str) -> DeviceError:
        return DeviceError(
            f"{self.name}: went away ({words}); plug it in, keep it awake, then run the same "
            "command again"
        )


def _why(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the client's line about an error, which others may follow."""
    lines = (done.stderr + done.stdout).decode(errors="replace").splitlines()
    return last_line(next((line for line in lines if "error" in line), "\n".join(lines)))


def _is_gone(words: str) -> bool:
    gone = ("not found", "no devices", "offline", "closed", "protocol fault", "connect failed")
    return any(sign in words for sign in gone)


def _attached(name: str) -> dict[str, str]:
    """Return the state of each phone by its serial."""
    try:
        done = call(name, ["adb", "devices"], COMMAND_S)
    except FileNotFoundError as error:
        raise DeviceError(
            f"{name}: no adb client here; install one (Debian: apt install adb; else Android's "
            "platform-tools)"
        ) from error
    if done.returncode != 0:
        raise DeviceError(f"{name}: adb does not start ({last_line(done.stderr)})")
    listed = done.stdout.decode(errors="replace").partition("List of devices attached")[2]
    rows = (line.split(maxsplit=1) for line in listed.splitlines() if line.strip())
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows}


def _pick(attached: dict[str, str], target: Target) -> str:
    """Return the serial of the one phone that is meant and serves."""
    serials = ", ".join(sorted(attached)) or "none"
    if target.address:
        if target.address not in attached:
            raise DeviceError(f"{target}: not attached; 'adb devices' lists {serials}")
        chosen = target.address
    elif len(attached) == 1:
        (chosen,) = attached
    elif attached:
        raise DeviceError(
            f"adb: {len(attached)} phones are attached ({serials}); say which one, "
            f"such as --target adb:{min(attached)}"
        )
    else:
        raise DeviceError(
            "adb: no phone is attached; plug one in, switch USB debugging on in its developer "
            "options and allow this computer"
        )
    state = attached[chosen]
    if state != "device":
        remedy = next((r for s, r in _UNFIT.items() if state.startswith(s)), "start Android on it")
        raise DeviceError(f"adb:{chosen}: is {state or 'in no known state'}; {remedy}")
    return chosen
