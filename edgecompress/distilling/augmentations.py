"""Seeded augmentations that a task may name: `augment=Chain((Flip("image"), Shift("image", 2)))`.

Each takes a batch of named tensors (batch, ...) and a generator, from which all of its draws come,
and returns a new batch. One draw a sample; what is not drawn for stays as it is. They are values
with a readable form, so a run can tell a changed augmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Chain:
    """Apply one augmentation after the other."""

    steps: tuple[Callable[[Batch, torch.Generator], Batch], ...]

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch as the last step leaves it."""
        for step in self.steps:
            batch = step(batch, generator)
        return batch


@dataclass(frozen=True)
class Flip:
    """Mirror the share `ratio` of the images (batch, channels, height, width) left to right."""

    name: str
    ratio: float = 0.5

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with some images mirrored."""
        images = batch[self.name]
        mirrored = torch.rand(len(images), generator=generator) < self.ratio
        return {**batch, self.name: torch.where(_beside(mirrored, images), images.flip(-1), images)}


@dataclass(frozen=True)
class Shift:
    """Move images or sequences (batch, channels, ...) by up to `most` places along each axis.

    What comes in from outside is zero: for images the usual pad-and-crop, for signals a shift in
    time.
    """

    name: str
    most: int

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with every sample moved."""
        values = batch[self.name]
        for axis in range(2, values.ndim):
            way = torch.randint(-self.most, self.most + 1, (len(values), 1), generator=generator)
            places = torch.arange(values.shape[axis]) - way
            inside = (places >= 0) & (places < values.shape[axis])
            index = _along(places.clamp(0, values.shape[axis] - 1), values, axis)
            values = values.gather(axis, index.expand_as(values)) * _along(inside, values, axis)
        return {**batch, self.name: values}


@dataclass(frozen=True)
class Mask:
    """Set up to `most` neighbouring places of one axis to zero, the same in all channels.

    With a spectrogram's axes: masks in frequency and in time (Park et al. 2019, "SpecAugment").
    """

    name: str
    axis: int
    most: int

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with a stretch of every sample masked."""
        values = batch[self.name]
        size = values.shape[self.axis]
        width = torch.randint(0, self.most + 1, (len(values), 1), generator=generator)
        start = (torch.rand(len(values), 1, generator=generator) * (size - width + 1)).long()
        places = torch.arange(size)
        kept = (places < start) | (places >= start + width)
        return {**batch, self.name: values * _along(kept, values, self.axis % values.ndim)}


@dataclass(frozen=True)
class Gain:
    """Multiply each sample by a factor between 1 / `most` and `most`, even in the logarithm."""

    name: str
    most: float

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with every sample louder or softer."""
        values = batch[self.name]
        power = 2 * torch.rand(len(values), generator=generator) - 1
        return {**batch, self.name: values * _beside((self.most**power).to(values.dtype), values)}


@dataclass(frozen=True)
class Noise:
    """Add normal noise of one standard deviation to every value."""

    name: str
    deviation: float

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with noise."""
        values = batch[self.name]
        drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        return {**batch, self.name: values + self.deviation * drawn}


@dataclass(frozen=True)
class DropWords:
    """Replace the share `ratio` of the token ids (batch, words) by `token`; ids of `token` stay."""

    name: str
    ratio: float
    token: int = 0

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with some words dropped."""
        words = batch[self.name]
        dropped = torch.rand(words.shape, generator=generator) < self.ratio
        return {**batch, self.name: words.masked_fill(dropped, self.token)}


def _beside(drawn: Tensor, values: Tensor) -> Tensor:
    """Return one number a sample, shaped to go with (batch, ...)."""
    return drawn.reshape(-1, *[1] * (values.ndim - 1))


def _along(drawn: Tensor, values: Tensor, axis: int) -> Tensor:
    """Return (batch, size) numbers, shaped to go with one axis of (batch, ...)."""
    shape = [len(values)] + [1] * (values.ndim - 1)
    shape[axis] = values.shape[axis]
    return drawn.reshape(shape)
