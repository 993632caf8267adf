"""What a network sees in an epoch: the samples augmented and mixed, and their labels.

A view is the whole training set augmented with one seed. Teacher and student see the same view,
so soft targets may be kept: they belong to (view, sample) and not to a place in a batch. Every
draw comes from (seed, view, chunk), so any view is made again from its number alone.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.distilling.kinds import to_labels, unlabelled_rows
from edgecompress.distilling.mixing import mixed, mixed_labels, partners, require_mixable
from edgecompress.errors import TaskError
from edgecompress.recipe import TrainSettings
from edgecompress.records import Kind
from edgecompress.tasks.targets import class_count, labels_of
from edgecompress.tasks.task import Arrays, Split, Task

CHUNK = 500
BYTES_AT_ONCE = 2**26
Augment = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]


def mixed_seed(*parts: int) -> int:
    """Return one seed out of several numbers, so that every draw has a seed of its own.

    >>> mixed_seed(0, 1) != mixed_seed(1, 0)
    True
    """
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def generator(*parts: int) -> torch.Generator:
    """Return a random generator seeded from several numbers."""
    return torch.Generator().manual_seed(mixed_seed(*parts))


@dataclass(frozen=True)
class View:
    """Hold the inputs of all samples, named arrays (samples, ...), and their labels."""

    inputs: Arrays
    labels: Tensor

    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return a batch of inputs and labels, copies of the given rows."""
        index = rows.numpy()
        inputs = {
            name: torch.from_numpy(np.take(array, index, axis=0))
            for name, array in self.inputs.items()
        }
        return inputs, self.labels[rows]

    def slice(self, rows: slice) -> dict[str, Tensor]:
        """Return copies of the inputs of rows that stand together."""
        return {name: torch.from_numpy(np.array(a[rows])) for name, a in self.inputs.items()}


@dataclass
class Views:
    """Hold training samples and hand out their views. One view is in memory at a time.

    `parts` are the sizes of the labelled and the unlabelled samples, which stand one after the
    other. `settings` says how many views there are, 0 if no two epochs share one, and how samples
    are mixed. With neither `augment` nor mixing there is one view, the samples as they are; arrays
    mapped from files stay there, and views of them lie in temporary files.
    """

    inputs: Arrays
    labels: Tensor
    parts: tuple[int, ...]
    settings: TrainSettings
    seed: int
    augment: Augment | None = None
    kind: Kind = "classification"
    classes: int = 0
    _last: tuple[int, View] | None = field(default=None, repr=False)
    _nearest: NDArray[np.intp] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return sum(self.parts)

    @property
    def samples(self) -> View:
        """Return the samples as they are."""
        return View(self.inputs, self.labels)

    @property
    def count(self) -> int:
        """Return how many views there are; 0 when every epoch has one of its own."""
        return self.settings.views if self.changing else 1

    @property
    def changing(self) -> bool:
        """Return whether a view shows samples otherwise than as they are."""
        return self.augment is not None or self.settings.mixing != "none"

    def index(self, epoch: int) -> int:
        """Return which view an epoch sees."""
        return epoch % self.count if self.count else epoch

    def view(self, index: int) -> View:
        """Return one view, sample order unchanged."""
        if not self.changing:
            return self.samples
        if self._last is None or self._last[0] != index:
            self._last = None  # so that the old one is gone before there is a new one
            self._last = (index, self._made(index))
        return self._last[1]

    def chunks(self) -> Iterator[slice]:
        """Yield the rows that are augmented together: never labelled and unlabelled ones."""
        start = 0
        for size in self.parts:
            for low in range(start, start + size, CHUNK):
                yield slice(low, min(low + CHUNK, start + size))
            start += size

    def _made(self, index: int) -> View:
        inputs = {name: _room(array, len(self)) for name, array in self.inputs.items()}
        labels = []
        pairs = self._partners(index) if self.settings.mixing != "none" else None
        for rows in self.chunks():
            batch, said = self.samples.slice(rows), self.labels[rows]
            batch = self._augmented(batch, index, rows.start)
            if pairs is not None:
                batch, said = self._mixed(batch, said, pairs[rows], index, rows.start)
            for name, tensor in batch.items():
                inputs[name][rows] = tensor.numpy()
            labels.append(said)
        return View(inputs, torch.cat(labels))

    def _augmented(self, batch: dict[str, Tensor], *draw: int) -> dict[str, Tensor]:
        if self.augment is None:
            return batch
        shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
        seen = self.augment(batch, generator(self.seed, *draw))
        found = {name: tuple(tensor.shape) for name, tensor in seen.items()}
        if found != shapes:
            raise TaskError(
                f"task: augment returned {found} for inputs {shapes}; expected the same names and "
                "shapes"
            )
        for name, tensor in seen.items():
            if not torch.can_cast(tensor.dtype, batch[name].dtype):
                raise TaskError(
                    f"task: augment returned {tensor.dtype} for input {name!r} of "
                    f"{batch[name].dtype}, which cannot hold it; round in augment, or give the "
                    "task float32"
                )
        return seen

    def _mixed(
        self, batch: dict[str, Tensor], said: Tensor, pair: NDArray[np.intp], *draw: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        other, theirs = self.samples.take(torch.from_numpy(pair))
        other = self._augmented(other, *draw, 1)
        rng = np.random.default_rng(mixed_seed(self.seed, *draw, 2))
        seen, share = mixed(self.settings, batch, other, rng)
        if share is not None:
            said = mixed_labels(self.kind, self.classes, said, theirs, share)
        return seen, said

    def _partners(self, index: int) -> NDArray[np.intp]:
        if self.settings.mixing != "munge":  # else drawn anew for each view
            rng = np.random.default_rng(mixed_seed(self.seed, index))
            return partners(self.settings, self.inputs, self.parts, rng)
        if self._nearest is None:
            rng = np.random.default_rng(mixed_seed(self.seed))
            self._nearest = partners(self.settings, self.inputs, self.parts, rng)
        return self._nearest


def task_views(task: Task, settings: TrainSettings, seed: int, pool: bool) -> Views:
    """Return the task's training views; with `pool`, the unlabelled samples join at the end.

    Raises RecipeError for samples that cannot be mixed as the settings say.
    """
    joined = [task.train] + ([task.unlabelled] if pool and task.unlabelled is not None else [])
    if settings.mixing != "none":
        require_mixable(settings, task.train.inputs, task.kind)
    parts = tuple(map(len, joined))
    labels = to_labels(task.kind, labels_of(task.train))
    labels = torch.cat([labels, unlabelled_rows(task.kind, sum(parts[1:]), labels)])
    inputs = {name: _joined(joined, name) for name in task.train.inputs}
    classes = class_count(task) if task.kind == "classification" else 0
    return Views(inputs, labels, parts, settings, seed, task.augment, task.kind, classes)


def _joined(splits: list[Split], name: str) -> NDArray[Any]:
    """Return one input of all splits, one after the other; that of a single one is not copied."""
    arrays = [split.inputs[name] for split in splits]
    if len(arrays) == 1:
        return arrays[0]
    mapped = next((array for array in arrays if isinstance(array, np.memmap)), arrays[0])
    whole, start = _room(mapped, sum(map(len, arrays))), 0
    for array in arrays:
        whole[start : start + len(array)] = array
        start += len(array)
    return whole


def _room(like: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return room for so many rows: in memory, or in a temporary file for what is in a file."""
    shape = (rows, *like.shape[1:])
    if not isinstance(like, np.memmap):
        return np.empty(shape, like.dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, like.dtype, "w+", shape=shape)


def content_digest(inputs: Arrays) -> str:
    """Return 16 digits that tell named arrays from others with other content."""
    digest = hashlib.sha256()
    for name, array in inputs.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        rows = max(1, BYTES_AT_ONCE // max(1, array.nbytes // max(1, len(array))))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()[:16]


def tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return named arrays as tensors, copied only where torch could not write to them."""
    return {
        name: torch.from_numpy(np.require(a, requirements=["C", "W"])) for name, a in inputs.items()
    }
