"""A fake phone: the device side of adb, just enough for the real client, on loopback.

It speaks the old protocol, whose `shell:` knows no exit codes. What it is asked it runs in this
machine's own shell, in a folder that stands for the phone's. No real phone has run any of this.
The wire format: packages/modules/adb/protocol.txt and SYNC.TXT of Android's sources.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VERSION, LARGEST = 0x01000000, 65536
Packet = tuple[bytes, int, int, bytes]


@dataclass
class Phone:
    folder: Path  # stands for /data/local/tmp
    environment: dict[str, str]
    full: bool = False  # whether its disk is
    spoils: bool = False  # whether what it stores is another thing than what it was sent
    unplug_at: str | None = None  # a command that holds this text pulls the cable
    trusts: bool = True  # whether its owner has allowed USB debugging
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def listen(self) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = self.door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                line = Line(self, self.door.accept()[0])
                threading.Thread(target=line.answer, daemon=True).start()

    def here(self, path: str) -> Path:
        return self.folder / Path(path).relative_to("/data/local/tmp")


class Line:
    """One connection to the client's server."""

    def __init__(self, phone: Phone, line: socket.socket) -> None:
        self.phone, self.line = phone, line
        self.theirs: dict[int, int] = {}  # their number of a stream, by ours
        self.stored: dict[int, bytes] = {}  # what a stream has brought so far

    def answer(self) -> None:
        with suppress(OSError), self.line:
            while packet := self._receive():
                self._take(*packet)

    def _take(self, command: bytes, first: int, second: int, body: bytes) -> None:
        match command:
            case b"CNXN" | b"AUTH" if not self.phone.trusts:
                self._send(b"AUTH", 1, 0, bytes(20))  # sign this; no signature will do
            case b"CNXN":
                banner = b"device::ro.product.name=fake;ro.product.model=Fake Phone;"
                self._send(b"CNXN", VERSION, LARGEST, banner)
            case b"OPEN":
                ours = len(self.theirs) + 1
                self.theirs[ours] = first
                self._send(b"OKAY", ours, first)
                service = body.rstrip(b"\0").decode()
                if service.startswith("shell:"):
                    threading.Thread(target=self._shell, args=(ours, service[6:])).start()
                self.stored[ours] = b""
            case b"WRTE":
                self._send(b"OKAY", second, first)
                self._sync(second, body)

    def _shell(self, ours: int, command: str) -> None:
        phone = self.phone
        phone.asked.append(command)
        if phone.unplug_at and phone.unplug_at in command:
            self.line.shutdown(socket.SHUT_RDWR)
            return
        local = command.replace("/data/local/tmp", str(phone.folder))
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        done = subprocess.run(["sh", "-c", local], env=phone.environment, check=False, **streams)
        told = done.stdout.replace(b"\n", b"\r\n")  # as a terminal does; the code is lost
        told = told.replace(str(phone.folder).encode(), b"/data/local/tmp")
        with suppress(OSError):
            self._write(ours, told)
            self._send(b"CLSE", ours, self.theirs[ours])

    def _sync(self, ours: int, body: bytes) -> None:
        """Serve STAT, SEND and RECV as soon as a request is complete."""
        data = self.stored[ours] = self.stored[ours] + body
        kind, length = data[:4], int.from_bytes(data[4:8], "little")
        name = data[8 : 8 + length].decode()
        if kind == b"SEND":
            if data[-8:-4] != b"DONE":
                return
            self._write(ours, self._store(name.rpartition(",")[0], data[8 + length : -8]))
        elif kind == b"STAT":
            file = self.phone.here(name)
            mode = file.stat().st_mode if file.exists() else 0
            size = file.stat().st_size if mode else 0
            self._write(ours, b"STAT" + struct.pack("<III", mode, size, 0))
        elif kind == b"RECV":
            content = self.phone.here(name).read_bytes()
            parts = (content[i : i + LARGEST] for i in range(0, len(content), LARGEST))
            chunks = b"".join(b"DATA" + struct.pack("<I", len(p)) + p for p in parts)
            self._write(ours, chunks + b"DONE" + bytes(4))
        elif kind == b"QUIT":
            self._send(b"CLSE", ours, self.theirs[ours])
        self.stored[ours] = b""

    def _store(self, name: str, chunks: bytes) -> bytes:
        if self.phone.full:
            words = b"No space left on device"
            return b"FAIL" + struct.pack("<I", len(words)) + words
        content, place = b"", 0
        while place < len(chunks):
            length = int.from_bytes(chunks[place + 4 : place + 8], "little")
            content += chunks[place + 8 : place + 8 + length]
            place += 8 + length
        self.phone.here(name).write_bytes(content[::-1] if self.phone.spoils else content)
        return b"OKAY" + bytes(4)

    def _write(self, ours: int, data: bytes) -> None:
        for start in range(0, len(data), LARGEST):
            self._send(b"WRTE", ours, self.theirs[ours], data[start : start + LARGEST])

    def _send(self, command: bytes, first: int, second: int, body: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        head = (number, first, second, len(body), sum(body) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        self.line.sendall(struct.pack("<6I", *head) + body)

    def _receive(self) -> Packet | None:
        head = self._exactly(24)
        if len(head) < 24:
            return None
        number, first, second, length, _, _ = struct.unpack("<6I", head)
        return number.to_bytes(4, "little"), first, second, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while part := self.line.recv(count - len(data)) if len(data) < count else b"":
            data += part
        return data
