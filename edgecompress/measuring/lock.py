"""Let only one measurement run on a machine at a time, whoever started it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from edgecompress.errors import ResourceError

PATIENCE_S = 3600.0
COMMON = Path("/tmp")


@contextlib.contextmanager
def alone(progress: Callable[[str], None], patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the machine-wide lock; say so when another measurement has to end first.

    Raise ResourceError when it has not ended after `patience_s`, or nobody may write the lock.
    """
    lock = FileLock(_folder() / "lock", mode=0o666)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("waiting for another measurement on this machine to end")
            lock.acquire(timeout=patience_s, poll_interval=0.1)
    except Timeout as error:
        raise ResourceError(
            f"another measurement holds {lock.lock_file} since {patience_s:g} s; end it, try again"
        ) from error
    except OSError as error:
        raise ResourceError(f"{lock.lock_file}: cannot lock ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def _folder() -> Path:
    """Return a folder that all users may write in.

    The temporary folder itself will not do: with its sticky bit, Linux refuses to open another
    user's file there for writing (fs.protected_regular).
    """
    common = COMMON if os.access(COMMON, os.W_OK) else Path(tempfile.gettempdir())
    folder = common / "edgecompress-measuring"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user's, who has opened it already
        if not folder.is_symlink():  # nobody's plant shall open another folder
            folder.chmod(0o777)
    return folder
