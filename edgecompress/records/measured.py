"""What models cost, measured or predicted, how far two agree, and what is judged of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from edgecompress.records.basics import Basis, Status


@dataclass(frozen=True)
class Parity:
    """Hold how far a model's outputs lie from its reference's on real samples.

    `max_abs_error` and `max_rel_error` (relative to the reference's largest magnitude) compare
    raw outputs; `agreement` is the share of samples (labels, tokens) with the same answer, of
    numbers their R2 against the reference, 0 to 1.
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
    waiting for a core (zeros where the system cannot count it). `reference_ms` is what the
    machine's reference network took between stretches of these calls, empty where it was not timed.
    """

    wall_ms: tuple[float, ...] = field(repr=False)
    waited_ms: tuple[float, ...] = field(repr=False)
    warmup_calls: int
    cold_start_ms: float
    peak_memory_bytes: int
    load_memory_bytes: int
    reference_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class UsualPace:
    """Hold what the reference network usually takes on a machine, from so many quiet occasions."""

    reference_ms: float
    occasions: int


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
    was found and left (a device's clocks, temperature, battery). `usual` is the machine's pace as
    it was known before.
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
    usual: UsualPace | None = None

    @property
    def pace(self) -> tuple[float, ...] | None:
        """Tell how many times as long as usual the reference network took beside each process.

        None where the machine's usual pace is not known, or the reference was not timed.
        """
        if self.usual is None or not all(p.reference_ms for p in self.processes):
            return None
        return tuple(median(p.reference_ms) / self.usual.reference_ms for p in self.processes)


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
