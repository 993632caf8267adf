"""Small classifiers of tables: numeric columns and categorical codes, as `from_csv` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompress.students.stacking import check_sizes, deepened, perceptron, scaled


class CodeEmbedding(nn.Module):
    """Look up a vector for each column's code; all columns share one table, one part each.

    A code outside its column's vocabulary counts as 0, the code of what training never saw.
    """

    starts: Tensor
    sizes: Tensor

    def __init__(self, vocabularies: Sequence[int], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(vocabularies), width)
        starts = list(accumulate(vocabularies, initial=0))[:-1]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)
        self.register_buffer("sizes", torch.tensor(vocabularies), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Map int64 codes (batch, columns) to (batch, columns * width)."""
        known = (codes >= 0) & (codes < self.sizes)
        rows = torch.where(known, codes, 0) + self.starts
        vectors: Tensor = self.table(rows)
        return vectors.flatten(1)


class Standardize(nn.Module):
    """Shift and scale each column by the mean and deviation of the rows that are given.

    They are constants of the network, so that the exported file takes columns as they are. A column
    that does not vary is only shifted.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, rows: NDArray[np.floating]) -> None:
        super().__init__()
        deviation = rows.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 0, deviation, 1.0)
        self.register_buffer("mean", torch.tensor(rows.mean(axis=0, dtype=np.float64)).float())
        self.register_buffer("scale", torch.tensor(scale).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, columns) to the same, standardised."""
        return (x - self.mean) / self.scale


def standardized_net(
    rows: NDArray[np.floating], classes: int, widths: Sequence[int]
) -> nn.Sequential:
    """Return layers of these widths on columns standardised as in `rows` (samples, columns).

    >>> net = standardized_net(np.zeros((2, 3), np.float32), classes=2, widths=(8,))
    >>> net(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    check_sizes(classes=classes, widths=min(widths, default=1))
    return nn.Sequential(Standardize(rows), *perceptron(rows.shape[1], widths, classes))


class TabularNet(nn.Module):
    """Standardise the numeric columns, embed the codes, then run layers of these widths.

    `vocabularies` holds the number of codes of each categorical column, 0 included:
    `[len(values) + 1 for values in columns.categorical.values()]` for the columns of `from_csv`.
    """

    def __init__(
        self,
        numeric: int,
        vocabularies: Sequence[int],
        classes: int,
        widths: Sequence[int],
        embedding: int = 8,
    ) -> None:
        super().__init__()
        _check(numeric, vocabularies, classes, widths, embedding)
        readers: list[nn.Module] = []
        if numeric:
            readers.append(nn.BatchNorm1d(numeric, affine=False))
        if vocabularies:
            readers.append(CodeEmbedding(vocabularies, embedding))
        self.readers = nn.ModuleList(readers)
        self.layers = perceptron(numeric + len(vocabularies) * embedding, widths, classes)

    def forward(self, *columns: Tensor) -> Tensor:
        """Map float (batch, numeric), then int64 (batch, categorical), to logits (batch, classes).

        A table without columns of one kind leaves that input out.
        """
        features = [read(part) for read, part in zip(self.readers, columns, strict=True)]
        logits: Tensor = self.layers(torch.cat(features, dim=1))
        return logits


def tabular_net(
    numeric: int,
    vocabularies: Sequence[int],
    classes: int,
    width: float = 1.0,
    depth: float = 1.0,
) -> TabularNet:
    """Return a network of two layers of 64, and embeddings of 8, times the multipliers."""
    (layers,), (wide, embedding) = deepened((2,), depth), scaled((64, 8), width)
    return TabularNet(numeric, vocabularies, classes, (wide,) * layers, embedding)


def _check(
    numeric: int, vocabularies: Sequence[int], classes: int, widths: Sequence[int], embedding: int
) -> None:
    if numeric < 0 or numeric + len(vocabularies) == 0:
        raise ValueError(f"numeric is {numeric} and vocabularies {vocabularies}: expected columns")
    if min(vocabularies, default=1) < 1:
        raise ValueError(f"vocabularies {vocabularies} must be >= 1 each")
    check_sizes(classes=classes, widths=min(widths, default=1), embedding=embedding)
