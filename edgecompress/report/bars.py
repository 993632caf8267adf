"""Lay bars out as shares of their track's width, for the page's budgets and sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from edgecompress.records import BudgetCheck, Report
from edgecompress.report.tables import Entry, entries


@dataclass(frozen=True)
class BudgetBar:
    """Hold where a budget's bar, its zero, its interval and its limit lie, in per cent."""

    start: float
    end: float
    low: float | None
    high: float | None
    limit: float
    zero: float


@dataclass(frozen=True)
class SizeBar:
    """Hold a model and its size as a share of the largest, in per cent."""

    entry: Entry
    width: float


def budget_bar(check: BudgetCheck) -> BudgetBar | None:
    """Return the bar of a check, drawn from zero; None where there is no figure to draw."""
    figures = [f for f in (check.value, check.low, check.high) if _is_finite(f)]
    if not _is_finite(check.value) or not math.isfinite(check.limit):
        return None
    least, most = min(0.0, *figures), max(check.limit, *figures)
    span = 1.06 * (most - least) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - least) / span, 3)

    value = check.value or 0.0
    known = _is_finite(check.low) and _is_finite(check.high) and check.low != check.high
    return BudgetBar(
        place(min(0.0, value)),
        place(max(0.0, value)),
        place(check.low or 0.0) if known else None,
        place(check.high or 0.0) if known else None,
        place(check.limit),
        place(0.0),
    )


def size_bars(report: Report) -> tuple[SizeBar, ...]:
    """Return every model's size beside the largest."""
    found = entries(report)
    largest = max((e.candidate.model.size_bytes for e in found), default=0) or 1
    return tuple(SizeBar(e, round(100 * e.candidate.model.size_bytes / largest, 3)) for e in found)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
