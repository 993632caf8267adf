"""A real ssh server on loopback, in this process, and the stock ssh client made to reach it.

It runs what it is asked in this machine's own shell, in a home and with a PATH of its own: it is
the board of the tests. Only the key of its client fixture opens it.
"""

from __future__ import annotations

import asyncio
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

SSH = shutil.which("ssh")


@dataclass
class Board:
    """The server: where it listens, what its commands see, and what was asked of it."""

    home: Path
    environment: dict[str, str]
    port: int = 0
    asked: list[str] = field(default_factory=list)
    unplug_at: str | None = None  # a command that holds this text breaks the connection
    busy: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run one command; what it started is waited for, even when nobody listens any more."""
        task = asyncio.create_task(self._serve(process))
        self.busy.add(task)
        task.add_done_callback(self.busy.discard)
        await asyncio.shield(task)

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.asked.append(command)
        if self.unplug_at and self.unplug_at in command:
            process.channel.get_connection().abort()
            return
        child = await asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env=self.environment,
        )
        output, errors = await child.communicate(await process.stdin.read())
        with suppress(BrokenPipeError, OSError):
            process.stdout.write(output)
            process.stderr.write(errors)
            process.exit(child.returncode or 0)


@contextmanager
def serving(board: Board, folder: Path) -> Iterator[Path]:
    """Serve until the block ends; yield the client's configuration file."""
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user_key.write_private_key(folder / "key")
    (folder / "key").chmod(stat.S_IRUSR | stat.S_IWUSR)
    user_key.write_public_key(folder / "authorized")
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(folder / "authorized"),
            process_factory=board.handle,
            encoding=None,
        )
    )
    board.port = server.get_port()
    known = f"[localhost]:{board.port} {host_key.export_public_key().decode()}"
    (folder / "known").write_text(known)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield _configuration(folder)
    finally:
        asyncio.run_coroutine_threadsafe(_close(server, board), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncssh.SSHAcceptor, board: Board) -> None:
    """Hang up; what a command started there must end by itself."""
    if board.busy:
        await asyncio.wait_for(asyncio.gather(*board.busy, return_exceptions=True), 8)
    server.close()
    await server.wait_closed()


def _configuration(folder: Path) -> Path:
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  AddressFamily inet\n"
        f"  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
    )
    return folder / "config"


def stock_client(folder: Path, configuration: Path) -> Path:
    """Return a folder for the front of PATH whose `ssh` is the stock client with that file.

    The client reads no other: it takes its home from the user database, not from HOME.
    """
    folder.mkdir()
    client = folder / "ssh"
    client.write_text(f'#!/bin/sh\nexec {SSH} -F {configuration} "$@"\n')
    client.chmod(0o755)
    return folder
