"""Spoken digits: one second of speech at 8 kHz as the energy in 32 bands over 61 moments.

Data: Free Spoken Digit Dataset, Jakobovski and contributors (CC BY-SA 4.0). Takes 0 to 4 are the
official test, takes 5 to 9 choose here, the others train; the six speakers are on all sides.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress import Split, Task
from edgecompress.students.sequence import sensor_net
from edgecompress.tasks.loaders import read_npz, split_rows

RATE, LENGTH = 8000, 8000
WINDOW, HOP, BANDS = 256, 128, 32
TEST_TAKES, VALIDATION_TAKES = 5, 10
FEW = 1 / 12


def task(data: Path) -> Task:
    """Read `fsdd.npz` in the folder `data`."""
    path = data / "fsdd.npz"
    found = read_npz(path, ["samples", "offsets", "label", "take"])
    bounds = found["offsets"]
    clips = [found["samples"][bounds[i] : bounds[i + 1]] for i in range(len(bounds) - 1)]
    sound = np.stack([spectrum(clip) for clip in clips])
    labels, take = found["label"].astype(np.int64), found["take"]
    trains = take >= VALIDATION_TAKES
    mean, std = sound[trains].mean(), sound[trains].std()
    sound = (sound - mean) / std

    def split(rows: NDArray[np.bool_]) -> Split:
        return Split({"spectrum": sound[rows]}, labels[rows], (path,))

    return Task(
        name="fsdd",
        train=split(trains),
        validation=split((take >= TEST_TAKES) & ~trains),
        test=split(take < TEST_TAKES),
        teacher=lambda: sensor_net(BANDS, 10, width=4.0),
        student=lambda: sensor_net(BANDS, 10, width=0.5),
        class_names=tuple(str(digit) for digit in range(10)),
        augment=shifted,
    )


def few_labels(data: Path) -> Task:
    """Return the task with labels for one clip in twelve, the others an unlabelled pool."""
    whole = task(data)
    few, rest = split_rows(whole.train.labels, (FEW, 1 - FEW))
    pool = replace(whole.train.take(rest), labels=None)
    return replace(whole, train=whole.train.take(few), unlabelled=pool)


def spectrum(clip: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return log energies of bands even on the mel scale, shape (BANDS, moments)."""
    sound = np.zeros(LENGTH)
    sound[: min(LENGTH, len(clip))] = clip[:LENGTH] / 32768
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return np.log(power @ _bands() + 1e-6).T.astype(np.float32)


def _bands() -> NDArray[np.float64]:
    """Return triangular filters (frequencies, BANDS), even on the mel scale of O'Shaughnessy."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rise = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None)


def shifted(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Move each clip by up to 0.1 s, make it louder or softer, and blank a few moments."""
    sound = batch["spectrum"]
    count, _, moments = sound.shape
    shift = torch.randint(-6, 7, (count, 1), generator=generator)
    places = (torch.arange(moments) - shift).clamp(0, moments - 1)
    moved = sound.gather(2, places[:, None, :].expand_as(sound))
    louder = 0.3 * torch.randn(count, 1, 1, generator=generator)
    start = torch.randint(0, moments, (count, 1), generator=generator)
    blank = (torch.arange(moments) >= start) & (torch.arange(moments) < start + 6)
    quiet = moved.amin(dim=(1, 2), keepdim=True)
    return {"spectrum": torch.where(blank[:, None, :], quiet, moved + louder)}
