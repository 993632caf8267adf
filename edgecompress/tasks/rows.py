"""Deal rows out to splits, and keep splits apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError
from edgecompress.tasks.checks import sample_digests
from edgecompress.tasks.task import Split


def split_rows(
    rows: int | NDArray[Any],
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    stratified: bool = True,
) -> tuple[NDArray[np.intp], ...]:
    """Deal rows out to one part a fraction; return the sorted row numbers of each part.

    `rows` is how many there are, or their labels: then each class is dealt out in the same
    fractions, unless `stratified` is False. Every row goes to exactly one part.

    >>> [len(part) for part in split_rows(100, (0.8, 0.1, 0.1))]
    [80, 10, 10]
    """
    if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(
            f"split_rows: fractions are {tuple(fractions)}; expected positive numbers that sum to 1"
        )
    draws = np.random.default_rng(seed)
    labels = np.zeros(rows, np.int64) if isinstance(rows, int) else np.asarray(rows)
    classes = np.zeros(len(labels), np.int64)
    if stratified and len(labels):
        classes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    parts: list[list[NDArray[np.intp]]] = [[] for _ in fractions]
    for index in range(int(classes.max(initial=0)) + 1):
        members = draws.permutation(np.flatnonzero(classes == index))
        if len(members) < len(fractions):
            where = f" of class {labels[members[0]]}" if classes.any() else ""
            raise DataError(
                f"split_rows: {len(members)} rows{where} are too few for {len(fractions)} parts; "
                "add rows, or give stratified=False"
            )
        for part, rows_of_part in zip(parts, _cut(members, fractions), strict=True):
            part.append(rows_of_part)
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def _cut(members: NDArray[np.intp], fractions: Sequence[float]) -> list[NDArray[np.intp]]:
    """Cut shuffled rows at the fractions, leaving no part empty."""
    count, parts = len(members), len(fractions)
    ends = np.round(np.cumsum(fractions)[:-1] * count).astype(int)
    for place in range(parts - 1):
        least = 1 + (ends[place - 1] if place else 0)
        ends[place] = np.clip(ends[place], least, count - (parts - 1 - place))
    return np.split(members, ends)


def drop_shared(split: Split, *others: Split) -> Split:
    """Return `split` without the samples whose inputs also stand in one of `others`."""
    taken = {digest for other in others for digest in sample_digests(other)}
    kept = [row for row, digest in enumerate(sample_digests(split)) if digest not in taken]
    return split.take(np.array(kept, dtype=np.intp))
