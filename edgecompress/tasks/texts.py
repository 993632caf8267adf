"""Read texts and their labels, and make splits of them with a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError
from edgecompress.tasks.tables import class_indices, class_names_of, column_texts, read_table
from edgecompress.tasks.task import Split
from edgecompress.tasks.tokenizers import Tokenizer


@dataclass(frozen=True)
class Texts:
    """Hold texts as people wrote them, and their labels: a split before it is tokenized.

    Learn a tokenizer from the training texts alone, then encode every part with it.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[np.intp]) -> Texts:
        """Return the texts reduced to `rows`, an array of row numbers."""
        labels = None if self.labels is None else self.labels[rows]
        return Texts(tuple(self.texts[row] for row in rows), labels, self.files)

    def encoded(self, tokenizer: Tokenizer) -> Split:
        """Return the split that a network reads."""
        return Split(tokenizer.encode(self.texts), self.labels, self.files)


def texts_from_csv(
    path: Path | str, text: str, label: str, class_names: Sequence[str] = ()
) -> tuple[Texts, tuple[str, ...]]:
    """Read the columns `text` and `label` of a CSV file with a header; return class names too.

    The classes are the distinct labels in order; for another file of the same data give the first
    one's `class_names`.
    """
    table = read_table(Path(path))
    texts = column_texts(table, text)
    for line, found in zip(table.lines, texts, strict=True):
        if not found:
            raise DataError(f"data {path}, line {line}: {text} is empty; remove the row")
    names = tuple(class_names) or class_names_of(table, label)
    return Texts(tuple(texts), class_indices(table, label, names), (Path(path),)), names
