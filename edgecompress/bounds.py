"""Answer a budget by bounds, put the answer into words, and conclude from several. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from edgecompress.records import Basis, BudgetCheck, Status, Verdict

FAR = 0.50  # how far from the limit a disturbed measurement still decides


@dataclass(frozen=True)
class Bounds:
    """Hold a figure with one-sided bounds, and how far from a limit they decide (ratios)."""

    value: float
    low: float
    high: float
    pass_margin: float = 0.0
    fail_margin: float = 0.0
    known: str = ""
    disturbed: str = ""

    def status(self, limit: float) -> Status:
        """Return what the bounds say about `value <= limit`."""
        if self.high * (1 + self.pass_margin) <= limit:
            return "pass"
        return "fail" if self.low > limit * (1 + self.fail_margin) else "inconclusive"


def answer(name: str, unit: str, limit: float, bounds: Bounds, basis: Basis) -> BudgetCheck:
    """Return the check that the bounds answer, with the reason in words."""
    status = bounds.status(limit)
    figure = f"{bounds.value:.4g} {unit} {bounds.known}".strip()
    match status:
        case "pass":
            most = f", at most {bounds.high:.4g}" if bounds.high > bounds.low else ""
            reason = f"{figure}{most}: {_apart(bounds.high, limit, unit)}"
        case "fail":
            least = f", at least {bounds.low:.4g}" if bounds.high > bounds.low else ""
            reason = f"{figure}{least}: {_apart(bounds.low, limit, unit)}; {_passing(bounds, unit)}"
        case "inconclusive":
            reason = f"{figure}, {_undecided(bounds, limit, unit)}"
    low, high = (end if isfinite(end) else None for end in (bounds.low, bounds.high))
    return BudgetCheck(name, unit, limit, bounds.value, low, high, status, basis, reason)


def unknown(name: str, unit: str, limit: float, reason: str) -> BudgetCheck:
    """Return the check of a budget of which nothing is known, for this reason."""
    return BudgetCheck(name, unit, limit, None, None, None, "inconclusive", "none", reason)


def conclude(checks: Sequence[BudgetCheck]) -> Verdict:
    """Return the verdict: a single FAIL fails; otherwise a single INCONCLUSIVE leaves it open."""
    return Verdict(_overall(checks), tuple(checks), _summary(checks))


def _undecided(bounds: Bounds, limit: float, unit: str) -> str:
    """Say why the bounds decide nothing, and what would help."""
    if not isfinite(bounds.high):
        return "too few to say how far off that may be; measure more processes"
    span = f"between {bounds.low:.4g} and {bounds.high:.4g}"
    margin = bounds.fail_margin if bounds.value > limit else bounds.pass_margin
    if bounds.disturbed and margin >= FAR:
        return (
            f"{span}, disturbed ({bounds.disturbed}): that decides only {FAR:.0%} away from "
            f"{limit:.4g} {unit}; measure on a quiet machine"
        )
    guard = f", with a guard band of {margin:.1%} for drift" if margin else ""
    return f"{span}{guard}: too close to {limit:.4g} {unit} to tell; {_passing(bounds, unit)}"


def _passing(bounds: Bounds, unit: str) -> str:
    """Say to what the budget would have to move."""
    needed = _rounded_up(bounds.high * (1 + bounds.pass_margin))
    return f"it would pass a limit of {needed:.4g} {unit}".strip()


def _apart(figure: float, limit: float, unit: str) -> str:
    """Say how far a figure lies from its limit."""
    side = "over" if figure > limit else "under"
    if limit > 0:
        return f"{abs(figure - limit) / limit:.1%} {side} the limit"
    return f"{abs(figure - limit):.4g} {unit} {side} the limit"


def _rounded_up(figure: float) -> float:
    """Return the next figure of three digits that is not below.

    >>> _rounded_up(23.41), _rounded_up(0.10001)
    (23.5, 0.101)
    """
    if figure <= 0:
        return 0.0
    unit = 10.0 ** (floor(log10(figure)) - 2)
    return float(f"{ceil(figure / unit - 1e-9) * unit:.6g}")


def _overall(checks: Sequence[BudgetCheck]) -> Status:
    found = {check.status for check in checks}
    order: tuple[Status, ...] = ("fail", "inconclusive", "pass")
    return next((status for status in order if status in found), "inconclusive")


def _summary(checks: Sequence[BudgetCheck]) -> str:
    overall = _overall(checks)
    those = [f"{c.budget} ({c.reason})" for c in checks if c.status == overall]
    match overall:
        case "pass":
            return f"all {len(checks)} budgets are met"
        case "fail":
            return f"over budget: {'; '.join(those)}"
        case "inconclusive":
            return f"not decided: {'; '.join(those) or 'the profile sets no budget'}"
