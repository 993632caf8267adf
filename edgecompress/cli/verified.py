"""Show what a verification found: a table for people, one document for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgecompress.cli.show import table
from edgecompress.cli.verifying import Row, Scores, spread_of
from edgecompress.report.words import NOTHING
from edgecompress.verifying.verify import OutputDifference


def verification_table(rows: Sequence[Row]) -> str:
    """Return one line an answer, and below them the reasons of what failed or did not run."""
    scored = any(row.scores for row in rows)
    head = ("model", "isa", "processor", "answer", "samples", "rel. error", "steps", "same class")
    lines = [head + (("accuracy here", "there") if scored else ())]
    lines += [_line(row) + (_accuracies(row.scores) if scored else ()) for row in rows]
    notes = [*(_note(row) for row in rows), *map(_spread_note, _by_model(rows))]
    told = filter(None, dict.fromkeys(notes))
    return "\n".join([table(lines, right=range(4, len(lines[0]))), *told])


def verification_json(rows: Sequence[Row]) -> dict[str, object]:
    """Return one document: every model with its answers, and the worst of them as the verdict."""
    statuses = {row.verification.status for row in rows}
    undecided = "inconclusive" if not rows or statuses & {"skipped", "error"} else "pass"
    return {
        "schema_version": 1,
        "verdict": "fail" if "fail" in statuses else undecided,
        "models": [_model(found) for found in _by_model(rows)],
    }


def _by_model(rows: Sequence[Row]) -> list[list[Row]]:
    labels = dict.fromkeys(row.model.label for row in rows)
    return [[row for row in rows if row.model.label == label] for label in labels]


def _model(rows: Sequence[Row]) -> dict[str, object]:
    model, spread = rows[0].model.facts.model, spread_of(rows)
    return {
        "model": rows[0].model.label,
        "path": str(model.path),
        "sha256": model.sha256,
        "inputs": rows[0].inputs,
        "results": [
            {
                "isa": row.verification.isa,
                "processor": row.verification.processor,
                "status": row.verification.status,
                "reason": row.verification.reason,
                "outputs": [_output(found) for found in row.verification.outputs],
                "accuracy": _accuracy(row.scores),
            }
            for row in rows
        ],
        "spread": asdict(spread) if spread else None,
    }


def _output(found: OutputDifference) -> dict[str, object]:
    return {**asdict(found), "steps": found.steps}


def _accuracy(scores: Scores | None) -> dict[str, object] | None:
    if scores is None:
        return None
    return {
        **{
            where: {"value": metric.value, "low": metric.low, "high": metric.high}
            for where, metric in (("here", scores.here.metric), ("there", scores.there.metric))
        },
        "drop": {"value": scores.drop, "low": scores.low, "high": scores.high},
    }


def _line(row: Row) -> tuple[str, ...]:
    found, worst = row.verification, row.verification.worst
    return (
        row.model.label,
        found.isa,
        found.processor,
        found.status.upper(),
        _cell(worst and worst.samples, "d"),
        _cell(worst and worst.max_rel_error, ".1e"),
        _cell(worst and worst.steps, ".2f"),
        _cell(worst and worst.agreement, ".2%"),
    )


def _accuracies(scores: Scores | None) -> tuple[str, ...]:
    if scores is None:
        return NOTHING, NOTHING
    return f"{scores.here.metric.value:.2%}", f"{scores.there.metric.value:.2%}"


def _note(row: Row) -> str:
    """Return why an answer is no pass; what is missing on this machine once for all models."""
    found = row.verification
    match found.status:
        case "pass" | "reported":
            return ""
        case "skipped":
            return f"{found.isa}: {found.reason}"
        case "error":  # which names the model itself
            return found.reason
    return f"{row.model.label} on {found.processor}: {found.reason}"


def _spread_note(rows: Sequence[Row]) -> str:
    """Return how far a model's scores lie apart, where labels scored it."""
    spread = spread_of(rows)
    if spread is None:
        return ""
    if spread.value == 0:
        return (
            f"{rows[0].model.label}: accuracies are the same everywhere (95 % bound on how far "
            f"apart they lie {spread.high:.2%}, paired on {spread.samples} samples)"
        )
    return (
        f"{rows[0].model.label}: accuracies lie {spread.value:.2%} apart at most, {spread.highest} "
        f"above {spread.lowest} (95 % bounds {spread.low:.2%} to {spread.high:.2%}, paired on "
        f"{spread.samples} samples)"
    )


def _cell(value: Any, form: str) -> str:
    return NOTHING if value is None else format(value, form)
