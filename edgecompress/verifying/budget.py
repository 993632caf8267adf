"""The budget of a spread: does one file score alike on every processor of a fleet?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgecompress.bounds import Bounds, answer, unknown
from edgecompress.errors import ChildFailedError
from edgecompress.records import BudgetCheck
from edgecompress.verifying.fleet import Member
from edgecompress.verifying.machines import RefusedError
from edgecompress.verifying.spread import largest_spread

NAME = "isa_spread"
PATIENCE_S = 3600.0  # for all samples on one processor; an imitated one takes up to 0.1 s each

ScoresOn = Callable[[Member], Sequence[float]]


def judge_spread(
    limit: float, unit: str, fleet: Sequence[Member], scores_on: ScoresOn
) -> BudgetCheck:
    """Return whether the largest spread is within `limit`, in the metric's own unit.

    `scores_on` returns one score a sample. Where a member's kernels cannot run here, nothing runs
    and the check is inconclusive, with the remedy. A file that is refused on a member fails.
    """
    if missing := dict.fromkeys(f"{m.name}: {m.missing}" for m in fleet if m.missing):
        return unknown(NAME, unit, limit, "; ".join(missing))
    if not fleet:
        return unknown(NAME, unit, limit, "the profile names no device.fleet, and no device.isa")
    if len(fleet) == 1:
        known = f"for the fleet is {fleet[0].name} alone"
        return answer(NAME, unit, limit, Bounds(0.0, 0.0, 0.0, known=known), "exact")
    scores = {}
    for member in fleet:
        try:
            scores[member.name] = scores_on(member)
        except RefusedError as error:
            reason = f"ONNX Runtime refuses it on {member.name}: {error}"
            return BudgetCheck(NAME, unit, limit, None, None, None, "fail", "measured", reason)
        except ChildFailedError as error:
            return unknown(NAME, unit, limit, str(error))
    found = largest_spread(scores)
    known = f"between {found.highest} and {found.lowest}, paired on {found.samples} samples"
    bounds = Bounds(found.value, found.low, found.high, known=known)
    return answer(NAME, unit, limit, bounds, "measured")
