"""Budget first: what every student would cost on the device, found out before any is trained.

Latency, memory and size do not depend on the values of weights, so an untrained network tells
them. All files take one short turn; that settles what is far from its limit, as most are. Only
what is near is measured as carefully as a finished model, by the same judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from edgecompress.bounds import FAR, Bounds, answer, conclude
from edgecompress.measuring.features import Features
from edgecompress.records import (
    BudgetCheck,
    Measurement,
    OnnxModel,
    Prediction,
    Quantiles,
    StudentOffer,
    StudentSpec,
    Verdict,
)

SLOWER, FASTER = 1 + FAR, 2.0
"""By how much one process may have taken a model for faster or for slower than it is: the first as
a disturbed measurement is judged, the second more, for other work only ever slows a model down."""


@dataclass(frozen=True)
class Design:
    """Hold an untrained student as ONNX files by scheme: `fp32`, and int8 where it is wanted."""

    spec: StudentSpec
    parameters: int
    files: Mapping[str, OnnxModel]


@dataclass(frozen=True)
class Services:
    """Hold what judging takes from other rooms.

    `work(models)` counts operations; `measure(models, carefully)` measures on this host, one short
    process each or as many as it takes to decide; `predict` and `judge` take None for what is not
    known.
    """

    work: Callable[[Mapping[str, OnnxModel]], Mapping[str, Features | str]]
    measure: Callable[[Mapping[str, OnnxModel], bool], Mapping[str, Measurement]]
    predict: Callable[[Measurement | None, Features | str], Prediction | None]
    judge: Callable[[OnnxModel, Measurement | None, Prediction | None], Verdict]


@dataclass(frozen=True)
class _Variant:
    """Hold one file of a student and what is known of it so far."""

    design: Design
    scheme: str
    work: Features | str
    measurement: Measurement | None = None
    prediction: Prediction | None = None
    verdict: Verdict = field(default=Verdict("inconclusive", (), ""))

    @property
    def model(self) -> OnnxModel:
        return self.design.files[self.scheme]

    @property
    def label(self) -> str:
        return _label(self.design, self.scheme)

    @property
    def latency_ms(self) -> Quantiles | None:
        """Return the device's latency: predicted, or else as measured here."""
        source = self.prediction or self.measurement
        return source.latency_ms if source else None


def judge_students(designs: Sequence[Design], services: Services) -> tuple[StudentOffer, ...]:
    """Return each student's costs and verdict, the one with the fewest operations first.

    Of a student's files, the quickest of those that may fit is judged. A file that is too large,
    or predicted to be too slow for an absent device, is not measured.
    """
    files = [(design, scheme) for design in designs for scheme in design.files]
    work = services.work({_label(d, s): d.files[s] for d, s in files})
    variants = [_judged(_Variant(d, s, work[_label(d, s)]), services) for d, s in files]
    variants = _measured(variants, services, _has_no_time)
    best = [_best([v for v in variants if v.design is design]) for design in designs]
    best = _measured(best, services, _was_not_measured)
    best = _measured(best, services, _is_near, carefully=True)
    return tuple(sorted(map(_offer, best), key=lambda offer: (offer.macs_m, offer.parameters)))


def screened(verdict: Verdict) -> Verdict:
    """Return the verdict with the times settled that one process shows to be far from a limit.

    The judge leaves every time open after one process, for nothing is known of its spread.
    """
    return conclude([_screened(check) for check in verdict.checks])


def finalists(offers: Sequence[StudentOffer], most: int) -> tuple[StudentOffer, ...]:
    """Return the largest students that fit, by operations, first one of each family."""
    largest = sorted((o for o in offers if o.fits), key=lambda o: -o.macs_m)
    heads = {offer.spec.family: offer for offer in reversed(largest)}.values()
    others = [offer for offer in largest if offer not in heads]
    first = sorted(heads, key=lambda o: -o.macs_m)
    return tuple([*first, *others][:most])


def nearest(offers: Sequence[StudentOffer]) -> StudentOffer:
    """Return the student that exceeds its budgets least: if none does for certain, the quickest."""

    def order(offer: StudentOffer) -> tuple[float, float]:
        failed = [c for c in offer.verdict.checks if c.status == "fail" and c.value is not None]
        excess = max(((c.value or 0.0) / c.limit for c in failed), default=0.0)
        return excess, offer.latency_ms.p50 if offer.latency_ms else inf

    return min(offers, key=order)


def _screened(check: BudgetCheck) -> BudgetCheck:
    if check.status != "inconclusive" or check.unit != "ms" or check.value is None:
        return check
    if check.basis == "predicted":
        return check
    span = (check.value / FASTER, check.value * SLOWER)
    bounds = Bounds(check.value, *span, known="in one process")
    return answer(check.budget, check.unit, check.limit, bounds, check.basis)


def _label(design: Design, scheme: str) -> str:
    return f"{design.spec.label}/{scheme}"


def _judged(variant: _Variant, services: Services) -> _Variant:
    """Return the variant judged by all that is known of it."""
    prediction = services.predict(variant.measurement, variant.work)
    verdict = services.judge(variant.model, variant.measurement, prediction)
    return replace(variant, prediction=prediction, verdict=verdict)


def _measured(
    variants: Sequence[_Variant],
    services: Services,
    wanted: Callable[[_Variant], bool],
    carefully: bool = False,
) -> list[_Variant]:
    """Return the variants with those measured, in turns, that are wanted and have not failed."""
    asked = {v.label: v.model for v in variants if v.verdict.status != "fail" and wanted(v)}
    found = services.measure(asked, carefully) if asked else {}
    result = []
    for one in variants:
        if one.label in found:
            one = _judged(replace(one, measurement=found[one.label]), services)
            one = one if carefully else replace(one, verdict=screened(one.verdict))
        result.append(one)
    return result


def _has_no_time(variant: _Variant) -> bool:
    return variant.latency_ms is None


def _was_not_measured(variant: _Variant) -> bool:
    """Return whether its memory is not known yet, as where times are predicted."""
    return variant.measurement is None


def _is_near(variant: _Variant) -> bool:
    """Return whether more processes could settle what is open."""
    open_checks = [c for c in variant.verdict.checks if c.status == "inconclusive"]
    return any(c.unit == "ms" and c.basis != "predicted" for c in open_checks)


def _best(variants: Sequence[_Variant]) -> _Variant:
    """Return the quickest of the files that may fit, or else of all; unknown times come last."""

    def order(variant: _Variant) -> tuple[bool, float, int]:
        latency = variant.latency_ms
        quick = latency.p50 if latency else inf
        return variant.verdict.status == "fail", quick, variant.model.size_bytes

    return min(variants, key=order)


def _offer(variant: _Variant) -> StudentOffer:
    measured, work = variant.measurement, variant.work
    return StudentOffer(
        spec=variant.design.spec,
        parameters=variant.design.parameters,
        macs_m=work.macs_m if isinstance(work, Features) else 0.0,
        scheme=variant.scheme,
        size_bytes=variant.model.size_bytes,
        latency_ms=variant.latency_ms,
        peak_memory_bytes=measured.peak_memory_bytes if measured else None,
        verdict=variant.verdict,
    )
