"""What a run answers: candidates, and the report of them all."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecompress.records.basics import Evaluation, OnnxModel, SplitName
from edgecompress.records.measured import Measurement, Parity, Prediction, Verdict
from edgecompress.records.offers import StudentChoice
from edgecompress.records.quantized import Controlled
from edgecompress.records.trained import PruningOutcome, TrainedNetwork


@dataclass(frozen=True)
class Candidate:
    """Hold one ONNX model that could ship, with everything known of it.

    `measurement` was made on this host, `device` on the profile's own device. `download_bytes` is
    the size of the file as app stores send it, compressed; None where that was not looked at.
    `unfolded` is the file before some of the app's own work was folded in, which takes the task's
    inputs; None where `model` itself takes them.
    `control` says how accuracy control made it, where that did.
    """

    label: str
    model: OnnxModel
    scheme: str
    parity: Parity | None
    evaluations: tuple[Evaluation, ...]
    measurement: Measurement | None
    prediction: Prediction | None
    dropped: str | None = None
    device: Measurement | None = None
    download_bytes: int | None = None
    unfolded: OnnxModel | None = None
    control: Controlled | None = None

    def evaluation(self, split: SplitName) -> Evaluation | None:
        """Return the evaluation on `split`, or None if that split was not read."""
        return next((e for e in self.evaluations if e.metric.split == split), None)


@dataclass(frozen=True)
class Report:
    """Hold the answer of a run: the verdict, the model that ships, and all that was compared."""

    verdict: Verdict
    profile: str
    task: str
    chosen: str | None
    candidates: tuple[Candidate, ...]
    teacher: Candidate | None
    control: Candidate | None
    trainings: tuple[TrainedNetwork, ...]
    prunings: tuple[PruningOutcome, ...]
    test_reads: int
    environment: Mapping[str, str]
    settings: Mapping[str, object]
    notes: tuple[str, ...]
    folder: Path
    schema_version: int = 1
    students: StudentChoice | None = None

    @property
    def best(self) -> Candidate | None:
        """Return the chosen candidate."""
        return next((c for c in self.candidates if c.label == self.chosen), None)

    def _repr_html_(self) -> str:
        """Show the verdict and its checks in a notebook."""
        cells = "".join(
            f"<tr><td>{html.escape(c.budget)}</td><td>{c.limit:g} {html.escape(c.unit)}</td>"
            f"<td>{'-' if c.value is None else format(c.value, '.4g')}</td>"
            f"<td>{c.status.upper()}</td><td>{html.escape(c.reason)}</td></tr>"
            for c in self.verdict.checks
        )
        return (
            f"<h3>{self.verdict.status.upper()}: {html.escape(self.chosen or 'no model')} on "
            f"{html.escape(self.profile)}</h3><table><tr><th>budget</th><th>limit</th>"
            f"<th>value</th><th>status</th><th>reason</th></tr>{cells}</table>"
        )
