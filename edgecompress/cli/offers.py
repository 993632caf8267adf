"""Put students that were judged before training into a table and into JSON."""

from __future__ import annotations

from collections.abc import Sequence

from edgecompress.cli.show import table
from edgecompress.profiles import Profile
from edgecompress.records import BudgetCheck, StudentOffer
from edgecompress.report import words
from edgecompress.report.document import offer_json
from edgecompress.students.ladder import Problem

_MARKS = {"pass": "yes", "fail": "no", "inconclusive": "not decided"}


def offers_table(offers: Sequence[StudentOffer]) -> str:
    """Return one row a student, and below how many fit."""
    latency = next((c for c in map(_latency, offers) if c), None)
    named = latency.budget if latency else "p50 ms"
    head = (
        *("student", "parameters", "MACs", "file", named, "between", "basis"),
        *("size", "memory", "fits", "why"),
    )
    rows = [head, *map(_row, offers)]
    fitting = sum(offer.fits for offer in offers)
    line = f"{fitting} of {len(offers)} students fit"
    return f"{table(rows, right=(1, 2, 4, 7, 8))}\n\n{line}"


def offers_json(offers: Sequence[StudentOffer], problem: Problem, profile: Profile) -> object:
    """Return the students for machines."""
    return {
        "schema_version": 1,
        "profile": profile.name,
        "modality": problem.modality,
        "inputs": {name: list(shape) for name, shape in problem.shapes.items()},
        "outputs": problem.outputs,
        "vocabularies": list(problem.vocabularies),
        "fitting": sum(offer.fits for offer in offers),
        "students": [offer_json(offer) for offer in offers],
    }


def _row(offer: StudentOffer) -> tuple[str, ...]:
    check, latency = _latency(offer), offer.latency_ms
    if check is not None and check.value is not None:
        time = (words.number(check.value), words.interval(check), words.SHORT_BASES[check.basis])
    else:
        time = (words.number(latency.p50 if latency else None), words.NOTHING, words.NOTHING)
    return (
        offer.spec.label,
        f"{offer.parameters:,}",
        f"{words.number(offer.macs_m)} M",
        offer.scheme,
        *time,
        words.size(offer.size_bytes),
        words.size(offer.peak_memory_bytes),
        _MARKS[offer.verdict.status],
        _why(offer),
    )


def _latency(offer: StudentOffer) -> BudgetCheck | None:
    """Return the first check of a latency budget."""
    found = (c for c in offer.verdict.checks if c.budget.startswith("latency_ms."))
    return next(found, None)


def _why(offer: StudentOffer) -> str:
    """Return what is exceeded by how much, or what is too close to tell."""
    status = offer.verdict.status
    if status == "pass":
        return ""
    those = [c for c in offer.verdict.checks if c.status == status]
    if status == "inconclusive":
        return ", ".join(
            f"{c.budget} not known" if c.value is None else f"{c.budget} too close to {c.limit:g}"
            for c in those
        )
    return ", ".join(f"{c.budget} {(c.value or 0.0) / c.limit - 1:.0%} over" for c in those)
