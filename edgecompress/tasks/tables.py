"""Read CSV files into numeric columns and categorical codes, learned on training rows alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError
from edgecompress.settings import did_you_mean
from edgecompress.tasks.rows import split_rows
from edgecompress.tasks.task import Split

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "None")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Columns:
    """Hold what the training rows taught: which columns there are and how each is encoded.

    `numeric` maps a column to the median that stands in for a missing value. `categorical` maps a
    column to its vocabulary: a value's code is its place plus one, and 0 is a missing value or one
    that training never saw.
    """

    label: str
    class_names: tuple[str, ...]
    numeric: Mapping[str, float]
    categorical: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Table:
    """Hold a file as it was read: stripped texts by column, and where each row stands."""

    path: Path
    columns: Mapping[str, list[str]]
    lines: list[int]

    def take(self, rows: NDArray[np.intp]) -> Table:
        """Return the table reduced to `rows`."""
        return Table(
            self.path,
            {name: _pick(values, rows) for name, values in self.columns.items()},
            _pick(self.lines, rows),
        )


def from_csv(
    path: Path | str,
    label: str,
    columns: Columns | None = None,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> tuple[Split, Columns]:
    """Read a CSV file with a header; return the split and what its columns taught.

    The split's inputs are `numeric` (float32, one column each) and `categorical` (int64 codes),
    those that there are. For validation and test give the `columns` that the training file
    returned. A column is numeric when all its values are numbers, unless named in `categorical`.
    """
    table = read_table(Path(path))
    if columns is None:
        columns = _learn(table, label, categorical, drop)
    return _encode(table, columns), columns


def split_csv(
    path: Path | str,
    label: str,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> tuple[tuple[Split, Split, Split], Columns]:
    """Read one CSV file into train, validation and test, each class dealt out alike.

    Medians and vocabularies are learned on the training rows alone.
    """
    table = read_table(Path(path))
    texts = np.array(label_texts(table, label))
    train, validation, test = (table.take(rows) for rows in split_rows(texts, fractions, seed))
    columns = _learn(train, label, categorical, drop)
    parts = (_encode(train, columns), _encode(validation, columns), _encode(test, columns))
    return parts, columns


def read_table(path: Path) -> Table:
    """Return the columns of a CSV file with a header, or refuse it in one line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError as error:
        raise DataError(f"data {path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"data {path}: is no CSV file in UTF-8 ({error}); save it as CSV with UTF-8 encoding"
        ) from error
    if not rows:
        raise DataError(f"data {path}: has no rows below its header; expected at least one")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"data {path}, line {line}: has {len(row)} fields; "
                f"expected {len(header)}, as in the header"
            )
    values = zip(*(row for _, row in rows), strict=True)
    columns = {name: [t.strip() for t in v] for name, v in zip(header, values, strict=True)}
    return Table(path, columns, [line for line, _ in rows])


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"data {path}: is empty; expected a header line of column names")
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise DataError(f"data {path}: the header has {twice[0]!r} twice; expected distinct names")
    numbers = [name for name in header if _number(name) is not None]
    if not all(header) or len(numbers) == len(header):
        raise DataError(
            f"data {path}: its first line ({', '.join(header[:4])}, ...) is no header; "
            "expected the names of the columns"
        )


def _learn(table: Table, label: str, categorical: Sequence[str], drop: Sequence[str]) -> Columns:
    label_texts(table, label)  # before all else: the likeliest slip is its name
    for name in (*categorical, *drop):
        column_texts(table, name)
    numeric: dict[str, float] = {}
    vocabularies: dict[str, tuple[str, ...]] = {}
    for name, values in table.columns.items():
        if name == label or name in drop:
            continue
        present = [value for value in values if value not in MISSING]
        if not present:
            raise DataError(f"data {table.path}: column {name!r} has no value at all; drop it")
        numbers = [_number(value) for value in present]
        if name in categorical or None in numbers:
            vocabularies[name] = tuple(sorted(set(present)))
        else:
            numeric[name] = float(np.median(np.array(numbers, dtype=np.float64)))
    if not numeric and not vocabularies:
        raise DataError(f"data {table.path}: has no column beside the label {label!r}")
    return Columns(label, class_names_of(table, label), numeric, vocabularies)


def class_names_of(table: Table, label: str) -> tuple[str, ...]:
    """Return the distinct labels in order; refuse more of them than a few classes."""
    labels = label_texts(table, label)
    classes = tuple(sorted(set(labels), key=lambda text: (_number(text) or 0.0, text)))
    numbers_only = all(_number(name) is not None for name in classes)
    most = max(100, len(labels) // 10) if numbers_only else max(2, len(labels) // 2)
    if len(classes) > most:
        raise DataError(
            f"data {table.path}: the label {label!r} has {len(classes)} distinct values in "
            f"{len(labels)} rows; expected a few classes, each many times"
        )
    return classes


def _encode(table: Table, columns: Columns) -> Split:
    inputs = {}
    if columns.numeric:
        inputs["numeric"] = np.stack(
            [_numbers(table, name, fill) for name, fill in columns.numeric.items()], axis=1
        )
    if columns.categorical:
        inputs["categorical"] = np.stack(
            [_codes(table, name, known) for name, known in columns.categorical.items()], axis=1
        )
    return Split(inputs, class_indices(table, columns.label, columns.class_names), (table.path,))


def class_indices(table: Table, label: str, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class of each row as its place among the names; refuse a label of none."""
    index = {name: i for i, name in enumerate(class_names)}
    labels = label_texts(table, label)
    for text, line in zip(labels, table.lines, strict=True):
        if text not in index:
            raise DataError(
                f"data {table.path}, line {line}: label {text!r}; expected one of "
                f"{', '.join(class_names[:6])}{did_you_mean(text, index)}"
            )
    return np.array([index[text] for text in labels], np.int64)


def label_texts(table: Table, name: str) -> list[str]:
    """Return the label of each row as it is written; refuse a row that has none."""
    labels = column_texts(table, name)
    for text, line in zip(labels, table.lines, strict=True):
        if text in MISSING:
            raise DataError(
                f"data {table.path}, line {line}: the label {name!r} is missing ({text!r}); "
                "expected a class; remove the row"
            )
    return labels


def _numbers(table: Table, name: str, fill: float) -> NDArray[np.float32]:
    values = []
    for text, line in zip(column_texts(table, name), table.lines, strict=True):
        value = fill if text in MISSING else _number(text)
        if value is None:
            raise DataError(
                f"data {table.path}, line {line}: {name} is {text!r}; expected a number, as in the "
                f"training rows; correct it, or read the column with categorical=({name!r},)"
            )
        values.append(value)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the checks refuse
        return np.array(values, dtype=np.float64).astype(np.float32)


def _codes(table: Table, name: str, known: tuple[str, ...]) -> NDArray[np.int64]:
    codes = {text: code for code, text in enumerate(known, start=1)}
    return np.array([codes.get(text, 0) for text in column_texts(table, name)], dtype=np.int64)


def column_texts(table: Table, name: str) -> list[str]:
    """Return a column as it is written."""
    if name not in table.columns:
        raise DataError(
            f"data {table.path}: has no column {name!r}, only {', '.join(table.columns)}"
            f"{did_you_mean(name, table.columns)}"
        )
    return table.columns[name]


def _number(text: str) -> float | None:
    """Return a finite number, or None for a text that is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _pick(values: list[_T], rows: NDArray[np.intp]) -> list[_T]:
    return [values[row] for row in rows]
