"""What the benchmarks of trained networks share: pruned networks timed beside the whole one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecompress.exporting.onnx import export
from edgecompress.measuring.curves import Curve
from edgecompress.measuring.latency import measure
from edgecompress.pruning.prune import Pruned, prune_to
from edgecompress.pruning.widths import Survey, survey
from edgecompress.recipe import MeasureSettings, PruneSettings
from edgecompress.records import OnnxModel
from edgecompress.search.latency_target import Course, Landing, Step, land
from edgecompress.search.layer_costs import grid, time_by

MEASURE = MeasureSettings(seconds_per_process=0.2)
CONFIRMING, AT_LAST = 7, 7


@dataclass
class Clock:
    """Prune one network to given widths, export it, and time it beside the whole one.

    `example` is one input of three samples, by its name. A trial is measured by `screening`
    processes; where `careful`, what seems to have arrived is measured again by more.
    """

    network: nn.Module
    example: Mapping[str, NDArray[np.float32]]
    folder: Path
    settings: PruneSettings
    seed: int = 0
    screening: int = 3
    careful: bool = True
    made: list[tuple[Step, Pruned, OnnxModel]] = field(default_factory=list)

    @cached_property
    def whole(self) -> OnnxModel:
        """Return the whole network as a file."""
        return self.exported(self.network, "whole")

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Return two samples as the network takes them."""
        return tuple(torch.from_numpy(array[:2]) for array in self.example.values())

    def exported(self, network: nn.Module, name: str) -> OnnxModel:
        """Return a network as a file."""
        return export(network, self.example, self.folder / f"{name}.onnx")

    def shares(self, models: Mapping[str, OnnxModel], processes: int) -> dict[str, float]:
        """Return the p50 of models that take turns with the whole one, as shares of its p50."""
        turns = {"whole": self.whole, **models}
        one = {name: array[:1] for name, array in self.example.items()}
        found = measure(turns, dict.fromkeys(turns, one), MEASURE, processes=processes)
        whole = found["whole"].latency_ms.p50
        return {name: found[name].latency_ms.p50 / whole for name in models}

    def __call__(self, step: Step) -> float:
        """Return the measured share of the whole network's p50."""
        pruned = prune_to(self.network, self.inputs, step.widths, self.settings, seed=self.seed)
        model = self.exported(pruned.module, f"trial-{len(self.made)}")
        self.made.append((step, pruned, model))
        return self.shares({"trial": model}, self.screening)["trial"]

    def confirm(self, step: Step) -> float:
        """Return the share of a step that was tried, measured with more care."""
        return self.shares({"trial": self.of(step)[1]}, CONFIRMING)["trial"]

    def of(self, step: Step | None) -> tuple[Pruned, OnnxModel]:
        """Return what was made for a step."""
        return next((pruned, model) for tried, pruned, model in self.made if tried is step)

    def survey(self) -> Survey:
        """Return what could go of the network."""
        return survey(self.network, self.inputs, self.settings, seed=self.seed)

    def land(self, course: Course, asked: float) -> Landing:
        """Search a course for a share of the whole network's p50."""
        return land(course, asked, 1.0, self, self.confirm if self.careful else None)


def course_of(found: Survey, curves: tuple[Curve, ...]) -> Course:
    """Return the course that a run takes to a latency."""
    choices = {g.path: grid(curves, g.width, g.unit) for g in found.groups}
    return Course(found, choices, time_by(curves))
