"""Hold whole devices out: costs of their core class, then calibrated by three published models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from figures import ALONE, errors_line
from mixed import Fitted, Mixed
from table import Floats

from edgecompress.measuring.calibrating import KINDS, calibrated
from edgecompress.measuring.features import Features
from edgecompress.profiles import Costs, PredictionBasis

# Chosen once, to spread over kinds of work, from what every device has run: the published models
# most like those that `profiles calibration-models` writes.
CALIBRATION = ("mobilenet_v2", "resnet18", "squeezenet_int8")


def newcomers(mixed: Mixed, features: dict[str, Floats]) -> Iterator[str]:
    """Yield what devices that were held out are predicted to, before and after calibration."""
    device = np.array([f"{row.device} {row.core}" for row in mixed.rows])
    int8 = np.array([row.int8 for row in mixed.rows])
    server = np.array([row.server for row in mixed.rows])
    before: list[float] = []
    after: list[float] = []
    kinds: list[bool] = []
    for name in np.unique(device[~server]):
        own = device == name
        fitted = mixed.fit(~own)
        basis = _basis(mixed, fitted, own & ~int8, own & int8)
        rows = {mixed.rows[i].model: mixed.rows[i].latency_ms for i in np.flatnonzero(own)}
        if basis is None or not set(CALIBRATION) <= set(rows):
            continue
        timings = [(_features(features[m], m), rows[m]) for m in CALIBRATION]
        moved = calibrated(basis, timings, "published models")
        for model, time in rows.items():
            if model not in CALIBRATION:
                work, eight = features[model], model.endswith("_int8")
                before.append(float(np.log(time / (work @ _values(basis, eight)))))
                after.append(float(np.log(time / (work @ _values(moved, eight)))))
                kinds.append(eight)
    eight_rows = np.array(kinds)
    yield f"devices held out, {len(after)} rows; calibrated by {', '.join(CALIBRATION)}"
    yield errors_line("before: the class, its pace unknown", np.array(before))
    yield errors_line("after", np.array(after))
    yield errors_line("  floats", np.array(after)[~eight_rows])
    yield errors_line("  int8", np.array(after)[eight_rows])


def _basis(
    mixed: Mixed, fitted: dict[int, Fitted], floats: np.ndarray, int8: np.ndarray
) -> PredictionBasis | None:
    """Return what the other devices say of this one: its class's costs."""
    if not floats.any() or not int8.any():
        return None
    costs = [
        Costs.model_validate(
            {
                kind: {"value": float(np.exp(log_cost)), "within": float(np.exp(sd))}
                for kind, log_cost, sd in zip(KINDS, one.log_cost, one.sd, strict=True)
            }
        )
        for one in (fitted[int(mixed.unit[which][0])] for which in (floats, int8))
    ]
    return PredictionBasis(
        floats=costs[0], int8=costs[1], unexplained=float(np.exp(ALONE)), source="its class"
    )


def _values(basis: PredictionBasis, int8: bool) -> Floats:
    costs = basis.int8 if int8 else basis.floats
    assert costs is not None
    return np.array([getattr(costs, kind).value for kind in KINDS])


def _features(work: Floats, model: str) -> Features:
    return Features(*map(float, work), int8=model.endswith("_int8"))
