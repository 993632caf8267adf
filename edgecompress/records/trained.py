"""What trainings make: arms and what is known of them, prunings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecompress.records.basics import Artifact, Evaluation, Metric


@dataclass(frozen=True)
class Mode:
    """Say how a training computes: a decision that is measured once and recorded."""

    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class EpochPoint:
    """Hold one point of a training curve; `validation` is the task's metric."""

    epoch: int
    loss: float
    validation: float
    seconds: float


@dataclass(frozen=True)
class Figures:
    """Hold what is known of a network beside its score, all on validation.

    `nll` (nats) and `calibration_error` are None for tasks without classes. `agreement` is the
    share of answers that are the teacher's too, for numbers R2 against the teacher's, for
    embeddings the mean cosine; None for the teacher itself. `membership_auc`, with its 95 %
    interval, tells training samples from validation samples by their losses: 0.5 is chance, 1 is a
    network that gives away every one.
    """

    nll: float | None
    calibration_error: float | None
    agreement: float | None
    membership_auc: float
    membership_low: float
    membership_high: float


@dataclass(frozen=True)
class Arm:
    """Hold one trained arm of a comparison: `distilled`, its `control`, ..., or `teacher`.

    `note` says what is to be known of its training, such as what its soft targets lost.
    """

    name: str
    weights: Artifact
    evaluation: Evaluation
    curve: tuple[EpochPoint, ...]
    seed: int = 0
    figures: Figures | None = None
    note: str = ""


@dataclass(frozen=True)
class TeacherScore:
    """Hold how a teacher stands beside its students, as it taught them.

    Its membership figure says something only of a teacher that was `trained_here`, on the
    training split of this very task.
    """

    evaluation: Evaluation
    figures: Figures
    trained_here: bool


@dataclass(frozen=True)
class Inspection:
    """Hold the figures of some arms, in their order, and their teacher's."""

    arms: tuple[Figures, ...]
    teacher: TeacherScore


@dataclass(frozen=True)
class Trial:
    """Hold one short training that helped to choose temperature and weight of a distillation."""

    temperature: float
    kd_weight: float
    metric: Metric


@dataclass(frozen=True)
class TrainedNetwork:
    """Hold the arms of one training stage, each seed's, and which of them goes on.

    `plan` is the pruning plan that the architecture needs before the weights fit; None when the
    architecture is the task's own. `trials` are what temperature and weight were chosen from.
    """

    stage: str
    arms: tuple[Arm, ...]
    shipped: str
    plan: Artifact | None
    parameters: int
    reason: str
    trials: tuple[Trial, ...] = ()
    seed: int = 0
    teacher: TeacherScore | None = None

    @property
    def arm(self) -> Arm:
        """Return the arm that goes on, of the seed that goes on."""
        return next(a for a in self.arms if (a.name, a.seed) == (self.shipped, self.seed))


@dataclass(frozen=True)
class Removed:
    """Hold what share of the heads or blocks was asked to go, and how many of how many went."""

    requested_ratio: float = 0.0
    removed: int = 0
    of: int = 0


@dataclass(frozen=True)
class PruningTrial:
    """Hold one narrowed network of a search: what was estimated and what was found.

    Where a share s of the importance of a group of channels is left, what is left carries 1 / s of
    what it did: `load` is the mean over the groups. The estimate covers layers alone; only its
    course counts. `score` is that of a copy, on a part of validation after a short lesson.
    """

    load: float
    estimated: float
    found: float
    score: Metric | None = None


@dataclass(frozen=True)
class PruningSearch:
    """Hold how widths were found for a target.

    `figure` says what `target`, `start` (of the whole network), `found` and the trials count.
    `gained` is false where nothing tried beat the whole network by more than the noise. `score` is
    the whole network's, without a lesson, on the samples that the trials are scored on.
    """

    figure: str
    target: float
    start: float
    found: float
    reached: bool
    gained: bool
    trials: tuple[PruningTrial, ...]
    reason: str
    score: Metric | None = None


@dataclass(frozen=True)
class PruningOutcome:
    """Hold a pruning: its plan, weights, and what was asked against what was got.

    The ratios are shares of the channels that may be cut, or of single weights; `macs` are for one
    sample, and of the parameters those count that are not 0. `search` says how widths were found
    for a target, where there was one.
    """

    plan: Artifact
    weights: Artifact
    requested_ratio: float
    achieved_ratio: float
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    heads: Removed = Removed()
    blocks: Removed = Removed()
    search: PruningSearch | None = None

    @property
    def of(self) -> str:
        """Return what went: channels, or single weights, which leave as many MACs as before."""
        return "channels" if self.macs_after < self.macs_before else "weights"

    @property
    def asked(self) -> str:
        """Return in words what was asked to go."""
        heads, blocks = self.heads.requested_ratio, self.blocks.requested_ratio
        named = ((self.of, self.requested_ratio), ("heads", heads), ("blocks", blocks))
        return ", ".join(f"{100 * ratio:.0f} % of the {name}" for name, ratio in named if ratio)

    @property
    def went(self) -> str:
        """Return in words what went; the channels are those of the blocks that are left."""
        parts = (("heads", self.heads), ("blocks", self.blocks))
        counted = [f"{p.removed} of {p.of} {name}" for name, p in parts if p.requested_ratio]
        return ", ".join((f"{100 * self.achieved_ratio:.1f} % of the {self.of}", *counted))
