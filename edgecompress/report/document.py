"""Write the report as one JSON document, exactly as the published schema says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from edgecompress.distilling.choice import CODISTILLED, DISTILLED, compared
from edgecompress.records import (
    Arm,
    Artifact,
    BudgetCheck,
    Candidate,
    Controlled,
    Evaluation,
    Measurement,
    Metric,
    Prediction,
    PruningOutcome,
    PruningSearch,
    PruningTrial,
    Quantiles,
    Report,
    Status,
    StudentChoice,
    StudentOffer,
    TeacherScore,
    TrainedNetwork,
)
from edgecompress.report.figures import (
    load_memory_bytes,
    median_pace,
    process_medians,
    removed_ratio,
    samples_per_s,
)
from edgecompress.report.record import relative_to_folder

Json = dict[str, object]


def report_json(report: Report) -> Json:
    """Return the report as JSON-ready data; paths are relative to the run folder."""
    candidates = [_candidate(c, report.folder) for c in report.candidates]
    document: Json = {
        "schema_version": report.schema_version,
        "verdict": report.verdict.status,
        "reason": report.verdict.reason,
        "profile": report.profile,
        "task": report.task,
        "checks": [_check(check) for check in report.verdict.checks],
        "chosen": report.chosen,
        "candidates": candidates,
        "teacher": _candidate(report.teacher, report.folder) if report.teacher else None,
        "control": _candidate(report.control, report.folder) if report.control else None,
        "trainings": [_training(t, report.folder) for t in report.trainings],
        "prunings": [_pruning(p, report.folder) for p in report.prunings],
        "students": _students(report.students) if report.students else None,
        "test_reads": report.test_reads,
        "environment": dict(report.environment),
        "settings": dict(report.settings),
        "notes": list(report.notes),
    }
    return {key: _plain(value) for key, value in document.items()}


def reports_json(reports: Sequence[Report]) -> Json:
    """Return several reports as one document whose verdict is the worst of theirs."""
    order: tuple[Status, ...] = ("fail", "inconclusive", "pass")
    found = {report.verdict.status for report in reports}
    return {
        "schema_version": 1,
        "verdict": next((status for status in order if status in found), "inconclusive"),
        "reports": [report_json(report) for report in reports],
    }


def report_schema() -> Json:
    """Return the published JSON schema (draft 2020-12) of both kinds of document."""
    text = files("edgecompress.report").joinpath("report.schema.json").read_text("utf-8")
    schema: Json = json.loads(text)
    return schema


def offer_json(offer: StudentOffer) -> Json:
    """Return one student that was judged before training as JSON-ready data."""
    document = {
        "label": offer.spec.label,
        **asdict(offer.spec),
        "parameters": offer.parameters,
        "macs_m": offer.macs_m,
        "scheme": offer.scheme,
        "size_bytes": offer.size_bytes,
        "latency_ms": asdict(offer.latency_ms) if offer.latency_ms else None,
        "peak_memory_bytes": offer.peak_memory_bytes,
        "verdict": offer.verdict.status,
        "checks": [_check(check) for check in offer.verdict.checks],
    }
    return {key: _plain(value) for key, value in document.items()}


def _students(choice: StudentChoice) -> Json:
    return {
        "chosen": choice.spec.label,
        "reason": choice.reason,
        "trials": [{"label": t.spec.label, **_metric(t.metric)} for t in choice.trials],
        "offers": [offer_json(offer) for offer in choice.offers],
    }


def candidate_json(candidate: Candidate, folder: Path) -> Json:
    """Return one model as JSON-ready data; a path inside `folder` becomes relative to it."""
    return {key: _plain(value) for key, value in _candidate(candidate, folder).items()}


def _candidate(candidate: Candidate, folder: Path) -> Json:
    measurement = candidate.measurement
    return {
        "label": candidate.label,
        **_artifact(candidate.model, folder),
        "download_bytes": candidate.download_bytes,
        "scheme": candidate.scheme,
        "metrics": _metrics(candidate.evaluations),
        "host": _host(measurement) if measurement else None,
        "device": _device(candidate),
        "parity": asdict(candidate.parity) if candidate.parity else None,
        "dropped": candidate.dropped,
        "control": _control(candidate.control) if candidate.control else None,
    }


def _control(found: Controlled) -> Json:
    return {key: value for key, value in asdict(found).items() if key != "model"}


def _plain(value: object) -> object:
    """Return `value` as JSON has it: no NaN or infinity, no paths, only lists and text keys."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return value.as_posix() if isinstance(value, Path) else str(value)


def _check(check: BudgetCheck) -> Json:
    return asdict(check)


def _artifact(item: Artifact, folder: Path) -> Json:
    return {
        "path": relative_to_folder(item.path, folder),
        "sha256": item.sha256,
        "size_bytes": item.size_bytes,
    }


def _metrics(evaluations: Sequence[Evaluation]) -> Json:
    """Return scores by name: the test score under the metric's own name where it was read."""
    found: Json = {}
    for metric in sorted((e.metric for e in evaluations), key=lambda m: m.split != "test"):
        key = metric.name if metric.name not in found else f"{metric.split}_{metric.name}"
        found[key] = _metric(metric)
    return found


def _metric(metric: Metric) -> Json:
    return {
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "split": metric.split,
        "higher_is_better": metric.higher_is_better,
    }


def _host(measurement: Measurement) -> Json:
    return {
        "latency_ms": _quantiles(measurement.latency_ms),
        "wall_latency_ms": _quantiles(measurement.wall_latency_ms),
        "process_p50_ms": process_medians(measurement),
        "processes": len(measurement.processes),
        "samples_per_s": samples_per_s(measurement.latency_ms.p50, measurement.batch),
        "peak_memory_bytes": measurement.peak_memory_bytes,
        "load_memory_bytes": load_memory_bytes(measurement),
        "cold_start_ms": measurement.cold_start_ms,
        "threads": measurement.threads,
        "batch": measurement.batch,
        "machine": measurement.host,
        "uncontrolled": list(measurement.uncontrolled),
        "pace": median_pace(measurement),
    }


def _device(candidate: Candidate) -> Json | None:
    """Return what the model costs on the device: as measured there, else as predicted."""
    if candidate.device is not None:
        return _measured_there(candidate.device)
    return _predicted_there(candidate.prediction) if candidate.prediction else None


def _measured_there(device: Measurement) -> Json:
    return {
        **{k: v for k, v in _host(device).items() if k not in ("wall_latency_ms", "pace")},
        # What is judged there: a device's interruptions are its own.
        "latency_ms": _quantiles(device.wall_latency_ms),
        "uninterrupted_latency_ms": _quantiles(device.latency_ms),
        "samples_per_s": samples_per_s(device.wall_latency_ms.p50, device.batch),
        "conditions": list(device.conditions),
        "basis": "measured on the device",
    }


def _predicted_there(prediction: Prediction) -> Json:
    return {
        "latency_ms": _quantiles(prediction.latency_ms),
        "low_factor": prediction.low_factor,
        "high_factor": prediction.high_factor,
        "tail_ratio": prediction.tail_ratio,
        "basis": prediction.basis,
        "peak_memory_bytes": None,
        "cold_start_ms": None,
    }


def _quantiles(quantiles: Quantiles) -> Json:
    return asdict(quantiles)


def _training(training: TrainedNetwork, folder: Path) -> Json:
    return {
        "stage": training.stage,
        "shipped": training.shipped,
        "reason": training.reason,
        "parameters": training.parameters,
        "seed": training.seed,
        "distilled_minus_control": _comparison(training, DISTILLED),
        "codistilled_minus_control": _comparison(training, CODISTILLED),
        "teacher": _teacher(training.teacher) if training.teacher else None,
        "arms": [_arm(arm, folder) for arm in training.arms],
    }


def _comparison(training: TrainedNetwork, name: str) -> Json | None:
    found = compared(training.arms, name)
    return {**asdict(found), "words": found.words} if found else None


def _teacher(teacher: TeacherScore) -> Json:
    return {
        "metrics": _metrics([teacher.evaluation]),
        "figures": asdict(teacher.figures),
        "trained_here": teacher.trained_here,
    }


def _arm(arm: Arm, folder: Path) -> Json:
    return {
        "name": arm.name,
        "seed": arm.seed,
        "weights": _artifact(arm.weights, folder),
        "metrics": _metrics([arm.evaluation]),
        "figures": asdict(arm.figures) if arm.figures else None,
        "curve": [asdict(point) for point in arm.curve],
    }


def _pruning(pruning: PruningOutcome, folder: Path) -> Json:
    return {
        "of": pruning.of,
        "requested_ratio": pruning.requested_ratio,
        "achieved_ratio": pruning.achieved_ratio,
        "heads": asdict(pruning.heads),
        "blocks": asdict(pruning.blocks),
        "achieved_macs_ratio": removed_ratio(pruning.macs_before, pruning.macs_after),
        "achieved_parameters_ratio": removed_ratio(
            pruning.parameters_before, pruning.parameters_after
        ),
        "macs_before": pruning.macs_before,
        "macs_after": pruning.macs_after,
        "parameters_before": pruning.parameters_before,
        "parameters_after": pruning.parameters_after,
        "plan": _artifact(pruning.plan, folder),
        "weights": _artifact(pruning.weights, folder),
        "search": _search(pruning.search) if pruning.search else None,
    }


def _search(search: PruningSearch) -> Json:
    def scored(of: PruningSearch | PruningTrial) -> Json:
        return {**asdict(of), "score": _metric(of.score) if of.score else None}

    return {**scored(search), "trials": [scored(trial) for trial in search.trials]}
