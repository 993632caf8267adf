"""Lay the report out as rows of text, which Markdown, HTML and the terminal then dress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgecompress.records import Candidate, Parity, Quantiles, Report, SplitName
from edgecompress.report import words
from edgecompress.report.figures import removed_ratio
from edgecompress.report.record import relative_to_folder

Role = Literal["chosen", "teacher", "control", "dropped", "candidate"]


@dataclass(frozen=True)
class Table:
    """Hold a table's header and rows, every row as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Entry:
    """Hold one model of the comparison, its part in it and the tag that plots mark it with."""

    tag: str
    role: Role
    candidate: Candidate


def entries(report: Report) -> tuple[Entry, ...]:
    """Return every compared model: candidates numbered from 1, then teacher T and control C."""
    found = [Entry(str(i), _role(c, report), c) for i, c in enumerate(report.candidates, start=1)]
    if report.teacher:
        found.append(Entry("T", "teacher", report.teacher))
    if report.control:
        found.append(Entry("C", "control", report.control))
    return tuple(found)


def _role(candidate: Candidate, report: Report) -> Role:
    if candidate.label == report.chosen:
        return "chosen"
    return "dropped" if candidate.dropped else "candidate"


def budget_table(report: Report) -> Table:
    """Return one row a budget."""
    return Table(
        ("budget", "limit", "value", "interval", "status", "how it is known", "why"),
        tuple(
            (
                check.budget,
                words.quantity(check.limit, check.unit),
                words.quantity(check.value, check.unit),
                words.interval(check),
                check.status,
                words.BASES[check.basis],
                check.reason,
            )
            for check in report.verdict.checks
        ),
    )


def candidate_table(report: Report) -> Table:
    """Return one row a model; a column that no model fills is left out."""
    header = (
        "",
        "model",
        "size",
        "download",
        "p50 here",
        "p95 here",
        "p50 there, predicted",
        "p50 on the device",
        "p95 on the device",
        "peak memory",
        "cold start",
        "validation",
        "test",
        "remark",
    )
    return _without_empty_columns(Table(header, tuple(_row(entry) for entry in entries(report))))


def _row(entry: Entry) -> tuple[str, ...]:
    candidate = entry.candidate
    cost = candidate.device or candidate.measurement
    return (
        entry.tag,
        candidate.label,
        words.size(candidate.model.size_bytes),
        words.size(candidate.download_bytes),
        *_latency_cells(latency(candidate)),
        words.quantity(candidate.prediction.latency_ms.p50, "ms")
        if candidate.prediction
        else words.NOTHING,
        *_latency_cells(latency(candidate, there=True)),
        words.size(cost.peak_memory_bytes) if cost else words.NOTHING,
        words.quantity(cost.cold_start_ms, "ms") if cost else words.NOTHING,
        _score(candidate, "validation"),
        _score(candidate, "test"),
        remark(entry),
    )


def _latency_cells(found: Quantiles | None) -> tuple[str, str]:
    if found is None:
        return words.NOTHING, words.NOTHING
    return words.quantity(found.p50, "ms"), words.quantity(found.p95, "ms")


def latency(candidate: Candidate, there: bool = False) -> Quantiles | None:
    """Return what was measured here, or `there`: on the device, interruptions left in."""
    if there:
        return candidate.device.wall_latency_ms if candidate.device else None
    return candidate.measurement.latency_ms if candidate.measurement else None


def speedups(best: Candidate, teacher: Candidate, there: bool = False) -> tuple[str, str]:
    """Return how many times faster `best` is than `teacher`, at the median and at p95."""
    new, old = latency(best, there), latency(teacher, there)
    if new is None or old is None:
        return words.NOTHING, words.NOTHING
    return (
        words.times(old.p50, new.p50, "faster", "slower"),
        words.times(old.p95, new.p95, "faster", "slower"),
    )


def _score(candidate: Candidate, split: SplitName) -> str:
    found = candidate.evaluation(split)
    return words.score(found.metric) if found else words.NOTHING


def remark(entry: Entry) -> str:
    """Return what a reader must know of one model."""
    if entry.role == "chosen":
        return "chosen"
    if entry.candidate.dropped:
        return f"dropped: {entry.candidate.dropped}"
    return {"teacher": "the teacher", "control": "hard labels only"}.get(entry.role, "")


def _without_empty_columns(table: Table) -> Table:
    kept = [
        i
        for i, name in enumerate(table.header)
        if name in ("", "model", "size")
        or any(row[i] not in ("", words.NOTHING) for row in table.rows)
    ]
    pick = [tuple(line[i] for i in kept) for line in (table.header, *table.rows)]
    return Table(pick[0], tuple(pick[1:]))


def parity_table(report: Report) -> Table:
    """Return how far each candidate's outputs lie from its reference's."""
    return Table(
        ("model", "compared with", "samples", "largest error", "same answer", "verdict"),
        tuple(_parity_row(c.label, c.parity) for c in report.candidates if c.parity is not None),
    )


def _parity_row(label: str, parity: Parity) -> tuple[str, ...]:
    return (
        label,
        parity.reference,
        f"{parity.samples:,}",
        words.number(parity.max_abs_error),
        f"{100 * parity.agreement:.2f} %",
        "passed" if parity.passed else f"failed: {parity.reason}",
    )


def pruning_table(report: Report) -> Table:
    """Return what each pruning was asked for beside what it got."""
    return Table(
        ("asked to go", "went", "MACs gone", "parameters gone", "MACs left", "parameters left"),
        tuple(
            (
                p.asked,
                p.went,
                f"{100 * removed_ratio(p.macs_before, p.macs_after):.1f} %"
                + (" (zeros run no faster)" if p.of == "weights" else ""),
                f"{100 * removed_ratio(p.parameters_before, p.parameters_after):.1f} %",
                f"{p.macs_after:,} of {p.macs_before:,}",
                f"{p.parameters_after:,} of {p.parameters_before:,}",
            )
            for p in report.prunings
        ),
    )


def digest_table(report: Report) -> Table:
    """Return every compared file with its digest."""
    return Table(
        ("model", "file", "SHA-256"),
        tuple(
            (
                e.candidate.label,
                relative_to_folder(e.candidate.model.path, report.folder).as_posix(),
                e.candidate.model.sha256,
            )
            for e in entries(report)
        ),
    )


def environment_table(report: Report) -> Table:
    """Return the machine and the library versions."""
    return Table(("what", "value"), tuple((k, str(v)) for k, v in report.environment.items()))


def settings_table(report: Report) -> Table:
    """Return the settings of the run, one row a key, sections dotted as in `--set`."""
    return Table(("setting", "value"), tuple(_flat(report.settings)))


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, _setting(value)


def _setting(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(part) for part in value)
    return "not set" if value is None else str(value)
