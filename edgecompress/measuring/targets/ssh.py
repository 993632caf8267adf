"""Reach a board with the system's own ssh client, over one connection that all commands share.

Files go through `cat`: what has a shell but no sftp server (dropbear) will do.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

CONNECT_S = 15
# What ~/.ssh/config may say of a host that is mostly looked at, or tunnelled through, is overruled.
_OPTIONS = (
    ("IgnoreUnknown", "*"),  # clients before 8.7 know not all of these
    ("BatchMode", "yes"),  # never ask
    ("ConnectTimeout", str(CONNECT_S)),
    ("ServerAliveInterval", "5"),  # an unplugged board is noticed after 15 s
    ("ServerAliveCountMax", "3"),
    ("LogLevel", "ERROR"),
    ("RequestTTY", "no"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("ClearAllForwardings", "yes"),
    ("PermitLocalCommand", "no"),
    ("ControlPersist", "no"),  # else the connection stays when we hang up
    ("RemoteCommand", "none"),
    ("Tunnel", "no"),
    ("StdinNull", "no"),  # files go through it
    ("ForkAfterAuthentication", "no"),
)


@contextmanager
def ssh_device(target: Target) -> Iterator[SshDevice]:
    """Connect, and hang up at the end. Raise DeviceError, with what to do, when it cannot."""
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder:
        device = SshDevice(target, Path(folder) / "socket")
        with device.connected(Path(folder) / "errors"):
            device.scratch = device.run('echo "${TMPDIR:-/tmp}"').output.strip()
            yield device


class SshDevice:
    """A board that an ssh server runs on."""

    def __init__(self, target: Target, socket: Path) -> None:
        self.name, self.scratch = str(target), ""
        self._target, self._socket = target, socket

    @contextmanager
    def connected(self, errors: Path) -> Iterator[None]:
        """Hold the connection that the commands share; `errors` hears why there is none."""
        with errors.open("wb") as told:
            try:
                master = subprocess.Popen(
                    [*self._client("ControlMaster=yes"), "-N", "--", self._login],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=told,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise DeviceError(
                    f"{self.name}: no ssh client here; install one (Debian: openssh-client)"
                ) from error
        try:
            end = time.monotonic() + 2 * CONNECT_S
            while not self._socket.exists() and master.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            if not self._socket.exists():
                raise self._refusal(errors.read_text(errors="replace"))
            yield
        finally:
            master.terminate()
            master.wait()

    def run(self, command: str, timeout_s: float = COMMAND_S) -> Ran:
        """Run a command of its shell."""
        done = call(self.name, self._asking(telling_code(command)), timeout_s)
        return self._ended(done)

    def push(self, file: Path, there: str) -> None:
        """Copy a file there."""
        command = self._asking(telling_code(f"cat > {shlex.quote(there)}"))
        with file.open("rb") as content:
            ran = self._ended(call(self.name, command, COPY_S, content))
        if ran.code != 0:
            raise failed_copy(self.name, file, last_line(ran.output))

    def pull(self, there: str) -> bytes:
        """Return the bytes of a file there."""
        done = call(self.name, self._asking(f"cat {shlex.quote(there)}"), COPY_S)
        if done.returncode != 0:
            raise self._gone(last_line(done.stderr))
        return done.stdout

    @property
    def _login(self) -> str:
        return self._target.address.replace("[", "").replace("]", "")

    def _client(self, *own: str) -> list[str]:
        options = [f"{name}={value}" for name, value in _OPTIONS]
        options += [*own, f"ControlPath={self._socket}"]
        port = ["-p", str(self._target.port)] if self._target.port else []
        return ["ssh", *(part for option in options for part in ("-o", option)), *port]

    def _asking(self, command: str) -> list[str]:
        """Return the client's call for a command; the login's shell may be any, ours is sh."""
        asked = f"sh -c {shlex.quote(command)}"
        client = self._client("ControlMaster=no", "SessionType=default")
        return [*client, "--", self._login, asked]

    def _ended(self, done: subprocess.CompletedProcess[bytes]) -> Ran:
        ran = told_code(done.stdout.decode(errors="replace"))
        if ran is None:
            raise self._gone(last_line(done.stderr or done.stdout))
        return ran

    def _gone(self, words: str) -> DeviceError:
        return DeviceError(
            f"{self.name}: the connection broke ({words}); see that it is on and reachable, "
            "then run the same command again"
        )

    def _refusal(self, told: str) -> DeviceError:
        """Return why no connection came about, and what to do."""
        words, port = last_line(told), f"-p {self._target.port} " if self._target.port else ""
        if "Host key verification failed" in told:
            return DeviceError(
                f"{self.name}: its host key is not known here or has changed; run "
                f"'ssh {port}{self._login}' once and compare it"
            )
        if "Permission denied" in told or "Too many authentication failures" in told:
            return DeviceError(
                f"{self.name}: refused the login ({words}); no password is ever asked for: set up "
                f"a key with 'ssh-copy-id {port}{self._login}'"
            )
        return DeviceError(
            f"{self.name}: cannot be reached ({words}); is it on, and are name and port right?"
        )
