"""What the stages make: frozen records, plain data, no behaviour beyond reading themselves.

Paths in a record are absolute while the program runs and relative to the stage's folder on disk.
Units stand in the names: `_ms`, `_s`, `_bytes`, `_mb` (10^6 bytes).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Status = Literal["pass", "fail", "inconclusive"]
Basis = Literal["measured", "on-device", "predicted", "exact", "host", "none"]
SplitName = Literal["train", "validation", "test"]
Kind = Literal["classification", "binary", "multilabel", "regression", "embedding", "tokens"]
Family = Literal[
    "resnet8",
    "ds_cnn",
    "mobilenet_v1",
    "sensor_net",
    "audio_net",
    "tabular_net",
    "hashed_bag",
    "text_encoder",
]


@dataclass(frozen=True)
class Artifact:
    """Name a file together with the digest that its content must have."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """Name an ONNX file."""


@dataclass(frozen=True)
class Metric:
    """Hold one score, its 95 % interval (`low <= value <= high`) and the split it was read on."""

    name: str
    value: float
    low: float
    high: float
    split: SplitName
    higher_is_better: bool = True


@dataclass(frozen=True)
class Evaluation:
    """Hold a score and the per-sample scores behind it, so that two models can be paired."""

    metric: Metric
    scores: tuple[float, ...] = field(repr=False)


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
    share of answers that are the teacher's too, for numbers R2 against the teacher's; None for the
    teacher itself. `membership_auc`, with its 95 % interval, tells training samples from
    validation samples by their losses: 0.5 is chance, 1 is a network that gives away every one.
    """

    nll: float | None
    calibration_error: float | None
    agreement: float | None
    membership_auc: float
    membership_low: float
    membership_high: float


@dataclass(frozen=True)
class Arm:
    """Hold one trained arm of a comparison: `distilled`, its `control`, ..., or `teacher`."""

    name: str
    weights: Artifact
    evaluation: Evaluation
    curve: tuple[EpochPoint, ...]
    seed: int = 0
    figures: Figures | None = None


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
class PruningOutcome:
    """Hold a pruning: its plan, weights, and what was asked against what was got.

    The ratios are shares of the channels that may be cut; `macs` are for one sample.
    """

    plan: Artifact
    weights: Artifact
    requested_ratio: float
    achieved_ratio: float
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Parity:
    """Hold how far a model's outputs lie from its reference's on real samples.

    `max_abs_error` and `max_rel_error` (relative to the reference's largest magnitude) compare
    raw outputs; `agreement` is the share of samples with the same top class (1.0 for tasks
    without classes).
    """

    reference: str
    samples: int
    max_abs_error: float
    max_rel_error: float
    agreement: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class LatencySamples:
    """Hold every sample of one fresh process, in order; none is dropped.

    `wall_ms` is the wall time of each call; `waited_ms` the part of it that the thread spent
    waiting for a core (zeros where the system cannot count it).
    """

    wall_ms: tuple[float, ...] = field(repr=False)
    waited_ms: tuple[float, ...] = field(repr=False)
    warmup_calls: int
    cold_start_ms: float
    peak_memory_bytes: int
    load_memory_bytes: int


@dataclass(frozen=True)
class Quantiles:
    """Hold latency quantiles in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Measurement:
    """Hold what one model cost on one machine, `host`: one `LatencySamples` a process.

    `latency_ms` are medians over processes of each process's quantile, waiting taken out;
    `uncontrolled` says in words what that system could not pin or count, and `conditions` how it
    was found and left (a device's clocks, temperature, battery).
    """

    processes: tuple[LatencySamples, ...] = field(repr=False)
    latency_ms: Quantiles
    wall_latency_ms: Quantiles
    cold_start_ms: float
    peak_memory_bytes: int
    threads: int
    batch: int
    host: str
    uncontrolled: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """Hold a predicted typical latency on an absent device, with the interval it is known to."""

    latency_ms: Quantiles
    low_factor: float
    high_factor: float
    tail_ratio: float
    basis: str


@dataclass(frozen=True)
class BudgetCheck:
    """Hold one budget's answer. `value`, `low`, `high` and `limit` share `unit`."""

    budget: str
    unit: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    status: Status
    basis: Basis
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Hold the overall answer and the checks it follows from."""

    status: Status
    checks: tuple[BudgetCheck, ...]
    reason: str


@dataclass(frozen=True)
class StudentSpec:
    """Name a student: a family of `students/`, its widths and numbers of blocks multiplied."""

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


@dataclass(frozen=True)
class Candidate:
    """Hold one ONNX model that could ship, with everything known of it.

    `measurement` was made on this host, `device` on the profile's own device.
    """

    label: str
    model: OnnxModel
    scheme: str
    parity: Parity | None
    evaluations: tuple[Evaluation, ...]
    measurement: Measurement | None
    prediction: Prediction | None
    dropped: str | None = None
    device: Measurement | None = None

    def evaluation(self, split: SplitName) -> Evaluation | None:
        """Return the evaluation on `split`, or None if that split was not read."""
        return next((e for e in self.evaluations if e.metric.split == split), None)


@dataclass(frozen=True)
class Report:
    """Hold the answer of a run: the verdict, the model that ships, and all that was compared."""

    verdict: Verdict
    profile: str
    task: str
    chosen: str | None
    candidates: tuple[Candidate, ...]
    teacher: Candidate | None
    control: Candidate | None
    trainings: tuple[TrainedNetwork, ...]
    prunings: tuple[PruningOutcome, ...]
    test_reads: int
    environment: Mapping[str, str]
    settings: Mapping[str, object]
    notes: tuple[str, ...]
    folder: Path
    schema_version: int = 1
    students: StudentChoice | None = None

    @property
    def best(self) -> Candidate | None:
        """Return the chosen candidate."""
        return next((c for c in self.candidates if c.label == self.chosen), None)

    def _repr_html_(self) -> str:
        """Show the verdict and its checks in a notebook."""
        cells = "".join(
            f"<tr><td>{html.escape(c.budget)}</td><td>{c.limit:g} {html.escape(c.unit)}</td>"
            f"<td>{'-' if c.value is None else format(c.value, '.4g')}</td>"
            f"<td>{c.status.upper()}</td><td>{html.escape(c.reason)}</td></tr>"
            for c in self.verdict.checks
        )
        return (
            f"<h3>{self.verdict.status.upper()}: {html.escape(self.chosen or 'no model')} on "
            f"{html.escape(self.profile)}</h3><table><tr><th>budget</th><th>limit</th>"
            f"<th>value</th><th>status</th><th>reason</th></tr>{cells}</table>"
        )
