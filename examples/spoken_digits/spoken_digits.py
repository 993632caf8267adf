"""Spoken digits: 3,000 clips of six people who say 0 to 9, as log-mel spectrograms.

Data: Free Spoken Digit Dataset, Jakobovski and contributors (CC BY-SA 4.0).
"""

from __future__ import annotations

import wave
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgecompress import Split, Task
from edgecompress.errors import DataError
from edgecompress.students.image import ResidualNet, ds_cnn

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE, WINDOW, HOP, MELS = 8000, 256, 128, 32  # 32 ms of sound every 16 ms
SILENCE, SCALE = 1e-5, 10.0  # energy that counts as nothing; brings features to about 0..1
TEST_TAKES, VALIDATION_TAKES = range(5), range(5, 10)  # the first are the data's own test split
TEST_SPEAKER, VALIDATION_SPEAKER = "theo", "lucas"
MOST_LATER, MOST_HIGHER, MOST_GAIN, NOISE = 12, 2, 4.0, (1e-6, 1e-2)  # frames, mels, energies

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Clips:
    """Hold all clips: features (clips, 1, frames, mels), and what is said, when, and by whom."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    takes: NDArray[np.int64]
    speakers: NDArray[np.str_]


def task(data: Path) -> Task:
    """Read the data's folder of `digit_speaker_take.wav`, or `fsdd.npz`, a file of all clips.

    Everybody is heard in training: takes 0 to 4 are the data's own test split.
    """
    clips, files = read(data)
    test, validation = np.isin(clips.takes, TEST_TAKES), np.isin(clips.takes, VALIDATION_TAKES)
    return _task("spoken-digits", clips, files, test, validation)


def unseen_speaker(data: Path) -> Task:
    """Test on one speaker whom training never heard, and choose by another."""
    clips, files = read(data)
    test, validation = clips.speakers == TEST_SPEAKER, clips.speakers == VALIDATION_SPEAKER
    return _task("spoken-digits-unseen-speaker", clips, files, test, validation)


def _task(name: str, clips: Clips, files: tuple[Path, ...], test: Mask, validation: Mask) -> Task:
    def part(rows: Mask) -> Split:
        return Split({"log_mel": clips.features[rows]}, clips.labels[rows], files)

    return Task(
        name=name,
        train=part(~test & ~validation),
        validation=part(validation),
        test=part(test),
        teacher=teacher,
        student=student,
        class_names=CLASSES,
        augment=disturbed,
    )


def teacher() -> nn.Module:
    """Return the untrained teacher, a residual net of 0.31 M parameters."""
    return ResidualNet(1, 10, widths=(32, 64, 128), blocks=(1, 1, 1), stem_stride=2)


def student() -> nn.Module:
    """Return an untrained student: the keyword net of MLPerf Tiny at half its width."""
    return ds_cnn(1, 10, width=0.5)


def log_mel(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one second of sound, in -1..1, as features (1, frames, mels); silence is 0.

    A longer clip loses its end; a shorter one stands in the middle.
    """
    clip = clip[:RATE]
    before = (RATE - len(clip)) // 2
    sound = np.pad(clip, (before, RATE - len(clip) - before))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    energy = np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters().T
    return (np.log1p(energy / SILENCE) / SCALE).astype(np.float32)[None]


def mel_filters(lowest: float = 60.0) -> NDArray[np.float64]:
    """Return triangles (mels, frequencies) that overlap by half, even on the mel scale.

    mel = 2595 log10(1 + Hz / 700) (O'Shaughnessy 1987, "Speech Communication").
    """
    ends = 2595 * np.log10(1 + np.array([lowest, RATE / 2]) / 700)
    corners = 700 * (10 ** (np.linspace(*ends, MELS + 2) / 2595) - 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling)) / WINDOW


def disturbed(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Shift each clip in time and in pitch, make it louder or softer, and add noise."""
    features = batch["log_mel"]
    draw = torch.rand(len(features), 4, 1, 1, 1, generator=generator)
    features = shifted(features, 2, MOST_LATER, draw[:, 0])
    energy = torch.expm1(shifted(features, 3, MOST_HIGHER, draw[:, 1]) * SCALE)
    gain = MOST_GAIN ** (2 * draw[:, 2] - 1)
    low, high = NOISE
    level = low * (high / low) ** draw[:, 3] / SILENCE
    noise = level * torch.empty_like(energy).exponential_(generator=generator)
    return {"log_mel": torch.log1p(gain * energy + noise) / SCALE}


def shifted(features: Tensor, axis: int, most: int, draw: Tensor) -> Tensor:
    """Move each sample along an axis by up to `most` places; what comes in is silence."""
    size = features.shape[axis]
    way = ((2 * draw - 1) * (most + 0.5)).round().long()
    sides = (0, 0) * (features.ndim - 1 - axis) + (most, most)
    places = torch.arange(size).reshape([-1 if a == axis else 1 for a in range(4)]) - way + most
    return F.pad(features, sides).gather(axis, places.expand_as(features))


def read(data: Path) -> tuple[Clips, tuple[Path, ...]]:
    """Return all clips, and the one file that held them where it was one."""
    file = data / "fsdd.npz" if data.is_dir() else data
    return (read_npz(file), (file,)) if file.is_file() else (read_wavs(data), ())


def read_npz(path: Path) -> Clips:
    """Read the clips, end to end in `samples` (int16), `offsets` telling where each begins."""
    wanted = ("samples", "offsets", "label", "take", "speaker", "speaker_names")
    with np.load(path) as arrays:
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise DataError(
                f"data {path}: has no array {missing[0]!r}; expected {', '.join(wanted)}"
            )
        sound, offsets, labels, takes, speakers, names = (arrays[name] for name in wanted)
    features = featured(sound[a:b] for a, b in pairwise(offsets))
    return Clips(features, labels.astype(np.int64), takes.astype(np.int64), names[speakers])


def read_wavs(folder: Path) -> Clips:
    """Read `digit_speaker_take.wav` files, as the data's repository has them in `recordings`."""
    paths = sorted(folder.glob("[0-9]_*_*.wav"))
    if not paths:
        raise DataError(
            f"data {folder}: holds no files such as 7_jackson_32.wav; give the folder `recordings` "
            "of the Free Spoken Digit Dataset"
        )
    digits, speakers, takes = zip(*(path.stem.split("_") for path in paths), strict=True)
    features = featured(map(samples, paths))
    return Clips(features, np.array(digits, int), np.array(takes, int), np.array(speakers))


def samples(path: Path) -> NDArray[np.int16]:
    """Return what a wav file holds."""
    with wave.open(str(path)) as sound:
        if (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) != (RATE, 1, 2):
            raise DataError(f"data {path}: expected 8 kHz, one channel, 16 bit")
        return np.frombuffer(sound.readframes(sound.getnframes()), np.int16)


def featured(clips: Iterable[NDArray[np.int16]]) -> NDArray[np.float32]:
    """Return the features of all clips, (clips, 1, frames, mels)."""
    return np.stack([log_mel(clip.astype(np.float32) / 32768) for clip in clips])
