"""Load a task from the user's Python file, and tell a changed task from an unchanged one."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgecompress.errors import DataError, EdgecompressError, TaskError
from edgecompress.settings import did_you_mean
from edgecompress.store import digest_of, file_digest, room_digest, write_atomic
from edgecompress.tasks.task import Split, Task

# A file changed this recently may change again without a new time stamp: it is not memoised.
_SETTLED_S = 2.0

# In a checkout this package may lie beside a task; it is no part of one.
_OURSELVES = "edgecompress"

# Marks the modules that came out of a task's folder, so that the next load reads them afresh.
_MARK = "__edgecompress_task_folder__"


def task_file(spec: str, base: Path) -> tuple[Path, str]:
    """Return the file and function that `file.py:function` names; the file is relative to `base`.

    Raises TaskError when the text has another form or the file is not there.
    """
    name, colon, function = spec.rpartition(":")
    if not colon or not name.endswith(".py") or not function.isidentifier():
        raise TaskError(f'task {spec!r}: expected file.py:function, e.g. task = "my_task.py:task"')
    file = (base / name).absolute()
    if not file.is_file():
        beside = file.parent.glob("*.py") if file.parent.is_dir() else ()
        near = did_you_mean(file.name, [path.name for path in beside])
        raise TaskError(f"task {spec!r}: no file {file}{near}")
    return file, function


def load_task(spec: str, base: Path, data: Path | None = None) -> Task:
    """Return what the user's function `file.py:function` returns.

    The function takes nothing, or one argument: `data`, the path in the recipe. While it runs,
    and whenever the task's teacher or student is made, the file's folder can be imported from.
    Raises TaskError, in one line, that names the user's line where something was raised.
    """
    file, name = task_file(spec, base)
    with _user_code(file, f"task {spec!r}"):
        module = _import_file(file)
        function = getattr(module, name, None)
        if not callable(function):
            functions = [n for n, value in vars(module).items() if inspect.isfunction(value)]
            raise TaskError(
                f"task {spec!r}: {file} has no function {name!r}{did_you_mean(name, functions)}"
            )
        task = function(*_arguments(spec, function, data))
    if not isinstance(task, Task):
        raise TaskError(
            f"task {spec!r}: returned type {type(task).__name__}; expected edgecompress.Task(...)"
        )
    return replace(
        task,
        teacher=_within(file, f"task {spec!r}, teacher", task.teacher),
        student=task.student and _within(file, f"task {spec!r}, student", task.student),
    )


def task_fingerprint(task: Task, file: Path | None, memo: Path | None = None) -> dict[str, str]:
    """Return digests of all that makes a task what it is, by name.

    That is its file (None for a task made in a notebook: then the source of its augmentation and
    metric), the modules beside it that it imports (anywhere, also inside functions), its splits,
    its class names, its metric and its tokenizer. A split is
    digested by the files it was read from; a split without files by its arrays. `memo` is a JSON
    file in which the digests of data files are kept by path, size and modification time.
    """
    digests = _code_digests(file) if file else _function_digests(task)
    known = _read_memo(memo)
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    if task.unlabelled is not None:
        splits["unlabelled"] = task.unlabelled
    for name, split in splits.items():
        digests[f"data {name}"] = _split_digest(split, known)
    if memo is not None and known:
        write_atomic(memo, json.dumps(known, sort_keys=True).encode())
    digests["class names"] = digest_of(task.class_names)
    digests["metric"] = task.metric.name
    if task.kind != "classification":
        digests["kind"] = task.kind
    if task.tokenizer is not None:
        code = room_digest("tasks/tokenizers.py")
        digests["tokenizer"] = digest_of([task.tokenizer.to_json(), code])
    return digests


def _code_digests(file: Path) -> dict[str, str]:
    sources = [file, *local_modules(file)]
    return {f"code {path.relative_to(file.parent)}": file_digest(path) for path in sources}


def _function_digests(task: Task) -> dict[str, str]:
    """Return digests of the functions whose work the stages keep, by their source."""
    digests = {}
    for name, function in (("augment", task.augment), ("metric", task.metric.per_sample)):
        try:
            digests[f"code {name}"] = digest_of(inspect.getsource(function) if function else "")
        except (OSError, TypeError):  # typed into a prompt, or no function: its name must do
            digests[f"code {name}"] = digest_of(getattr(function, "__qualname__", repr(function)))
    return digests


def local_modules(file: Path) -> list[Path]:
    """Return the Python files beside `file` that it imports, directly or through one another.

    Found by reading the sources, so that an import inside a function counts before it runs. A
    package counts with all its files.
    """
    folder, found, pending = file.parent, set[Path](), [file]
    while pending:
        for name in _imported_names(pending.pop()) - {_OURSELVES}:
            places = [folder / f"{name}.py", *(folder / name).rglob("*.py")]
            new = [path for path in places if path.is_file() and path not in found | {file}]
            found.update(new)
            pending += new
    return sorted(found)


def _imported_names(file: Path) -> set[str]:
    """Return the first parts of the names of all modules that a source file imports."""
    names: set[str] = set()
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # it cannot be imported either, and says so when it is
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _arguments(spec: str, function: Callable[..., Any], data: Path | None) -> tuple[Path, ...]:
    """Return the arguments that the task's function asks for: none, or the data's path."""
    parameters = list(inspect.signature(function).parameters.values())
    required = [p for p in parameters if p.default is p.empty and "VAR" not in p.kind.name]
    if len(required) > 1:
        raise TaskError(
            f"task {spec!r}: takes {len(required)} arguments "
            f"({', '.join(p.name for p in required)}); expected none, or one: the data's path"
        )
    if required and data is None:
        raise TaskError(
            f'task {spec!r}: needs the path of its data; add data = "..." to the recipe, or '
            "--set data=PATH"
        )
    if data is None:
        return ()
    if not parameters:
        raise TaskError(
            f'task {spec!r}: takes no argument, but the recipe gives data = "{data}"; '
            f"write `def {function.__name__}(data)` or take `data` out"
        )
    if not data.exists():
        raise DataError(f"data {data}: no such file or folder; it is `data` in the recipe")
    return (data,)


def _import_file(file: Path) -> ModuleType:
    """Execute a file as a module of its own, afresh, with its neighbours afresh too."""
    for known, module in list(sys.modules.items()):
        top = known.partition(".")[0]
        beside = (file.parent / f"{top}.py").is_file() or (file.parent / top).is_dir()
        if beside and hasattr(module, _MARK):
            del sys.modules[known]
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and typing look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _within(file: Path, what: str, make: Callable[[], Any]) -> Callable[[], Any]:
    """Return `make` run as the task's own code: its folder importable, its errors one line."""

    def made() -> Any:
        with _user_code(file, what):
            return make()

    return functools.update_wrapper(made, make, updated=())


@contextlib.contextmanager
def _user_code(file: Path, what: str) -> Iterator[None]:
    """Let the file's folder be imported from, and turn what is raised into one line."""
    folder = str(file.parent)
    before = dict(sys.modules)
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    except (EdgecompressError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise TaskError(f"{what}: {_where(error, file)}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        for name, module in list(sys.modules.items()):
            ours = name.partition(".")[0] == _OURSELVES
            new = module is not before.get(name) and not ours
            if new and _is_beside(getattr(module, "__file__", None), file):
                setattr(module, _MARK, folder)


def _is_beside(source: str | None, file: Path) -> bool:
    """Return whether a source file is the user's own: below the task's folder, not installed."""
    if not source or "site-packages" in source:
        return False
    return Path(source).is_relative_to(file.parent)


def _where(error: BaseException, file: Path) -> str:
    """Return the place in the user's files that raised: the last frame beside the task."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_beside(frame.filename, file):
            return f"{frame.filename}, line {frame.lineno}"
    return str(file)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"


def _split_digest(split: Split, known: dict[str, list[Any]]) -> str:
    if split.files:
        return digest_of([_data_file_digest(path, known) for path in split.files])
    digest = hashlib.sha256()
    labels = {} if split.labels is None else {"labels": split.labels}
    for kind, arrays in (("inputs", split.inputs), ("labels", labels)):
        for name, array in arrays.items():
            digest.update(f"{kind}/{name}/{array.dtype}/{array.shape}/".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def _data_file_digest(path: Path, known: dict[str, list[Any]]) -> str:
    key = str(path.absolute())
    try:
        facts = path.stat()
        found = known.get(key)
        if found is not None and found[:2] == [facts.st_size, facts.st_mtime_ns]:
            return str(found[2])
        digest = file_digest(path)
    except OSError as error:
        raise DataError(
            f"data {path}: cannot be read: {error.strerror}; Split.files must name existing files"
        ) from error
    known.pop(key, None)
    if time.time() - facts.st_mtime > _SETTLED_S:
        known[key] = [facts.st_size, facts.st_mtime_ns, digest]
    return digest


def _read_memo(memo: Path | None) -> dict[str, list[Any]]:
    """Return the memo; one that cannot be read is forgotten, since hashing again is harmless."""
    try:
        found = json.loads(memo.read_bytes()) if memo else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(found, Mapping):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 3}
