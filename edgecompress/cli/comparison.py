"""Set two or more finished runs side by side; scores are paired sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgecompress.cli.show import table
from edgecompress.records import Evaluation, Report
from edgecompress.report import words
from edgecompress.report.record import RECORD_FILE, load_record
from edgecompress.statistics import paired_drop

HEAD = ("run", "verdict", "profile", "chosen", "size", "p50 here", "score", "against the first")


@dataclass(frozen=True)
class Difference:
    """Hold a score less the first run's, with its 95 % interval over the same samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Hold one run of the comparison; `difference` is None where nothing can be paired."""

    folder: Path
    report: Report
    evaluation: Evaluation | None
    difference: Difference | None

    def cells(self) -> tuple[str, ...]:
        """Return the row for people."""
        best, score, gap = self.report.best, self.evaluation, self.difference
        latency = best.measurement.latency_ms if best and best.measurement else None
        return (
            str(self.folder),
            self.report.verdict.status.upper(),
            self.report.profile,
            self.report.chosen or words.NOTHING,
            words.size(best.model.size_bytes) if best else words.NOTHING,
            words.quantity(latency.p50, "ms") if latency else words.NOTHING,
            f"{words.score(score.metric)} ({score.metric.split})" if score else words.NOTHING,
            f"{gap.value:+.3g} ({gap.low:+.3g} to {gap.high:+.3g})" if gap else words.NOTHING,
        )

    def document(self) -> dict[str, object]:
        """Return the row for machines."""
        best = self.report.best
        measured = best.measurement if best else None
        return {
            "folder": str(self.folder),
            "verdict": self.report.verdict.status,
            "profile": self.report.profile,
            "task": self.report.task,
            "chosen": self.report.chosen,
            "size_bytes": best.model.size_bytes if best else None,
            "latency_ms": asdict(measured.latency_ms) if measured else None,
            "machine": measured.host if measured else None,
            "metric": asdict(self.evaluation.metric) if self.evaluation else None,
            "difference": asdict(self.difference) if self.difference else None,
        }


def compare_runs(folders: Sequence[Path]) -> list[Row]:
    """Read each run's record and pair its scores with the first run's."""
    reports = [load_record(folder / RECORD_FILE) for folder in folders]
    scores = [_final(report) for report in reports]
    return [
        Row(folder, report, score, _pair(reports[0], scores[0], report, score) if i else None)
        for i, (folder, report, score) in enumerate(zip(folders, reports, scores, strict=True))
    ]


def comparison_table(rows: Sequence[Row]) -> str:
    """Return the comparison for people."""
    return table([HEAD, *(row.cells() for row in rows)], right=(4, 5))


def caveats(rows: Sequence[Row]) -> list[str]:
    """Say what must not be compared."""
    found = []
    best = [row.report.best for row in rows]
    hosts = {b.measurement.host for b in best if b and b.measurement}
    if len(hosts) > 1:
        found.append("the runs were measured on different machines; do not compare their times")
    if len({row.report.profile for row in rows}) > 1:
        found.append("the runs were judged by different profiles; do not compare their verdicts")
    found += [
        f"{row.folder}: its scores cannot be paired with the first run's; they are of another "
        "task, metric, split or number of samples"
        for row in rows[1:]
        if row.difference is None
    ]
    return found


def _final(report: Report) -> Evaluation | None:
    best = report.best
    return (best.evaluation("test") or best.evaluation("validation")) if best else None


def _pair(
    first: Report, before: Evaluation | None, report: Report, after: Evaluation | None
) -> Difference | None:
    if before is None or after is None or first.task != report.task:
        return None
    same = (before.metric.name, before.metric.split) == (after.metric.name, after.metric.split)
    if not same or len(before.scores) != len(after.scores):
        return None
    drop, low, high = paired_drop(before.scores, after.scores, error=0.025)
    return Difference(0.0 - drop, 0.0 - high, 0.0 - low)
