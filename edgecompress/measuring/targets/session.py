"""Work on a device in a private folder, which is gone at the end whatever happens."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from edgecompress.errors import DeviceError
from edgecompress.measuring.targets.adb import adb_device
from edgecompress.measuring.targets.device import Device, Ran, failed_copy, last_line
from edgecompress.measuring.targets.ssh import ssh_device
from edgecompress.measuring.targets.target import Target
from edgecompress.store import file_digest

PROCESS_S = 300.0  # what one measuring process may take there
_NAME = "edgecompress-visit-"  # no other folder is called so: those that grow old are removed
_KILL = 'for p in pid/*; do [ -e "$p" ] && kill -9 ${p##*/} 2>/dev/null; done'


def connected(target: Target) -> AbstractContextManager[Device]:
    """Reach the device; raise DeviceError, one line with what to do, when it cannot be."""
    return ssh_device(target) if target.kind == "ssh" else adb_device(target)


class Workplace:
    """A private folder on a device. Names are those of files in it."""

    def __init__(self, device: Device, folder: str) -> None:
        self.device, self.folder = device, folder

    def path(self, name: str) -> str:
        """Return the path there."""
        return f"{self.folder}/{name}"

    def run(self, command: str, timeout_s: float | None = None) -> Ran:
        """Run a shell command in the folder."""
        # ONNX Runtime, for one, leaves a file where temporary files go.
        inside = f"cd {shlex.quote(self.folder)} && export TMPDIR=$PWD && {{ {command}\n}}"
        return self.device.run(inside, timeout_s) if timeout_s else self.device.run(inside)

    def put(self, file: Path, name: str) -> None:
        """Push a file and see that it arrived unharmed."""
        self._need_space(file)
        self.device.push(file, self.path(name))
        if self._digest(name) != file_digest(file):
            raise DeviceError(
                f"{self.device.name}: {file.name} arrived damaged (SHA-256 differs); "
                "check the cable or the card, then try again"
            )

    def get(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self.device.pull(self.path(name))

    def process(self, command: str, sustained_s: float = 0.0) -> Ran:
        """Run one measuring process; it can be ended from outside while it runs.

        `sustained_s` is how long it goes on beyond what a measurement takes.
        """
        return self.run(
            f"mkdir -p pid && {{ {command} & p=$!; : > pid/$p; wait $p; c=$?; rm -f pid/$p; "
            "exit $c; }",
            PROCESS_S + sustained_s,
        )

    def _need_space(self, file: Path) -> None:
        """Refuse early what cannot fit; where `df` tells nothing, the copy itself will."""
        ran = self.run("df -k . | tail -n 1")
        columns = [part for part in ran.output.split() if part.isdecimal()]
        free = int(columns[2]) * 1024 if len(columns) >= 3 else None
        if free is not None and free < file.stat().st_size:
            raise failed_copy(self.device.name, file, "no space left")

    def _digest(self, name: str) -> str:
        """Return the SHA-256 of a file there."""
        ran = self.run(f"sha256sum {name} || toybox sha256sum {name} || shasum -a 256 {name}")
        found = [part for part in ran.output.split() if len(part) == 64]
        if not found:
            raise DeviceError(
                f"{self.device.name}: no sha256sum there ({last_line(ran.output)}), so that no "
                "copy can be verified; install coreutils, busybox or toybox"
            )
        return found[0]


@contextmanager
def workplace(device: Device) -> Iterator[Workplace]:
    """Make a folder that only its owner may enter; end its processes and remove it at the end."""
    folder = f"{device.scratch}/{_NAME}{secrets.token_hex(8)}"
    quoted = shlex.quote(folder)
    # What an unplugged cable left behind goes a day later: by then nobody can be using it.
    stale = f"find {shlex.quote(device.scratch)} -maxdepth 1 -name '{_NAME}*' -mtime +0"
    device.run(f"{stale} -exec rm -rf {{}} \\; 2>/dev/null")
    try:
        made = device.run(f"umask 077 && mkdir {quoted}")
        if made.code != 0:
            words = last_line(made.output)
            raise DeviceError(f"{device.name}: no folder can be made in {device.scratch} ({words})")
        yield Workplace(device, folder)
    finally:
        with suppress(DeviceError):  # it is away: the reason is told already
            device.run(f"cd {quoted} && {{ {_KILL}; }}; rm -rf {quoted}")
