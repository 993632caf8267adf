"""Students that could be trained, what each would cost, and which one was chosen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from edgecompress.records.basics import Metric
from edgecompress.records.measured import Quantiles, Verdict

Family = Literal[
    "resnet8",
    "ds_cnn",
    "mobilenet_v1",
    "sensor_net",
    "audio_net",
    "tabular_net",
    "hashed_bag",
    "text_encoder",
    "cut_teacher",
]


@dataclass(frozen=True)
class StudentSpec:
    """Name a student: a family of `students/`, its widths and numbers of blocks multiplied.

    Of `cut_teacher`, the teacher itself with its weights, `width` is the share of channels that
    stays.
    """

    family: Family
    width: float = 1.0
    depth: float = 1.0

    @property
    def label(self) -> str:
        """Return what tables and recipes call it.

        >>> StudentSpec("ds_cnn", 0.5).label
        'ds_cnn-w0.5-d1'
        """
        return f"{self.family}-w{self.width:g}-d{self.depth:g}"

    @classmethod
    def named(cls, label: str) -> StudentSpec | None:
        """Return the student of that label; None where it names none.

        >>> StudentSpec.named("ds_cnn-w0.5-d1")
        StudentSpec(family='ds_cnn', width=0.5, depth=1.0)
        >>> StudentSpec.named("ds_cnn"), StudentSpec.named("ds_cnn-w0-d1")
        (None, None)
        """
        number = r"(\d{1,3}(?:\.\d{1,6})?)"
        found = re.fullmatch(rf"({'|'.join(get_args(Family))})-w{number}-d{number}", label)
        if found is None or not float(found[2]) * float(found[3]):
            return None
        family = next(name for name in get_args(Family) if name == found[1])
        return cls(family, float(found[2]), float(found[3]))


@dataclass(frozen=True)
class StudentOffer:
    """Hold what one student would cost, found out before any training.

    Of its files (float, int8) the quickest that may fit counts, `scheme`. `latency_ms` is
    predicted where the device is not here; None where the size alone ruled the student out.
    """

    spec: StudentSpec
    parameters: int
    macs_m: float
    scheme: str
    size_bytes: int
    latency_ms: Quantiles | None
    peak_memory_bytes: int | None
    verdict: Verdict

    @property
    def fits(self) -> bool:
        """Return whether it meets every budget."""
        return self.verdict.status == "pass"


@dataclass(frozen=True)
class StudentTrial:
    """Hold one short distillation that helped to choose among the students that fit."""

    spec: StudentSpec
    metric: Metric


@dataclass(frozen=True)
class StudentChoice:
    """Hold the student that goes on, all that were judged before training, and why this one."""

    spec: StudentSpec
    offers: tuple[StudentOffer, ...]
    trials: tuple[StudentTrial, ...]
    reason: str
