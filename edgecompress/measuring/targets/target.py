"""Say where models are measured: `host`, `ssh:[user@]host[:port]` or `adb[:SERIAL]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgecompress.errors import UsageError

EXPECTED = "expected host, ssh:user@host[:port] or adb[:SERIAL]"
# No part may start with '-': the clients would take it for an option.
_SSH = re.compile(
    r"(?P<login>(\w[\w.-]*@)?(\w[\w.-]*|\[[0-9A-Fa-f:.]+\]))(:(?P<port>[0-9]{1,5}))?", re.ASCII
)
_SERIAL = re.compile(r"\w[\w.:-]*", re.ASCII)


@dataclass(frozen=True)
class Target:
    """Name a machine that measures: `address` is an ssh login or an adb serial, or empty."""

    kind: Literal["host", "ssh", "adb"] = "host"
    address: str = ""
    port: int | None = None

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.kind}:{self.address}{port}" if self.address else self.kind


HOST = Target()


def parse_target(text: str) -> Target:
    """Return the target that `text` names; raise UsageError, one line, when it names none.

    >>> parse_target("ssh:pi@raspberry.local:2222")
    Target(kind='ssh', address='pi@raspberry.local', port=2222)
    >>> parse_target("adb"), parse_target("adb:emulator-5554").address
    (Target(kind='adb', address='', port=None), 'emulator-5554')
    """
    kind, colon, rest = text.partition(":")
    if text == "host":
        return HOST
    if kind == "adb" and (not colon or _SERIAL.fullmatch(rest)):
        return Target("adb", rest)
    if kind == "ssh" and (found := _SSH.fullmatch(rest)):
        port = found["port"]
        if port is None or 1 <= int(port) <= 65535:
            return Target("ssh", found["login"], int(port) if port else None)
        raise UsageError(f"--target {text}: port {port}: expected a number from 1 to 65535")
    raise UsageError(f"--target {text}: {EXPECTED}")
