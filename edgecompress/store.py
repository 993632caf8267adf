"""The run folder: finished stages found again by content, written so that no kill can tear them.

A stage's folder is named by its key, the digest of everything that its result depends on. The
files come first, `stage.json` last and atomically: a stage is finished when that file stands
there and every artifact in it still has its digest. Resume is therefore nothing special; it is
what happens when the same run starts again.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from edgecompress.errors import FolderLockedError, ResourceError
from edgecompress.records import Artifact

T = TypeVar("T")
A = TypeVar("A", bound=Artifact)

STAGE_FILE = "stage.json"
CHECKPOINT = "checkpoint.safetensors"
STALE_S = 3600.0
_TEMPORARY = ".partial"
_RANDOM = "[a-z0-9_]" * 8  # what `tempfile` puts into a name


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def artifact(path: Path, kind: type[A]) -> A:
    """Return the record of a file as it is now: `artifact(path, OnnxModel)`."""
    return kind(path, file_digest(path), path.stat().st_size)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new one.

    A temporary file beside it is flushed to disk and renamed, then the folder entry is flushed.
    When the disk is full the old file stays and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def user_cache() -> Path:
    """Return the user's folder for what is made once on a machine: $XDG_CACHE_HOME/edgecompress.

    Raise ResourceError for a user without a home, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache").absolute() / "edgecompress"
    except RuntimeError as error:
        raise ResourceError(
            "this user has no home folder to keep a cache in; name a folder in XDG_CACHE_HOME"
        ) from error


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_folder(new: Path, final: Path) -> None:
    """Put the folder `new` in the place of `final`, whether or not that exists."""
    old = final.with_name(f".{final.name}.old{_TEMPORARY}")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    flush_folder(final.parent)


def sweep_killed(folder: Path, name: str) -> None:
    """Remove what processes that were killed left in `folder`, half written, on the way to `name`.

    An hour later: by then no other process can be at work on it. What `replace_folder` moved aside
    stays: it may be all there is.
    """
    for stray in folder.glob(f".{glob.escape(name)}.{_RANDOM}{_TEMPORARY}"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - stray.stat().st_mtime > STALE_S:
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON-like value, whatever the order of its keys.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def row_digests(inputs: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield 16 bytes a sample that tell it from any other, over all its arrays in name order."""
    arrays = [inputs[name] for name in sorted(inputs)]
    for row in range(len(arrays[0]) if arrays else 0):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row].tobytes())
        yield digest.digest()


@lru_cache(maxsize=64)
def room_digest(room: str) -> str:
    """Return the digest of a room's source (`distilling`, or a file such as `runtime.py`).

    A stage whose code changed is another stage: its old results are not taken for the new ones.
    """
    place = Path(__file__).parent / room
    kinds = ("*.py", "*.template")  # a template is source too
    found = (path for kind in kinds for path in place.rglob(kind))
    sources = sorted(found) if place.is_dir() else [place]
    return digest_of([(source.name, file_digest(source)) for source in sources])


@lru_cache(maxsize=64)
def library_version(name: str) -> str:
    """Return the installed version of a distribution."""
    return metadata.version(name)


@dataclass(frozen=True)
class StageCode:
    """Name a stage, the rooms whose source it runs and the libraries whose versions matter."""

    name: str
    rooms: tuple[str, ...]
    libraries: tuple[str, ...]

    def key(self, inputs: Mapping[str, object]) -> str:
        """Return the digest of all that the stage's result depends on."""
        return digest_of(
            {
                "stage": self.name,
                "rooms": {room: room_digest(room) for room in self.rooms},
                "libraries": {name: library_version(name) for name in self.libraries},
                "inputs": inputs,
            }
        )


@dataclass(frozen=True)
class Crew:
    """Describe the processes of one run: by default, this one alone.

    `agree(value)` returns the first process's value in every process, and so also waits for it.
    """

    rank: int = 0
    size: int = 1
    agree: Callable[[Any], Any] = field(default=lambda value: value)

    @property
    def leads(self) -> bool:
        """Return whether this process is the one that writes."""
        return self.rank == 0


@dataclass(frozen=True)
class Store:
    """Hold the stages of one run folder. Use `open_store` to get one."""

    folder: Path
    say: Callable[[str], None]
    crew: Crew = Crew()
    before_stage: Callable[[str], None] = field(default=lambda name: None)

    def once(
        self,
        code: StageCode,
        kind: type[T],
        inputs: Mapping[str, object],
        make: Callable[[Path], T],
        together: bool = False,
        title: str = "",
    ) -> T:
        """Return the stage's value: found if it was finished before, else made and kept.

        `make(folder)` writes the stage's files into `folder` and returns a frozen record of type
        `kind` whose artifacts lie there. With `together`, every process of the crew makes it
        (training); else only the leading one does and the others read its result.
        """
        folder = self.folder / "stages" / f"{code.name}-{code.key(inputs)[:16]}"
        found = self._find(folder, kind) if self.crew.leads else None
        if self.crew.agree(found is not None):
            self.say(f"{title or code.name}: reused")
            return found if found is not None else self._read(folder, kind)
        self.before_stage(code.name)
        if self.crew.leads:
            self.say(f"{title or code.name}: started")
            _sweep(folder)
        started = time.monotonic()
        if self.crew.leads or together:
            value = make(folder)
        if self.crew.leads:
            self._finish(folder, code, inputs, kind, value)
            self.say(f"{title or code.name}: done in {time.monotonic() - started:.1f} s")
        self.crew.agree(None)
        return self._read(folder, kind)

    def finished(self, name: str) -> int:
        """Return how many finished results of the stage `name` the folder holds."""
        return len(list(self.folder.glob(f"stages/{name}-*/{STAGE_FILE}")))

    def _find(self, folder: Path, kind: type[T]) -> T | None:
        if not (folder / STAGE_FILE).exists():
            return None
        try:
            value = self._read(folder, kind)
        except (ValueError, KeyError, OSError) as error:
            self.say(f"{folder.name}: damaged ({error}); it is made again")
            return None
        for item in _artifacts(value):
            if not item.path.is_file() or file_digest(item.path) != item.sha256:
                self.say(f"{item.path.name} in {folder.name}: digest differs; it is made again")
                return None
        return value

    def _read(self, folder: Path, kind: type[T]) -> T:
        document = json.loads((folder / STAGE_FILE).read_bytes())
        if digest_of(document["value"]) != document["sha256"]:
            raise ValueError("the record's digest differs")
        try:
            value = TypeAdapter(kind).validate_python(document["value"], strict=False)
        except ValidationError as error:
            raise ValueError("the record does not fit this version") from error
        return with_paths(value, lambda path: _inside(folder, path))

    def _finish(
        self, folder: Path, code: StageCode, inputs: Mapping[str, object], kind: type[T], value: T
    ) -> None:
        for item in _artifacts(value):
            with item.path.open("rb") as stream:
                os.fsync(stream.fileno())
        relative = with_paths(value, lambda path: path.relative_to(folder))
        plain = TypeAdapter(kind).dump_python(relative, mode="json")
        document = {
            "stage": code.name,
            "inputs": inputs,
            "sha256": digest_of(plain),
            "value": plain,
        }
        write_atomic(folder / STAGE_FILE, json.dumps(document, default=str).encode())
        (folder / CHECKPOINT).unlink(missing_ok=True)


@contextlib.contextmanager
def open_store(
    folder: Path,
    say: Callable[[str], None],
    crew: Crew | None = None,
    before_stage: Callable[[str], None] = lambda name: None,
) -> Iterator[Store]:
    """Open a run folder for one run at a time, sweeping what a killed one left half written.

    Raises FolderLockedError when another run holds it, ResourceError when it cannot be written.
    """
    crew, folder = crew or Crew(), folder.absolute()
    if not crew.leads:
        yield Store(folder, say, crew, before_stage)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FolderLockedError(
            f"folder {folder}: another run is working in it; wait for it or give another --out"
        ) from error
    except OSError as error:
        raise ResourceError(
            f"folder {folder}: cannot be written ({error.strerror}); give another --out"
        ) from error
    try:
        for stray in folder.rglob(f"*{_TEMPORARY}"):
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)
        yield Store(folder, say, crew, before_stage)
    finally:
        lock.release()


def artifacts_digest(value: object) -> str:
    """Return one digest over the content of all artifacts that a record holds."""
    return digest_of([item.sha256 for item in _artifacts(value)])


def _sweep(folder: Path) -> None:
    """Make an unfinished stage's folder ready: empty but for a training's checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.iterdir():
        if stray.name == CHECKPOINT:
            continue
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def _artifacts(value: object) -> list[Artifact]:
    if isinstance(value, Artifact):
        return [value]
    return [item for part in _parts(value) for item in _artifacts(part)]


def _inside(folder: Path, path: Path) -> Path:
    """Return a record's relative path in its folder; a record that leads elsewhere is damaged."""
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path} lies outside its stage's folder")
    return folder / path


def _parts(value: object) -> Sequence[object]:
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, f.name) for f in fields(value)]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple | list) and not isinstance(next(iter(value), None), float):
        return value  # but rows of samples and scores, which hold no parts, would take long
    return ()


def with_paths(value: T, change: Callable[[Path], Path]) -> T:
    """Return the record with every path in it changed; records are small, so it walks them all."""
    if isinstance(value, Path):
        return change(value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: with_paths(getattr(value, f.name), change) for f in fields(value)}
        return replace(value, **changed)
    if isinstance(value, Mapping):
        return {k: with_paths(v, change) for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, tuple) and not isinstance(next(iter(value), None), float):
        return tuple(with_paths(v, change) for v in value)  # type: ignore[return-value]
    return value
