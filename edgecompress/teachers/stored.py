"""Teach with soft targets that somebody wrote down: another framework, another machine, an API.

A `.npz` file holds `logits` or `probabilities`, shape (samples, classes), or what a task of another
kind has in their place (numbers and vectors are `logits` too); `samples`, the digest of each
sample's inputs, 16 bytes a row; and, when known, `class_names`. `save_soft_targets` writes it.
A `.parquet` file holds the same as columns (lists of numbers; `samples` as 32 hexadecimal digits);
it is read with pyarrow where that is installed.

A target belongs to what the sample is, never to a place in a batch: so nothing is mixed up by
shuffling, and a sample that was augmented, or that the file does not know, is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.errors import DataError, TeacherError
from edgecompress.records import Kind
from edgecompress.runtime import read_npz
from edgecompress.store import row_digests, write_atomic
from edgecompress.teachers.forms import Form
from edgecompress.teachers.protocol import (
    are_probabilities,
    are_shares,
    column_order,
    log_odds,
    log_probabilities,
    reason,
)

Arrays = Mapping[str, NDArray[Any]]
KINDS = ("logits", "probabilities")
AXES: Mapping[Kind, str] = {
    "classification": "classes",
    "binary": "1 or 2",
    "multilabel": "labels",
    "regression": "values",
    "embedding": "width",
    "tokens": "classes, tokens",
}
_HOW = "write it with edgecompress.teachers.stored.save_soft_targets"


@dataclass(frozen=True)
class StoredTargets:
    """Name a file of soft targets; a task's teacher returns this, or the path alone.

    `inputs` are the samples that the rows belong to, split after split in the rows' order. They
    are needed for a file without `samples`, and checked against a file that has them.
    """

    path: Path | str
    inputs: Sequence[Arrays] = ()


@dataclass(frozen=True)
class StoredTeacher:
    """Answer each sample with the logits that were stored for it."""

    path: Path
    rows: Mapping[bytes, int]
    stored: Tensor

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the stored logits; raise TeacherError for a sample that has none."""
        return self.stored[self.places({name: t.cpu().numpy() for name, t in inputs.items()})]

    def places(self, inputs: Arrays) -> list[int]:
        """Return the row of each sample; raise TeacherError for one that has none."""
        keys = list(row_digests(inputs))
        unknown = [place for place, key in enumerate(keys) if key not in self.rows]
        if unknown:
            raise TeacherError(
                f"teacher {self.path}: has no soft targets for {len(unknown)} of {len(keys)} "
                "samples asked for; it knows samples only as they were when it was written: store "
                "targets for train, validation, test and unlabelled, and leave the task's augment "
                "and the recipe's mixing out"
            )
        return [self.rows[key] for key in keys]

    @property
    def fingerprint(self) -> str:
        """Return a digest of all that the teacher knows."""
        digest = hashlib.sha256(self.stored.numpy().tobytes())
        for key in self.rows:
            digest.update(key)
        return digest.hexdigest()


def save_soft_targets(
    path: Path | str,
    inputs: Sequence[Arrays],
    logits: NDArray[Any] | None = None,
    probabilities: NDArray[Any] | None = None,
    class_names: tuple[str, ...] = (),
    kind: Kind = "classification",
) -> None:
    """Write soft targets for the samples of one or more splits, in their order, as `.npz`.

    Give `logits` or `probabilities`, shape (samples, classes) or what the task's `kind` has in
    their place. Raises TeacherError, as reading would, before anything is written.
    """
    given = {"logits": logits, "probabilities": probabilities}
    arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
    keys = _keys(inputs)
    arrays["samples"] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
    if class_names:
        arrays["class_names"] = np.array(class_names)
    _teacher(Path(path), arrays, (), Form(kind, class_names))
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    write_atomic(Path(path), stream.getvalue())


def stored_teacher(source: StoredTargets, form: Form) -> StoredTeacher:
    """Return a teacher that reads a file of soft targets; raise TeacherError for a bad one."""
    path = Path(source.path)
    try:
        arrays = _read_parquet(path) if path.suffix == ".parquet" else read_npz(path, "teacher")
    except DataError as error:
        raise TeacherError(f"{error}; {_HOW}") from error
    return _teacher(path, arrays, source.inputs, form)


def _teacher(path: Path, arrays: Arrays, inputs: Sequence[Arrays], form: Form) -> StoredTeacher:
    logits = _logits(path, arrays, form.kind)
    known = arrays["class_names"].tolist() if "class_names" in arrays else []
    if known and form.class_names:
        order = column_order(known, form.class_names, f"{path} was written for")
        if logits.shape[1:2] == (len(order),):
            logits = logits[:, list(order)]
        elif list(order) != sorted(order):  # one column says it all: yes in the place of no
            logits = -logits
    keys = _row_keys(path, arrays, inputs, len(logits))
    rows: dict[bytes, int] = {}
    for row, key in enumerate(keys):  # of a sample that stands twice, the first row counts
        rows.setdefault(key, row)
    return StoredTeacher(path, rows, torch.from_numpy(logits))


def _logits(path: Path, arrays: Arrays, kind: Kind) -> NDArray[np.float32]:
    """Return the file's logits, float32, whatever it holds."""
    found = [name for name in KINDS if name in arrays]
    if len(found) != 1:
        raise TeacherError(
            f"teacher {path}: holds {', '.join(arrays) or 'nothing'}; expected exactly one of "
            f"logits and probabilities; {_HOW}"
        )
    name, values = found[0], arrays[found[0]]
    if values.dtype.kind != "f" or not len(values) or not _has_axes(values, kind):
        raise TeacherError(
            f"teacher {path}: {name} are {values.dtype} of shape {values.shape}; expected "
            f"floats of shape (samples, {AXES[kind]})"
        )
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        raise TeacherError(f"teacher {path}: {name} of row {int(np.argmin(finite))} are not finite")
    match kind:
        case "regression" | "embedding":
            answers = _numbers(path, name, values)
        case "multilabel":
            answers = _odds(path, name, values)
        case "binary" if values.ndim == 1 or values.shape[1] == 1:
            answers = _odds(path, name, values)
        case _:
            answers = _logs(path, name, values)
    return answers.astype(np.float32)


def _has_axes(values: NDArray[Any], kind: Kind) -> bool:
    match kind:
        case "classification":
            return values.ndim == 2 and values.shape[1] > 1
        case "binary" | "regression":
            return values.ndim in (1, 2)
        case "multilabel" | "embedding":
            return values.ndim == 2
        case "tokens":
            return values.ndim > 2


def _numbers(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    if name == "logits":
        return values
    raise TeacherError(
        f"teacher {path}: holds probabilities, but the task asks for numbers; name them logits if "
        "they are those numbers"
    )


def _odds(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return the log-odds of labels that stand side by side."""
    if (name == "probabilities") != are_shares(values):
        beyond, other = (
            ("numbers beyond 0..1", "logits")
            if name == "probabilities"
            else ("numbers that all lie in 0..1, as probabilities do", "probabilities")
        )
        raise TeacherError(
            f"teacher {path}: {name} are {beyond}; if they are {other}, name them so"
        )
    wide = values.astype(np.float64)
    return log_odds(wide) if name == "probabilities" else wide


def _logs(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithms of what sums to one along the second axis."""
    rows = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    sums = are_probabilities(rows, 1e-2 if values.dtype == np.float16 else 1e-3)
    if name == "probabilities" and not sums:
        raise TeacherError(
            f"teacher {path}: probabilities have rows that are negative or do not sum to 1; "
            "if they are logits, name them so"
        )
    if name == "logits" and sums:
        raise TeacherError(
            f"teacher {path}: logits have rows that all sum to 1, as probabilities do; "
            "if they are, name them so, for softmax over them would flatten them to nothing"
        )
    wide = values.astype(np.float64)
    return log_probabilities(wide) if name == "probabilities" else wide


def _row_keys(path: Path, arrays: Arrays, inputs: Sequence[Arrays], samples: int) -> list[bytes]:
    """Return the digest of the sample that each row belongs to."""
    written = [bytes(row) for row in arrays["samples"]] if "samples" in arrays else []
    given = _keys(inputs)
    if not written and not given:
        raise TeacherError(
            f"teacher {path}: does not say which samples its {samples} rows belong to; {_HOW}, or "
            "return StoredTargets(path, [train.inputs, ...]) with the samples in the rows' order"
        )
    keys = written or given
    if len(keys) != samples or any(len(key) != 16 for key in keys):
        raise TeacherError(
            f"teacher {path}: has {samples} rows for {len(keys)} samples; expected one row for "
            "each, and 16 bytes to name it"
        )
    if written and given and written != given:
        pairs = enumerate(zip(written, given, strict=False))
        row = next(
            (row for row, (theirs, ours) in pairs if theirs != ours), min(len(written), len(given))
        )
        raise TeacherError(
            f"teacher {path}: row {row} was written for another sample than the one it is given "
            f"for ({len(written)} rows, {len(given)} samples); give the samples in the rows' order"
        )
    return keys


def _keys(inputs: Sequence[Arrays]) -> list[bytes]:
    return [key for split in inputs for key in row_digests(split)]


def _read_parquet(path: Path) -> dict[str, NDArray[Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise TeacherError(
            f"teacher {path}: reading parquet needs pyarrow, which is not installed; "
            f"`pip install pyarrow`, or give a .npz file: {_HOW}"
        ) from None
    try:
        table = parquet.read_table(path)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        arrays = {name: np.array(columns[name]) for name in KINDS if name in columns}
        if "samples" in columns:
            digests = b"".join(bytes.fromhex(text) for text in columns["samples"])
            arrays["samples"] = np.frombuffer(digests, np.uint8).reshape(len(table), -1)
    except Exception as error:  # pyarrow has exceptions of its own
        raise TeacherError(
            f"teacher {path}: is no parquet file of soft targets: {reason(error)}"
        ) from error
    return arrays
