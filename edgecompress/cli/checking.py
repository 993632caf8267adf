"""Check ONNX files that came from anywhere: measure, predict, score, judge, report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from edgecompress import __version__
from edgecompress.cli.data import Samples, check_samples, score
from edgecompress.cli.models import OpenModel
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.measuring.targets.machine import machine_of
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.profiles import Profile
from edgecompress.recipe import AcceptSettings, MeasureSettings
from edgecompress.records import Candidate, Measurement, Report
from edgecompress.verdict import Evidence, decided, judge

Say = Callable[[str], None]


def check_models(  # noqa: PLR0913 - what is judged, by what, on what, and where
    models: Sequence[OpenModel],
    profiles: Sequence[Profile],
    settings: MeasureSettings,
    samples: Samples | None,
    accept: AcceptSettings | None,
    say: Say,
    target: Target = HOST,
) -> list[Report]:
    """Return a report for every model on every profile, in that order.

    Each model is measured once for each number of threads, until every profile is decided: here,
    or on `target`, which then is the device of every profile.
    """
    for model in models:
        if samples is not None:
            check_samples(model.facts, samples)
    measured = {
        threads: _measure(
            models, [p for p in profiles if p.runtime.threads == threads], settings, say, target
        )
        for threads in sorted({profile.runtime.threads for profile in profiles})
    }
    # After measuring: a model that never returns has ended its measuring child by now, not us.
    evaluations = {m.label: score(m.facts, samples) if samples else None for m in models}
    teacher = samples.teacher if samples else None
    return [
        _report(
            model,
            profile,
            replace(
                _known(model, measured[profile.runtime.threads][model.label], profile, target),
                teacher=teacher,
                candidate=evaluations[model.label],
            ),
            accept,
            settings,
        )
        for model in models
        for profile in profiles
    ]


def _known(model: OpenModel, found: Measurement, profile: Profile, target: Target) -> Evidence:
    """Return the evidence that a measurement on `target` makes."""
    if target != HOST:
        return Evidence(model.facts.model, device=found)
    return Evidence(model.facts.model, found, predict(found, profile))


def _measure(
    models: Sequence[OpenModel],
    profiles: Sequence[Profile],
    settings: MeasureSettings,
    say: Say,
    target: Target,
) -> dict[str, Measurement]:
    answers = [decided(profile, settings.processes, target != HOST) for profile in profiles]
    return measure(
        {m.label: m.facts.model for m in models},
        {m.label: m.inputs for m in models},
        settings,
        threads=profiles[0].runtime.threads,
        decided=lambda label, found: all(answer(label, found[label]) for answer in answers),
        progress=say,
        machine=machine_of(target, profiles[0].device.core),
    )


def _report(
    model: OpenModel,
    profile: Profile,
    evidence: Evidence,
    accept: AcceptSettings | None,
    settings: MeasureSettings,
) -> Report:
    own = evidence.candidate
    return Report(
        verdict=judge(profile, evidence, accept, settings.processes),
        profile=profile.name,
        task="check",
        chosen=model.label,
        candidates=(
            Candidate(
                label=model.label,
                model=model.facts.model,
                scheme="given",
                parity=None,
                evaluations=(own,) if own else (),
                measurement=evidence.measurement,
                prediction=evidence.prediction,
                device=evidence.device,
            ),
        ),
        teacher=None,
        control=None,
        trainings=(),
        prunings=(),
        test_reads=1 if own else 0,
        environment=_environment(evidence.device or evidence.measurement),
        settings={"measure": settings.model_dump(mode="json")},
        notes=(),
        folder=Path.cwd(),
    )


def _environment(measurement: Measurement | None) -> dict[str, str]:
    return {
        "edgecompress": __version__,
        "onnxruntime": version("onnxruntime"),
        "python": platform.python_version(),
        **({"machine": measurement.host} if measurement else {}),
    }
