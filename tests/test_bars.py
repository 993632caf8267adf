"""The bars of the report's budgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgecompress.records import BudgetCheck
from edgecompress.report.bars import budget_bar


@pytest.mark.parametrize(
    ("value", "low", "high", "limit"),
    [(1.0, 0.5, 2.0, 4.0), (9.0, 8.0, 10.0, 4.0), (-1.0, -2.0, 0.5, 1.0), (0.0, 0.0, 0.0, 0.0)],
)
def test_bars_stay_inside_their_track(value: float, low: float, high: float, limit: float) -> None:
    check = BudgetCheck("b", "ms", limit, value, low, high, "pass", "measured", "")
    bar = budget_bar(check)
    assert bar is not None
    places = [
        p for p in (bar.start, bar.end, bar.low, bar.high, bar.limit, bar.zero) if p is not None
    ]
    assert all(0 <= place <= 100 for place in places)
    assert bar.start <= bar.end


def test_unknown_value_has_no_bar() -> None:
    check = BudgetCheck("b", "ms", 1.0, None, None, None, "inconclusive", "none", "")
    assert budget_bar(check) is None
    assert budget_bar(replace(check, value=float("nan"))) is None
