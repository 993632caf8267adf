"""Show several checks together: each model on each profile, and the files that were refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgecompress.records import BudgetCheck, Report, Status
from edgecompress.report import words
from edgecompress.report.document import Json, report_json, reports_json
from edgecompress.report.tables import Table
from edgecompress.report.text import align, render_text, wrap

GRAVEST_FIRST: tuple[Status, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Refusal:
    """Name a file that could not be judged, why, and the exit code that this means."""

    model: str
    reason: str
    exit_code: int


@dataclass(frozen=True)
class Fleet:
    """Hold a report for every model on every profile, and what could not be judged."""

    reports: tuple[Report, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def verdict(self) -> Status:
        """Return the gravest verdict; a file that was refused leaves it open at best."""
        found = {report.verdict.status for report in self.reports}
        if self.refusals or not found:
            found.add("inconclusive")
        return next(status for status in GRAVEST_FIRST if status in found)

    @property
    def alone(self) -> Report | None:
        """Return the report, where one check is all there is."""
        return self.reports[0] if len(self.reports) == 1 and not self.refusals else None


def fleet_json(fleet: Fleet) -> Json:
    """Return one check as its report, and more as one document with the overall verdict."""
    if fleet.alone is not None:
        return report_json(fleet.alone)
    document = {**reports_json(fleet.reports), "verdict": fleet.verdict}
    if fleet.refusals:
        document["refused"] = [
            {"model": r.model, "reason": r.reason, "exit_code": r.exit_code} for r in fleet.refusals
        ]
    return document


def render_fleet(fleet: Fleet) -> str:
    """Return the answer for people: one check in full; of more a table, then what did not pass."""
    if fleet.alone is not None:
        return render_text(fleet.alone, files=False)
    table = fleet_table(fleet)
    parts = [headline(fleet), align([table.header, *table.rows], right=(4, 5, 6))]
    open_ones = [report for report in fleet.reports if report.verdict.status != "pass"]
    parts += [render_text(report, files=False).rstrip("\n") for report in open_ones]
    if fleet.refusals:
        lines = (wrap(f"- {words.clean(r.reason)}", "  ") for r in fleet.refusals)
        parts.append("\n".join(("Refused, not judged:", *lines)))
    return "\n\n".join(parts) + "\n"


def headline(fleet: Fleet) -> str:
    """Return the overall verdict in one line, such as `FAIL: of 4 checks 1 fails, 3 pass`."""
    parts = list(_counts(fleet))
    checks = len(fleet.reports)
    those = f"of {checks} checks {', '.join(parts)}" if checks > 1 else ", ".join(parts)
    return f"{fleet.verdict.upper()}: {those}"


def _counts(fleet: Fleet) -> Iterator[str]:
    verbs = {"fail": ("fails", "fail"), "inconclusive": ("is open", "are open")}
    for status in GRAVEST_FIRST:
        count = sum(report.verdict.status == status for report in fleet.reports)
        one, many = verbs.get(status, ("passes", "pass"))
        if count:
            subject = "all" if 1 < count == len(fleet.reports) else str(count)
            yield f"{subject} {one if count == 1 else many}"
    if count := len(fleet.refusals):
        yield f"{count} model{'s' if count > 1 else ''} refused"


def fleet_table(fleet: Fleet) -> Table:
    """Return one row for each model on each profile, with the budget that decides its verdict."""
    header = ("model", "profile", "verdict", "decided by", "limit", "value", "interval", "how")
    return Table(
        header,
        (
            *(_row(report) for report in fleet.reports),
            *((r.model, words.NOTHING, "REFUSED", *[""] * 5) for r in fleet.refusals),
        ),
    )


def _row(report: Report) -> tuple[str, ...]:
    check = deciding(report)
    known = (
        (
            check.budget,
            words.quantity(check.limit, check.unit),
            words.quantity(check.value, check.unit),
            words.interval(check),
            words.SHORT_BASES[check.basis],
        )
        if check
        else (words.NOTHING,) * 5
    )
    model = report.chosen or words.NOTHING
    return (model, report.profile, report.verdict.status.upper(), *known)


def deciding(report: Report) -> BudgetCheck | None:
    """Return the check that makes the verdict: of those with its status, the nearest its limit.

    For a failure that is the one farthest beyond.
    """
    those = [c for c in report.verdict.checks if c.status == report.verdict.status]
    return max(those, key=_share_of_limit, default=None)


def _share_of_limit(check: BudgetCheck) -> float:
    if check.value is None:
        return float("inf")  # what is not known holds everything up
    if check.limit <= 0:
        return 1.0 + check.value
    return check.value / check.limit
