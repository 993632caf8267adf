"""Judge a model against a profile's budgets. Pure.

A latency is judged on the device itself only: this host where the profile says so, or a device that
was measured over ssh or adb. There a verdict is a statement about the budgeted quantile over fresh
processes: a one-sided signed-rank bound, its error of 5 % split over the looks, and a guard band
for the machine's drift, all at the machine's usual pace where that is known. What disturbed the
measurement moves a verdict to INCONCLUSIVE, unless the model is far from the limit. Waiting for a
core is taken out on the host; on a device it is the device's own and stays in. A prediction passes
only when its upper end fits, and fails only when its lower end does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from statistics import median

from edgecompress.bounds import FAR, Bounds, answer, conclude, unknown
from edgecompress.measuring.child import PEAK_UNRESET
from edgecompress.measuring.latency import running_ms
from edgecompress.measuring.readings import ERROR, Read, read_processes, timing_bounds
from edgecompress.profiles import Profile
from edgecompress.recipe import AcceptSettings, MeasureSettings
from edgecompress.records import (
    Basis,
    BudgetCheck,
    Candidate,
    Evaluation,
    LatencySamples,
    Measurement,
    OnnxModel,
    Prediction,
    Verdict,
)
from edgecompress.statistics import paired_drop, quantile

ACCEPT = "accept.max_drop"  # the name of the accuracy budget
LOOKS = MeasureSettings().processes
LEVELS = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Evidence:
    """Hold what is known of one model; what is None was not measured, predicted or scored.

    `measurement` was made on this host, `device` on the profile's own device.
    """

    model: OnnxModel
    measurement: Measurement | None = None
    prediction: Prediction | None = None
    teacher: Evaluation | None = None
    candidate: Evaluation | None = None
    device: Measurement | None = None


def judge(
    profile: Profile,
    evidence: Evidence,
    accept: AcceptSettings | None = None,
    looks: Sequence[int] = LOOKS,
) -> Verdict:
    """Return PASS, FAIL or INCONCLUSIVE for every budget of `profile`, and for all together.

    `looks` are the process counts at which a measurement may have been ended; any other count is
    taken as fixed beforehand. With `accept`, the drop from teacher to candidate is judged too, on
    the same samples. A single FAIL fails; otherwise a single INCONCLUSIVE leaves it open.
    """
    source = _source(profile, evidence.measurement, evidence.device)
    checks = [
        *_timings(profile, source, looks),
        *(_predicted(profile, evidence.prediction) if source.basis == "host" else ()),
        *_sizes(profile, evidence.model, source),
    ]
    if accept is not None:
        checks.append(_accuracy(accept, evidence))
    return conclude(checks)


def decided(
    profile: Profile, looks: Sequence[int] = LOOKS, on_device: bool = False
) -> Callable[[str, Measurement], bool]:
    """Return the answer to: is it settled, or would more processes help?

    `on_device` says that the measurements are made on the profile's own device.
    """

    def settled(_label: str, measurement: Measurement) -> bool:
        source = _source(profile, measurement, measurement if on_device else None)
        checks = _timings(profile, source, looks)
        return all(check.status != "inconclusive" for check in checks)

    return settled


def demand_measured(verdict: Verdict) -> Verdict:
    """Return the verdict with INCONCLUSIVE for every budget that only a prediction lets pass."""
    checks = tuple(
        replace(c, status="inconclusive", reason=f"{c.reason}, but a measurement is demanded")
        if c.status == "pass" and c.basis == "predicted"
        else c
        for c in verdict.checks
    )
    return conclude(checks)


@dataclass(frozen=True)
class _Source:
    """Hold the measurement that is judged, and where it was made."""

    measurement: Measurement | None
    basis: Basis

    def figure(self, samples: LatencySamples, level: float) -> float:
        """Return a quantile of one process, as this source is judged."""
        own = self.basis == "on-device"  # there the interruptions are the device's own
        return quantile(samples.wall_ms if own else running_ms(samples), level)


def _source(profile: Profile, host: Measurement | None, device: Measurement | None) -> _Source:
    """Return what stands for the profile's device: this host, the device, or the host for it."""
    if profile.device.host:
        return _Source(host, "measured")
    return _Source(host, "host") if device is None else _Source(device, "on-device")


def _timings(profile: Profile, source: _Source, looks: Sequence[int]) -> Iterator[BudgetCheck]:
    """Yield the checks that processes decide; latency only if they ran on the device."""
    for quantile_name, level in LEVELS.items() if source.basis != "host" else ():
        limit = getattr(profile.budget.latency_ms, quantile_name)
        if limit is not None:
            read = partial(source.figure, level=level)
            check = _timing(f"latency_ms.{quantile_name}", limit, read, source, looks, level)
            yield _with_interruptions(check, source, level)
    if (limit := profile.budget.cold_start_ms) is not None:
        read_start = attrgetter("cold_start_ms")
        yield _labelled(_timing("cold_start_ms", limit, read_start, source, looks))


def _with_interruptions(check: BudgetCheck, source: _Source, level: float) -> BudgetCheck:
    """Show beside a device's figure what it is without its interruptions."""
    if source.basis != "on-device" or source.measurement is None:
        return check
    without = median(quantile(running_ms(p), level) for p in source.measurement.processes)
    words = f"{check.reason} ({without:.4g} {check.unit} without interruptions)"
    return replace(check, reason=words)


def _timing(
    name: str,
    limit: float,
    read: Read,
    source: _Source,
    looks: Sequence[int],
    level: float = 0.0,
) -> BudgetCheck:
    """Judge the figure that `read` takes from each process, the quantile `level` of its calls."""
    if source.measurement is None:
        return unknown(name, "ms", limit, "not measured")
    readings = read_processes(source.measurement, read)
    if not level:
        readings = replace(readings, pace=None)  # a start waits for more than the processor
    bounds = timing_bounds(readings, looks, own_interruptions=source.basis == "on-device")
    calls = min(len(process.wall_ms) for process in source.measurement.processes)
    if calls * (1 - level) < 1:  # its slowest calls may have been missed, never invented
        few = f"{calls} calls a process tell little of their slowest {1 - level:.0%}"
        words = "; ".join(filter(None, (bounds.disturbed, few)))
        bounds = replace(bounds, pass_margin=max(FAR, bounds.pass_margin), disturbed=words)
    return answer(name, "ms", limit, bounds, source.basis)


def _predicted(profile: Profile, prediction: Prediction | None) -> Iterator[BudgetCheck]:
    """Yield the latency checks of a device that is not here."""
    for name in LEVELS:
        limit = getattr(profile.budget.latency_ms, name)
        if limit is None:
            continue
        if prediction is None:
            yield unknown(f"latency_ms.{name}", "ms", limit, "neither measured nor predicted")
            continue
        typical = prediction.latency_ms.p50
        value: float = getattr(prediction.latency_ms, name)
        # Beyond the median the figure is already the upper end; no tail is below typical.
        high = value * prediction.high_factor if name == "p50" else value
        known = f"predicted (typical time {typical:.3g} ms)"
        bounds = Bounds(value, typical * prediction.low_factor, high, known=known)
        yield answer(f"latency_ms.{name}", "ms", limit, bounds, "predicted")


def _sizes(profile: Profile, model: OnnxModel, source: _Source) -> Iterator[BudgetCheck]:
    """Yield the checks of memory and file size."""
    if (limit := profile.budget.peak_memory_mb) is not None:
        yield _labelled(_memory(limit, source))
    if (limit := profile.budget.model_size_mb) is not None:
        size = model.size_bytes / 1e6
        yield answer("model_size_mb", "MB", limit, Bounds(size, size, size), "exact")


def _memory(limit: float, source: _Source) -> BudgetCheck:
    """Judge the peak over all processes; a system that counts no memory answers 0."""
    if source.measurement is None:
        return unknown("peak_memory_mb", "MB", limit, "not measured")
    peaks = [p.peak_memory_bytes / 1e6 for p in source.measurement.processes]
    if min(peaks) <= 0:
        return unknown("peak_memory_mb", "MB", limit, "this system does not count memory")
    known = f"over {len(peaks)} processes"
    blind = [w for w in source.measurement.uncontrolled if w == PEAK_UNRESET]
    margin = FAR if blind else 0.0
    bounds = Bounds(
        median(peaks), min(peaks), max(peaks), margin, margin, known, disturbed="; ".join(blind)
    )
    return answer("peak_memory_mb", "MB", limit, bounds, source.basis)


def _accuracy(accept: AcceptSettings, evidence: Evidence) -> BudgetCheck:
    """Judge the drop from the teacher on the same samples, in the metric's bad direction."""
    name, limit = ACCEPT, accept.max_drop
    if evidence.teacher is None or evidence.candidate is None:
        return unknown(name, "", limit, "not scored beside the teacher; give data with labels")
    drop, low, high = score_drop(evidence.teacher, evidence.candidate)
    metric = evidence.candidate.metric
    known = f"lost, paired on {len(evidence.candidate.scores)} {metric.split} samples"
    bounds = Bounds(drop, low, high, known=known)
    return answer(name, metric.name, limit, bounds, "measured")


def score_drop(reference: Evaluation, candidate: Evaluation) -> tuple[float, float, float]:
    """Return how much worse the candidate scores on the same samples, with one-sided bounds."""
    pair = (reference.scores, candidate.scores)
    first, second = pair if candidate.metric.higher_is_better else pair[::-1]
    return paired_drop(first, second, ERROR)


def all_int8_loses(whole: Candidate, made: Sequence[Candidate], allowed: float) -> bool:
    """Return whether there is static int8 of a float model, and all plain int8 loses too much.

    That is: scores more than `allowed` worse on the same validation samples, or was out before it
    was scored.
    """
    plain = [c for c in made if c.scheme.startswith(("int8-static", "int8-dynamic"))]

    def keeps(candidate: Candidate) -> bool:
        exact, rounded = (one.evaluation("validation") for one in (whole, candidate))
        if exact is None or rounded is None:
            return False
        return score_drop(exact, rounded)[0] <= allowed

    static = any(c.scheme.startswith("int8-static") for c in plain)
    return static and not any(keeps(c) for c in plain)


def _labelled(check: BudgetCheck) -> BudgetCheck:
    """Label a figure of this host that stands in for an absent device's."""
    if check.basis != "host":
        return check
    return replace(check, reason=f"on this host, not the device: {check.reason}")
