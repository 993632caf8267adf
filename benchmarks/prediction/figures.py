"""Say how well held-out families of models, and held-out devices, are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
from mixed import SPREAD, Mixed
from numpy.typing import NDArray
from table import SERVERS, Floats, Row, numbered

NOMINAL = 0.90
LEVEL = 0.91  # fitted on the families seen; the next family's errors scatter a little more
DRAWN_ROWS = 10  # a device's own quantile weighs as much as all others' with so many rows
LIMITS_MS = (20.0, 50.0, 100.0)
PRIOR_ROWS = 3  # a device's own scatter weighs as much as that of all with so many rows
# What a model shows beyond its features, and which part of it the host cannot show.
ALONE = hypot(*(SPREAD[k] for k in ("model", "twin", "model in class", "model on core", "noise")))
BESIDE_HOST = hypot(*(SPREAD[k] for k in ("twin", "model in class", "model on core", "noise")), 0.1)


@dataclass(frozen=True)
class HeldOut:
    """Hold log errors (truth less prediction) of rows whose family was held out, and their sd."""

    rows: Sequence[Row]
    error: Floats
    sd: Floats

    def only(self, kept: NDArray[np.bool_]) -> HeldOut:
        """Return the rows that are kept."""
        rows = [row for row, k in zip(self.rows, kept, strict=True) if k]
        return HeldOut(rows, self.error[kept], self.sd[kept])


def families(rows: Sequence[Row]) -> NDArray[np.str_]:
    return np.array([row.family for row in rows])


def held_out(mixed: Mixed) -> HeldOut:
    """Predict each family of models by costs that were fitted without it."""
    family = families(mixed.rows)
    error, sd = np.zeros(len(family)), np.zeros(len(family))
    for name in np.unique(family):
        log_time, spread = mixed.predicted(mixed.fit(family != name))
        rows = family == name
        error[rows] = (mixed.log_time - log_time)[rows]
        sd[rows] = spread[rows]
    return HeldOut(mixed.rows, error, sd)


def beside_host(found: HeldOut, servers: Sequence[str] = SERVERS) -> HeldOut:
    """Correct by a share of the host's own error on the same model, fitted on other families.

    A float model's share grows with how badly its costs are known. An int8 model's host error is
    half its float twin's, for x86 pays for 8 bits where Arm does not.
    """
    own = _shown(found, servers, [row.model for row in found.rows])
    twin = _shown(found, servers, [row.net for row in found.rows])
    family, int8 = families(found.rows), np.array([row.int8 for row in found.rows])
    device = np.array([not row.server for row in found.rows])
    error = found.error.copy()
    for kind in (False, True):
        shown = np.stack([(own + twin) / 2] if kind else [own, own * found.sd], axis=1)
        for name in np.unique(family):
            others = device & (family != name) & (int8 == kind)
            rows = (family == name) & (int8 == kind)
            error[rows] -= shown[rows] @ shares(shown[others], found.error[others])
    return HeldOut(found.rows, error, found.sd).only(device)


def _shown(found: HeldOut, servers: Sequence[str], names: Sequence[str]) -> Floats:
    """Return the servers' mean error on the model of each row's name; 0 where they never ran it."""
    errors: dict[str, list[float]] = {}
    for row, error in zip(found.rows, found.error, strict=True):
        if row.device in servers:
            errors.setdefault(row.model, []).append(float(error))
    return np.array([np.mean(errors.get(name, [0.0])) for name in names])


def shares(shown: Floats, error: Floats) -> Floats:
    """Return the slopes through zero with the least absolute errors."""
    slopes = np.full(shown.shape[1], 0.3)
    for _ in range(40):
        weight = 1 / np.maximum(0.05, np.abs(error - shown @ slopes))
        slopes = np.linalg.solve(
            (shown.T * weight) @ shown + 1e-3 * np.eye(len(slopes)), (shown.T * weight) @ error
        )
    return slopes


def by_constant(rows: Sequence[Row], reference: Floats) -> Floats:
    """Return log errors of `reference` times a constant for each unit, its family held out."""
    family = families(rows)
    unit = numbered([row.unit for row in rows])
    log_ratio = np.log([row.latency_ms for row in rows]) - np.log(reference)
    error = np.zeros(len(rows))
    for name in np.unique(family):
        for one in np.unique(unit):
            others = (unit == one) & (family != name)
            mine = (unit == one) & (family == name)
            error[mine] = log_ratio[mine] - np.median(log_ratio[others])
    return error


def with_intervals(found: HeldOut, unexplained: float) -> Floats:
    """Return each row's interval half-width (of the log), all of it from the other families."""
    family, device = families(found.rows), devices(found.rows)
    half = np.zeros(len(family))
    for name in np.unique(family):
        known, mine = family != name, family == name
        widths = intervals(found.only(known), unexplained)
        scatter, stretch = np.array([widths[d] for d in device[mine]]).T
        half[mine] = stretch * np.hypot(found.sd[mine], scatter)
    return half


def devices(rows: Sequence[Row]) -> NDArray[np.str_]:
    return np.array([f"{row.device} {row.core}" for row in rows])


def intervals(found: HeldOut, unexplained: float) -> dict[str, tuple[float, float]]:
    """Return each device's own scatter, and how many sds cover LEVEL of its errors.

    The number is the device's own conformal quantile, drawn towards that of all.
    """
    device = devices(found.rows)
    scatter = {d: device_scatter(found, device == d, unexplained) for d in set(device)}
    sds = np.abs(found.error) / np.hypot(found.sd, np.array([scatter[d] for d in device]))
    common = np.log(np.quantile(sds, LEVEL))
    stretch = {}
    for one in scatter:
        mine = sds[device == one]
        own = np.log(np.quantile(mine, LEVEL))
        drawn = (len(mine) * own + DRAWN_ROWS * common) / (len(mine) + DRAWN_ROWS)
        stretch[one] = float(np.exp(drawn))
    again = np.quantile(sds / np.array([stretch[d] for d in device]), LEVEL)
    return {one: (scatter[one], float(again) * stretch[one]) for one in scatter}


def device_scatter(found: HeldOut, rows: NDArray[np.bool_], unexplained: float) -> float:
    """Return a device's own scatter beyond what its costs leave open, shrunk to that of all."""
    beyond = np.maximum(0.0, found.error[rows] ** 2 - found.sd[rows] ** 2)
    beyond = np.minimum(beyond, (3 * unexplained) ** 2)
    return float(np.sqrt((PRIOR_ROWS * unexplained**2 + beyond.sum()) / (PRIOR_ROWS + rows.sum())))


def errors_line(label: str, error: Floats) -> str:
    """Return median and 90 % quantile of the relative errors in words."""
    relative = np.abs(np.expm1(-error)) * 100
    return (
        f"{label:44s} n {len(error):5d}  median {np.median(relative):5.1f} %  "
        f"p90 {np.quantile(relative, 0.9):5.1f} %"
    )


def interval_lines(found: HeldOut, half: Floats) -> list[str]:
    """Return coverage, overall and on the worst device, and the verdicts at LIMITS_MS."""
    inside = np.abs(found.error) <= half
    device = devices(found.rows)
    large = [d for d in np.unique(device) if (device == d).sum() >= 25]
    worst = min(large, key=lambda d: inside[device == d].mean(), default="")
    lines = [
        f"coverage {inside.mean():.1%} (nominal {NOMINAL:.0%}), median half-width "
        f"{np.exp(np.median(half)):.2f}x; worst device of 25 rows or more "
        f"{inside[device == worst].mean():.1%} ({worst}), "
        f"{sum(inside[device == d].mean() < 0.8 for d in large)} of {len(large)} under 80 %"
    ]
    truth = np.log([row.latency_ms for row in found.rows])
    middle = truth - found.error
    for limit in np.log(LIMITS_MS):
        passes, fails = middle + half <= limit, middle - half > limit
        wrong = (passes & (truth > limit)) | (fails & (truth <= limit))
        far = np.abs(truth - limit) >= np.log(2)
        undecided = ~passes & ~fails
        lines.append(
            f"at {np.exp(limit):3.0f} ms: wrong {wrong.mean():.2%}, inconclusive "
            f"{undecided.mean():.1%}, a factor 2 or more away {undecided[far].mean():.1%}"
        )
    return lines
