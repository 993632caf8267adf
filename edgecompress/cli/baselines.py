"""Open what --baseline names: a model's file, or the report of an earlier check or run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from edgecompress.baseline import Tolerance
from edgecompress.cli.models import OpenModel, open_models
from edgecompress.errors import UsageError
from edgecompress.records import Metric, SplitName


class _Score(BaseModel):
    value: float | None
    low: float | None
    high: float | None
    split: SplitName
    higher_is_better: bool


class _Candidate(BaseModel):
    label: str
    size_bytes: int = Field(ge=0)
    metrics: dict[str, _Score]


class _Report(BaseModel):
    chosen: str | None
    candidates: tuple[_Candidate, ...]

    @property
    def best(self) -> _Candidate | None:
        return next((c for c in self.candidates if c.label == self.chosen), None)


class _Reports(BaseModel):
    reports: tuple[_Report, ...]


@dataclass(frozen=True)
class Known:
    """Hold what a report says of one model."""

    size_bytes: int
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Baseline:
    """Hold what models are compared with: the model's file, or what a report says of each."""

    path: Path
    tolerance: Tolerance
    model: OpenModel | None = None
    known: dict[str, Known] = field(default_factory=dict)

    def known_of(self, label: str) -> Known:
        """Return what the report says of the model that `label` is to replace.

        The only model of a report stands for any; of several the one of the same name.
        """
        if len(self.known) == 1:
            return next(iter(self.known.values()))
        if label not in self.known:
            raise UsageError(
                f"--baseline {self.path}: holds no check of {label!r}, only of "
                f"{', '.join(sorted(self.known))}; give the report or the file of one model"
            )
        return self.known[label]


def is_report(path: Path) -> bool:
    """Return whether a baseline is a report and no model's file."""
    return path.suffix == ".json"


def open_baseline(
    path: Path,
    tolerance: Tolerance,
    shapes: Sequence[str],
    inputs: Path | None,
    others: Collection[str] | None = (),
) -> Baseline:
    """Return the baseline; its model gets the inputs that the others get.

    `others` are the names of inputs that the checked models take (None: whatever the name).
    """
    if not is_report(path):
        model = open_models([path], shapes, inputs, others=others)[0]
        return Baseline(path, tolerance, replace(model, label=f"baseline {path}"))
    return Baseline(path, tolerance, known=_read(path))


def _read(path: Path) -> dict[str, Known]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--baseline {path}: cannot be read ({error.strerror})") from error
    kind = _Reports if b'"reports"' in text else _Report
    try:
        found = kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"--baseline {path}: {where}: {first['msg']}; expected a model's ONNX file, or what "
            "'edgecompress check --json' or a run wrote (report.json)"
        ) from error
    reports = found.reports if isinstance(found, _Reports) else (found,)
    models = {report.best.label: _known(report.best) for report in reports if report.best}
    if not models:
        raise UsageError(f"--baseline {path}: names no model; give the report of one, or its file")
    return models


def _known(candidate: _Candidate) -> Known:
    metrics = (
        Metric(name, s.value, s.low, s.high, s.split, s.higher_is_better)
        for name, s in candidate.metrics.items()
        if s.value is not None and s.low is not None and s.high is not None
    )
    return Known(candidate.size_bytes, tuple(metrics))
