"""What ssh and adb have in common: run a command there, bring a file there, fetch one.

The exit code of every command is sent through its output. adb's old shell protocol loses it,
and ssh uses 255 for failures of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from edgecompress.errors import DeviceError

MARK = "edgecompress-exit-code:"
COMMAND_S = 30.0  # what a short command may take
COPY_S = 600.0  # what copying a file may take


@dataclass(frozen=True)
class Ran:
    """Hold how a command ended there, and what it printed to either stream."""

    code: int
    output: str


class Device(Protocol):
    """A phone or board that answers. Each method raises DeviceError when it no longer does."""

    name: str
    scratch: str  # the folder there in which private folders are made

    def run(self, command: str, timeout_s: float = COMMAND_S) -> Ran:
        """Run a command of its shell."""

    def push(self, file: Path, there: str) -> None:
        """Copy a file there."""

    def pull(self, there: str) -> bytes:
        """Return the bytes of a file there."""


def telling_code(command: str) -> str:
    """Return a shell command that runs `command`, in English, and prints its exit code last."""
    return f"( export LC_ALL=C; {command}\n) 2>&1; code=$?; echo; echo {MARK}$code"


def told_code(output: str) -> Ran | None:
    """Return how a `telling_code` command ended; None when its end never arrived.

    >>> told_code("hello\\r\\n\\r\\nedgecompress-exit-code:3\\r\\n")
    Ran(code=3, output='hello')
    >>> told_code("hel") is None
    True
    """
    text, mark, code = output.replace("\r\n", "\n").rpartition(MARK)
    return Ran(int(code), text.strip("\n")) if mark and code.strip().isdecimal() else None


def call(
    name: str,
    command: Sequence[str],
    timeout_s: float,
    feed: IO[bytes] | int = subprocess.DEVNULL,
) -> subprocess.CompletedProcess[bytes]:
    """Run a client of this machine in a session of its own.

    So no client can ask for a password on the terminal, and Ctrl-C leaves the connection standing
    for the cleaning up. Raise DeviceError when it takes longer than `timeout_s`.
    """
    try:
        return subprocess.run(
            command,
            stdin=feed,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{name}: no answer within {timeout_s:g} s; is it still connected and awake?"
        ) from error


def last_line(text: str | bytes) -> str:
    """Return the last line that says something, in printable words."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no word of why"


def failed_copy(name: str, file: Path, words: str) -> DeviceError:
    """Return the error of a file that did not arrive."""
    if "no space left" in words.lower() or "disk quota" in words.lower():
        size = file.stat().st_size / 1e6
        return DeviceError(
            f"{name}: its disk is full: {file.name} ({size:.3g} MB) does not fit; free some space"
        )
    return DeviceError(f"{name}: {file.name} could not be copied there ({words}); try again")
