"""Fit the costs of every core at once: a linear mixed model of log time, made linear where it is.

The time of a model is the sum of its features times the core's costs. A cost's logarithm is a
prior guess plus four normal deviations: of all cores, of the precision, of the core class, of this
core. What the features do not explain has a part that a model shows everywhere, one in its core
class, one on the core, and noise. The sum's logarithm is made linear at the current costs, and the
exact posterior taken (a Gaussian process), until the costs stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from table import COLUMNS, Floats, Row, numbered

# ms per million MACs or megabyte, layer, million weights; only their ratios matter. A 3x3 MAC is a
# quarter of a 1x1 one (Winograd's 36 products for 144), a byte is a byte, and unaligned channels
# cost 1.7 times as much (63 instead of 64, measured on an x86).
GUESS = dict(
    pointwise=0.067, conv3x3=0.017, conv_other=0.083, depthwise=0.2, grouped=0.1,
    fully_connected=0.167, matmul=0.067, elementwise=0.17, exponential=0.33, layer=0.007,
    parameter=0.23, convolved=0.17, unaligned=0.047,
)  # fmt: skip
MACS = [*list(COLUMNS.values())[:7], "unaligned"]
INT8_MACS = 0.6  # of a float MAC; what is no MAC stays in floats in ncnn and costs the same
POOLED_ROUNDS, POOLED_SPREAD, POOLED_INT8_SPREAD, POOLED_WEIGHT = 15, 0.7, 0.3, 100.0
# Standard deviations of the logarithms.
COST_SPREAD = {"all": 0.40, "precision": 0.20, "class": 0.28, "core": 0.28, "unit": 0.16}
SPREAD = {
    "level": 1.0, "pace": 1.3, "precision pace": 0.12, "model": 0.07, "twin": 0.03,
    "model in class": 0.05, "model on core": 0.06, "noise": 0.06,
}  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """Hold the costs of one unit: means and standard deviations of their logarithms."""

    log_cost: Floats
    sd: Floats


class Mixed:
    """Hold rows with their features, ready to be fitted on any part of them."""

    def __init__(self, rows: Sequence[Row], features: dict[str, Floats]) -> None:
        self.rows = rows
        self.features = np.stack([features[row.model] for row in rows])
        self.log_time = np.log([row.latency_ms for row in rows])
        units = [row.unit for row in rows]
        self.unit = numbered(units)
        core = numbered([unit[:2] for unit in units])
        int8 = np.array([row.int8 for row in rows])
        path = numbered([(row.core_class, row.precision) for row in rows])
        net, model = numbered([r.net for r in rows]), numbered([r.model for r in rows])
        self._costs = {
            "all": _alike(np.zeros(len(rows))),
            "precision": _alike(int8),
            "class": _alike(path),
            "core": _alike(core),
            "unit": _alike(self.unit),
        }
        same = {
            "level": _alike(np.zeros(len(rows))),
            "pace": _alike(core),
            "precision pace": _alike(self.unit),
            "model": _alike(net),
            "twin": _alike(model),
            "model in class": _alike(model) * _alike(path),
            "model on core": _alike(net) * _alike(core),
            "noise": np.eye(len(rows)),
        }
        self._between = sum(SPREAD[name] ** 2 * same[name] for name in SPREAD)
        self._paces = sum(
            SPREAD[name] ** 2 * same[name] for name in ("level", "pace", "precision pace")
        )
        self._of_costs = sum(COST_SPREAD[name] ** 2 * self._costs[name] for name in COST_SPREAD)

    def fit(self, known: NDArray[np.bool_]) -> dict[int, Fitted]:
        """Return the costs of every unit (by the number of its first row) from the rows known."""
        guess = np.log([GUESS[name] for name in COLUMNS.values()])
        fewer = np.where([name in MACS for name in COLUMNS.values()], np.log(INT8_MACS), 0.0)
        int8 = np.array([row.int8 for row in self.rows])
        floats = self._pooled(guess, known & ~int8, POOLED_SPREAD)
        eight = self._pooled(floats + fewer, known & int8, POOLED_INT8_SPREAD)
        guesses = guess + np.outer(int8, fewer)
        start = np.where(int8[:, None], eight - guess - fewer, floats - guess)
        parts = self.features * np.exp(guesses + start)
        total = parts.sum(1)
        share = parts / total[:, None]
        left = self.log_time - np.log(total) + (share * start).sum(1)
        kernel = self._between + (share @ share.T) * self._of_costs
        inverse = np.linalg.inv(kernel[np.ix_(known, known)])
        weight = inverse @ left[known]
        spread = sum(s**2 for s in COST_SPREAD.values())
        fitted = {}
        for unit in np.unique(self.unit):
            deviation = (self._of_costs[unit, known] * weight) @ share[known]
            pace = self._paces[unit, known] @ weight
            cross = self._of_costs[unit, known][:, None] * share[known]
            variance = spread - np.einsum("ik,ij,jk->k", cross, inverse, cross, optimize=True)
            fitted[unit] = Fitted(guesses[unit] + deviation + pace, np.sqrt(variance))
        return fitted

    def _pooled(self, guess: Floats, rows: NDArray[np.bool_], spread: float) -> Floats:
        """Return one set of log costs for all cores, robust, near the guess: where to be linear."""
        rows = rows & np.array([not row.server for row in self.rows])
        core = self.unit[rows] == np.unique(self.unit[rows])[:, None]
        work, seen, log_cost = self.features[rows], self.log_time[rows], guess
        for _ in range(POOLED_ROUNDS):
            parts = work * np.exp(log_cost)
            share = parts / parts.sum(1)[:, None]
            left = seen - np.log(parts.sum(1))
            left = left - core.T @ np.array([np.median(left[mine]) for mine in core])
            slope = share - core.T @ (core @ share / core.sum(1)[:, None])
            weight = POOLED_WEIGHT / len(core) / np.maximum(1.0, np.abs(left) / 0.25)
            step = np.linalg.solve(
                (slope.T * weight) @ slope + np.eye(len(guess)) / spread**2,
                (slope.T * weight) @ left + (guess - log_cost) / spread**2,
            )
            log_cost = log_cost + np.clip(step, -0.7, 0.7)
        return log_cost

    def predicted(self, fitted: dict[int, Fitted]) -> tuple[Floats, Floats]:
        """Return each row's log time by its unit's costs, and the sd that the costs leave."""
        costs = np.stack([np.exp(fitted[unit].log_cost) for unit in self.unit])
        parts = self.features * costs
        total = parts.sum(1)
        sd = np.stack([fitted[unit].sd for unit in self.unit])
        return np.log(total), np.sqrt(((parts / total[:, None] * sd) ** 2).sum(1))


def _alike(keys: NDArray[np.generic]) -> Floats:
    return (keys[:, None] == keys).astype(np.float64)
