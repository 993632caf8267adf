"""How far one file's scores lie apart between processors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from edgecompress.statistics import paired_drop

ERROR = 0.05


@dataclass(frozen=True)
class Spread:
    """Hold the largest difference between two processors' scores, in the metric's own unit.

    `low` and `high` are one-sided bounds, each wrong with probability 5 %, on the same samples;
    `highest` and `lowest` name the processors that lie farthest apart.
    """

    value: float
    low: float
    high: float
    highest: str
    lowest: str
    samples: int


def largest_spread(scores: Mapping[str, Sequence[float]]) -> Spread:
    """Return the spread of the scores by processor, one score a sample, of two or more of them.

    The upper bound is the largest of all pairs': it covers the pair that is truly farthest apart
    whichever that is. The lower one takes the best of many pairs, which share its error
    (Bonferroni).

    >>> found = largest_spread({"a": [1] * 100, "b": [1] * 100, "c": [1] * 98 + [0] * 2})
    >>> found.value, found.low, round(found.high, 3), found.highest, found.lowest
    (0.02, 0.0, 0.059, 'a', 'c')
    """
    pairs = list(permutations(scores, 2))
    drops = {(a, b): paired_drop(scores[a], scores[b], ERROR) for a, b in pairs}
    highest, lowest = max(drops, key=lambda pair: drops[pair][0])
    lows = [paired_drop(scores[a], scores[b], ERROR / len(pairs))[1] for a, b in pairs]
    return Spread(
        value=drops[highest, lowest][0],
        low=max(0.0, *lows),
        high=max(high for _, _, high in drops.values()),
        highest=highest,
        lowest=lowest,
        samples=len(scores[highest]),
    )
