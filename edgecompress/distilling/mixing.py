"""Mix each sample with a partner: mixup, cutmix and munge, on batches of named tensors.

Teacher and student see the mixed sample. Its label is mixed in the same shares, except by munge,
which makes a neighbour of the sample itself and leaves the label as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgecompress.errors import RecipeError
from edgecompress.recipe import TrainSettings
from edgecompress.records import Kind

# Beyond so many samples, neighbours are sought among so many of them, drawn at random.
MOST_CANDIDATES = 20_000
ROWS_AT_ONCE = 256

Arrays = Mapping[str, NDArray[Any]]
Batch = dict[str, Tensor]


def require_mixable(settings: TrainSettings, inputs: Arrays, kind: Kind) -> None:
    """Raise RecipeError for samples that the method cannot mix."""
    method = settings.mixing
    where = f'recipe: mixing = "{method}"'
    if kind == "tokens":
        raise RecipeError(
            f"{where} mixes whole samples, but kind 'tokens' has a label at each place of one; "
            "remove it"
        )
    if method == "mixup":
        for name, array in inputs.items():
            if array.dtype.kind != "f":
                raise RecipeError(
                    f"{where} averages numbers, but input {name!r} is {array.dtype}, which may "
                    'stand for categories; take mixing = "munge"'
                )
    if method == "cutmix":
        sizes = {name: array.shape[2:] for name, array in inputs.items()}
        if len(set(sizes.values())) > 1 or () in sizes.values():
            listed = ", ".join(f"{name} {array.shape[1:]}" for name, array in inputs.items())
            raise RecipeError(
                f"{where} cuts a box out of images (channels, height, width) of one size, but the "
                f'inputs are {listed}; take mixing = "munge" or "mixup"'
            )


def partners(
    settings: TrainSettings, inputs: Arrays, parts: Sequence[int], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the row that each sample is mixed with, drawn within its own part.

    `parts` are the sizes of the labelled and the unlabelled samples, which stand one after the
    other: a sample with a label is mixed with one that has a label too.
    """
    rows, start = [], 0
    for size in parts:
        if settings.mixing == "munge":
            piece = {name: array[start : start + size] for name, array in inputs.items()}
            rows.append(start + neighbours(piece, rng))
        else:
            rows.append(start + rng.permutation(size))
        start += size
    return np.concatenate(rows)


def mixed(
    settings: TrainSettings, batch: Batch, other: Batch, rng: np.random.Generator
) -> tuple[Batch, Tensor | None]:
    """Return a batch mixed with its partners, and the share of each sample in its own row.

    The share, of shape (batch,), is None where the label stays what it was.
    """
    count = len(next(iter(batch.values())))
    match settings.mixing:
        case "mixup":
            share = rng.beta(settings.mixing_strength, settings.mixing_strength, count)
            return _averaged(batch, other, torch.from_numpy(share))
        case "cutmix":
            share = rng.beta(settings.mixing_strength, settings.mixing_strength, count)
            return _pasted(batch, other, share, rng)
        case _:
            return _munged(batch, other, settings, rng), None


def mixed_labels(kind: Kind, classes: int, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return labels in the shares of the samples: class probabilities (batch, classes) of classes.

    A row of zeros stands for no label. All other kinds have numbers, which are averaged.
    """
    if kind == "classification":
        own, other = _one_hot(own, classes), _one_hot(other, classes)
    share = share.to(own.dtype).reshape(-1, *[1] * (own.ndim - 1))
    return share * own + (1 - share) * other


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    known = (labels >= 0)[:, None]
    return F.one_hot(labels.clamp(min=0), classes).float() * known


def _averaged(batch: Batch, other: Batch, share: Tensor) -> tuple[Batch, Tensor]:
    """Mix by mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", equation 1).

    Each sample has a share of its own.
    """
    result = {}
    for name, tensor in batch.items():
        part = share.to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1))
        result[name] = part * tensor + (1 - part) * other[name]
    return result, share.float()


def _pasted(
    batch: Batch, other: Batch, share: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Batch, Tensor]:
    """Mix by cutmix (Yun et al. 2019, "CutMix", equations 1 and 2): a box comes from the partner.

    The box has the share's proportions and any centre, so the edge may cut it; the share returned
    is that of the area which is left. Axes from the third on are those of space.
    """
    space = tuple(next(iter(batch.values())).shape[2:])
    pasted = np.ones((len(share), *space), dtype=bool)
    for axis, size in enumerate(space):
        half = size * (1 - share) ** (1 / len(space)) / 2
        centre = rng.integers(0, size, len(share))
        low, high = np.round(centre - half)[:, None], np.round(centre + half)[:, None]
        inside = (np.arange(size) >= low) & (np.arange(size) < high)
        pasted &= inside.reshape(len(share), *(size if a == axis else 1 for a in range(len(space))))
    mask = torch.from_numpy(pasted)[:, None]
    kept = 1 - torch.from_numpy(pasted.reshape(len(share), -1).mean(axis=1)).float()
    return {name: torch.where(mask, other[name], tensor) for name, tensor in batch.items()}, kept


def _munged(batch: Batch, other: Batch, settings: TrainSettings, rng: np.random.Generator) -> Batch:
    """Mix by munge (Bucila, Caruana, Niculescu-Mizil 2006, "Model Compression", algorithm 1).

    With probability `mixing_strength` a value is taken from the sample's nearest neighbour: a
    category (an integer) as it is, a number drawn around the neighbour's with a standard deviation
    of their distance over `munge_spread`. The neighbour's own half of the swap is made in its row.
    """
    result = {}
    for name, tensor in batch.items():
        theirs = other[name]
        swapped = torch.from_numpy(rng.random(tuple(tensor.shape)) < settings.mixing_strength)
        noise = torch.from_numpy(rng.standard_normal(tuple(tensor.shape), dtype=np.float32))
        if tensor.is_floating_point():
            theirs = (
                theirs + noise.to(tensor.dtype) * (tensor - theirs).abs() / settings.munge_spread
            )
        result[name] = torch.where(swapped, theirs, tensor)
    return result


def neighbours(inputs: Arrays, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the nearest other sample of each: numbers by their spread, categories by equality.

    The squared distance is the sum of the squared differences of numbers, each scaled to the range
    0 to 1, and the count of categories that differ. Of equals the first is taken.
    """
    count = len(next(iter(inputs.values())))
    if count < 2:
        return np.zeros(count, dtype=np.intp)
    among = np.arange(count)
    if count > MOST_CANDIDATES:
        among = np.sort(rng.permutation(count)[:MOST_CANDIDATES])
    numbers, categories = _columns(inputs, among)
    found = np.empty(count, dtype=np.intp)
    known = [numbers(among), categories(among)]
    for start in range(0, count, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, count))
        distance = torch.cdist(numbers(rows), known[0]).square_()
        for ours, theirs in zip(categories(rows).T, known[1].T, strict=True):
            distance += ours[:, None] != theirs[None, :]
        itself = torch.from_numpy(among[None, :] == rows[:, None])
        found[rows] = among[distance.masked_fill_(itself, torch.inf).argmin(dim=1).numpy()]
    return found


def _columns(inputs: Arrays, among: NDArray[np.intp]) -> tuple[Any, Any]:
    """Return two functions of rows: their numbers, scaled to 0..1, and their categories."""
    floats = [array for array in inputs.values() if array.dtype.kind == "f"]
    others = [array for array in inputs.values() if array.dtype.kind != "f"]

    def flat(arrays: list[NDArray[Any]], rows: NDArray[np.intp]) -> NDArray[Any]:
        parts = [array[rows].reshape(len(rows), -1) for array in arrays]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))

    seen = flat(floats, among)
    low, high = (seen.min(axis=0), seen.max(axis=0)) if len(seen) else (0.0, 0.0)
    width = np.where(high > low, high - low, 1)
    return (
        lambda rows: torch.from_numpy(((flat(floats, rows) - low) / width).astype(np.float32)),
        lambda rows: torch.from_numpy(flat(others, rows).astype(np.int64)),
    )
