"""What accuracy control found for one network."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompress.records.basics import OnnxModel

_NAMED = 8  # of the nodes that stay float; the record has them all


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

    @property
    def told(self) -> str:
        """Return in words what was repaired, what stays float, and how much asking it took."""
        count = len(self.keep_float)
        names = ", ".join(self.keep_float[:_NAMED])
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        parts = (
            f"plain static int8 loses {self.plain_loss:.3g} on validation, this {self.loss:.3g}",
            f"repaired by {', '.join(self.repairs)}" if self.repairs else "no repair helped",
            f"{count} nodes stay float ({names}{more})" if count else "no layer went back to float",
            f"{self.evaluations} full evaluations",
        )
        return "; ".join(parts)
