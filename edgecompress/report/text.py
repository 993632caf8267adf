"""Show the report in a terminal: plain text, at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from edgecompress.records import Candidate, Report
from edgecompress.report import words
from edgecompress.report.arms import short_line
from edgecompress.report.figures import final_metric
from edgecompress.report.searches import search_table, searches
from edgecompress.report.tables import budget_table, latency, speedups

WIDTH = 100


def render_text(report: Report, *, files: bool = True) -> str:
    """Return the answer for people: verdict, budgets, what ships beside the teacher, files.

    `files` says whether the report was written, so that its place is worth a line.
    """
    parts = [_verdict(report), _budgets(report), _models(report), _ways(report), _remarks(report)]
    if files:
        parts.append(_files(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _files(report: Report) -> str:
    folder = words.clean(str(report.folder))
    bundle = [f"Model   {folder}/bundle/"] if report.chosen else []
    return "\n".join([f"Report  {folder}/report.html", *bundle])


def _verdict(report: Report) -> str:
    indent = " " * (len(report.verdict.status) + 2)
    title = wrap(words.clean(words.headline(report)), indent)
    return f"{title}\n{wrap(indent + words.clean(report.verdict.reason), indent)}"


def _budgets(report: Report) -> str:
    checks = report.verdict.checks
    rows = [
        (*row[:4], check.status.upper(), words.SHORT_BASES[check.basis])
        for row, check in zip(budget_table(report).rows, checks, strict=True)
    ]
    header = ("budget", "limit", "value", "interval", "status", "how")
    return align([header, *rows], right=(1, 2, 3)) if rows else ""


def _models(report: Report) -> str:
    best, teacher = report.best, report.teacher
    if best is None:
        return ""
    metric = final_metric(best)
    score = f"{metric.name} ({metric.split})" if metric else ""
    there = best.device is not None
    place = "there" if there else "here"
    rows = [("", "size", f"p50 {place}", f"p95 {place}", score), _model(best, there)]
    if teacher is not None:
        rows += [_model(teacher, there, "teacher"), _ratios(best, teacher, there)]
    return align(rows, right=(1, 2, 3, 4))


def _model(candidate: Candidate, there: bool, name: str = "") -> tuple[str, ...]:
    measured = latency(candidate, there)
    metric = final_metric(candidate)
    return (
        name or candidate.label,
        words.size(candidate.model.size_bytes),
        words.quantity(measured.p50, "ms") if measured else words.NOTHING,
        words.quantity(measured.p95, "ms") if measured else words.NOTHING,
        words.score(metric) if metric else "",
    )


def _ratios(best: Candidate, teacher: Candidate, there: bool) -> tuple[str, ...]:
    return (
        "",
        words.times(teacher.model.size_bytes, best.model.size_bytes, "smaller", "larger"),
        *speedups(best, teacher, there),
        words.kept(final_metric(best), final_metric(teacher)),
    )


def _ways(report: Report) -> str:
    """Return what the networks cost and scored that pruning tried on the way to its target."""
    tables = (search_table(report, search) for search in searches(report))
    return "\n\n".join(align([table.header, *table.rows], right=(1, 2)) for table in tables)


def _remarks(report: Report) -> str:
    open_ones = (c for c in report.verdict.checks if c.status != "pass")
    told = report.verdict.reason
    found = [f"{c.budget}: {c.reason}" for c in open_ones if c.reason not in told]
    if report.chosen is None:
        found += [f"{c.label}: {c.dropped}" for c in report.candidates if c.dropped]
    found += [line for t in report.trainings[-1:] if (line := short_line(t))]
    found += [search.reason for search in searches(report)]
    found += words.pace_lines(report)
    found += words.device_lines(report)
    return "\n".join(wrap(f"- {words.clean(line)}", "  ") for line in found)


def wrap(text: str, indent: str) -> str:
    """Return text broken at 100 columns, every line but the first after `indent`."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def align(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows as columns two spaces apart, those in `right` set to the right.

    Where a line would be longer than 100 columns, the longest cells lose their middle.

    >>> print(align([("a", "value"), ("bc", "1")], right=(1,)))
      a   value
      bc      1
    """
    cells = [[words.clean(cell) for cell in row] for row in rows]
    widths = _fitting([max(map(len, column)) for column in zip(*cells, strict=True)])
    lines = ("  ".join(_set(row, widths, right)) for row in cells)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _set(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        text = words.shorten(cell, width)
        yield text.rjust(width) if i in right else text.ljust(width)


def _fitting(widths: list[int]) -> list[int]:
    """Return the widths, the widest made narrower until a line fits."""
    found = list(widths)
    while sum(found) + 2 * len(found) > WIDTH and max(found) > 5:
        found[found.index(max(found))] -= 1
    return found
