"""What accuracy control found for one network."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompress.records.basics import OnnxModel


@dataclass(frozen=True)
class Controlled:
    """Hold the int8 model that loses no more than is allowed, or None, and how it came about.

    `plain_loss` and `loss` are what plain int8 and this model (without one: the repaired one) lose
    against the float one on validation. `keep_float` are nodes of the prepared float model, out of
    `nodes` in which 8 bits changed anything (0 where that was not asked); `added_ms` is what they
    cost by measured times of the nodes alone. `evaluations` counts all on validation.
    """

    model: OnnxModel | None
    plain_loss: float
    loss: float
    repairs: tuple[str, ...]
    keep_float: tuple[str, ...]
    nodes: int
    added_ms: float
    evaluations: int
    reason: str
