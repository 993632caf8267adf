"""Check ONNX files that came from anywhere: measure, predict, score, judge, report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edgecompress import __version__
from edgecompress.baseline import Version, compare_latency, compare_with_baseline
from edgecompress.bounds import conclude
from edgecompress.cli.baselines import Baseline
from edgecompress.cli.data import Samples, check_samples, score
from edgecompress.cli.models import OpenModel
from edgecompress.cli.spreading import Elsewhere
from edgecompress.errors import EdgecompressError
from edgecompress.measuring.features import Features, read_features
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.measuring.targets.machine import machine_of
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.profiles import Profile
from edgecompress.recipe import AcceptSettings, MeasureSettings
from edgecompress.records import (
    Basis,
    BudgetCheck,
    Candidate,
    Evaluation,
    Measurement,
    Report,
    Verdict,
)
from edgecompress.verdict import Evidence, decided, judge

Say = Callable[[str], None]
NO_SPEED = "only size and accuracy are compared, for a report says nothing of speed here and now"


@dataclass(frozen=True)
class Terms:
    """Say how models are checked: how carefully, on what samples, against what, and where.

    A `target` other than this host is the device of every profile.
    """

    settings: MeasureSettings
    samples: Samples | None = None
    accept: AcceptSettings | None = None
    baseline: Baseline | None = None
    target: Target = HOST

    def opened(self, models: Sequence[OpenModel]) -> list[OpenModel]:
        """Return the models with the baseline's, where its file was given."""
        extra = self.baseline.model if self.baseline else None
        return [*models, *([extra] if extra else [])]

    def place(self, profile: Profile) -> tuple[int, str]:
        """Return what one measurement can serve: so many threads and, on a device, one cluster."""
        return profile.runtime.threads, profile.device.core if self.target != HOST else ""

    def basis(self, profile: Profile) -> Basis:
        """Return what a time that was measured is for this profile."""
        if self.target != HOST:
            return "on-device"
        return "measured" if profile.device.host else "host"


def check_models(
    models: Sequence[OpenModel], profiles: Sequence[Profile], terms: Terms, say: Say
) -> list[Report]:
    """Return a report for every model on every profile, in that order.

    Each model is measured once for each number of threads (and cluster of a device), until every
    profile is decided, the baseline's model taking turns with them.
    """
    if terms.baseline is not None and terms.baseline.model is None:
        for model in models:
            terms.baseline.known_of(model.label)  # refused before anything is measured
    opened, samples = terms.opened(models), terms.samples
    if samples is not None:
        for model in opened:
            check_samples(model.facts, samples)
    measured = {
        place: _measure(models, [p for p in profiles if terms.place(p) == place], terms, say)
        for place in sorted({terms.place(profile) for profile in profiles})
    }
    # After measuring: a model that never returns has ended its measuring child by now, not us.
    scored = {m.label: score(m.facts, samples) if samples else None for m in opened}
    predicts = terms.target == HOST and any(profile.prediction for profile in profiles)
    counted = models if predicts else ()
    work = read_features(
        {m.label: m.facts.model for m in counted}, {m.label: m.inputs for m in counted}
    )
    elsewhere = {m.label: Elsewhere(m.facts, terms.accept, samples, say) for m in models}
    return [
        _report(model, profile, terms, measured[terms.place(profile)], (scored, work, elsewhere))
        for model in models
        for profile in profiles
    ]


def runnable(
    models: Sequence[OpenModel],
    terms: Terms,
    say: Say,
    refuse: Callable[[Path, EdgecompressError], None],
) -> list[OpenModel]:
    """Return the models that can be judged, after trying each alone; tell `refuse` of others."""
    sound = []
    for model in models:
        found, inputs = {model.label: model.facts.model}, {model.label: model.inputs}
        machine = machine_of(terms.target)
        try:
            if terms.samples is not None:
                check_samples(model.facts, terms.samples)
            measure(found, inputs, terms.settings, processes=1, progress=say, machine=machine)
            if terms.samples is not None:
                score(model.facts, terms.samples)
        except EdgecompressError as error:
            refuse(model.facts.model.path, error)
        else:
            sound.append(model)
    return sound


def _measure(
    models: Sequence[OpenModel], profiles: Sequence[Profile], terms: Terms, say: Say
) -> dict[str, Measurement]:
    """Measure until every model is decided on every profile, and against the baseline."""
    settings, opened = terms.settings, terms.opened(models)
    answers = [decided(profile, settings.processes, terms.target != HOST) for profile in profiles]

    def settled(label: str, found: Mapping[str, Measurement]) -> bool:
        if label not in {model.label for model in models}:  # the baseline stays to the end
            return all(settled(model.label, found) for model in models)
        beside = _beside(found[label], found, terms)
        return all(answer(label, found[label]) for answer in answers) and (
            beside is None or beside.status != "inconclusive"
        )

    return measure(
        {m.label: m.facts.model for m in opened},
        {m.label: m.inputs for m in opened},
        settings,
        threads=profiles[0].runtime.threads,
        decided=settled,
        progress=say,
        machine=machine_of(terms.target, profiles[0].device.core),
    )


def _beside(own: Measurement, found: Mapping[str, Measurement], terms: Terms) -> BudgetCheck | None:
    """Return how a model's latency stands beside the baseline's; None without its file."""
    if terms.baseline is None or terms.baseline.model is None:
        return None
    other, ratio = found[terms.baseline.model.label], terms.baseline.tolerance.ratio
    return compare_latency(other, own, ratio, terms.settings.processes)


def _report(
    model: OpenModel,
    profile: Profile,
    terms: Terms,
    measured: Mapping[str, Measurement],
    known: tuple[
        Mapping[str, Evaluation | None], Mapping[str, Features | str], Mapping[str, Elsewhere]
    ],
) -> Report:
    """Judge one model on one profile; `known` by model: scores, work, scores on processors."""
    scored, work, elsewhere = known
    found, own = measured[model.label], scored[model.label]
    evidence = Evidence(
        model=model.facts.model,
        measurement=found if terms.target == HOST else None,
        prediction=predict(found, profile, work[model.label]) if model.label in work else None,
        teacher=terms.samples.teacher if terms.samples else None,
        candidate=own,
        device=found if terms.target != HOST else None,
    )
    verdict = judge(profile, evidence, terms.accept, terms.settings.processes)
    verdict = elsewhere[model.label].with_spread(verdict, profile)
    return Report(
        verdict=_with_baseline(verdict, model, profile, terms, measured, scored),
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
        environment=_environment(found),
        settings={"measure": terms.settings.model_dump(mode="json")},
        notes=(*notes(terms.baseline), *_unpredicted(model.label, profile, work.get(model.label))),
        folder=Path.cwd(),
    )


def _with_baseline(
    verdict: Verdict,
    model: OpenModel,
    profile: Profile,
    terms: Terms,
    measured: Mapping[str, Measurement],
    scored: Mapping[str, Evaluation | None],
) -> Verdict:
    """Return the verdict with a check for each figure that the baseline has too."""
    baseline, own = terms.baseline, scored[model.label]
    if baseline is None:
        return verdict
    candidate = Version(model.facts.model.size_bytes, measured[model.label], own)
    if baseline.model is not None:
        label, file = baseline.model.label, baseline.model.facts.model
        old = Version(file.size_bytes, measured[label], scored[label])
    else:
        known = baseline.known_of(model.label)
        same = (m for m in known.metrics if own and (m.name, m.split) == (own.metric.name, "test"))
        old = Version(known.size_bytes, metric=next(same, None))
    more = compare_with_baseline(
        old, candidate, baseline.tolerance, terms.settings.processes, terms.basis(profile)
    )
    return conclude([*verdict.checks, *more])


def notes(baseline: Baseline | None) -> tuple[str, ...]:
    """Return what the comparison with the baseline leaves out, in one line, if it does."""
    if baseline is None or baseline.model is not None:
        return ()
    return (f"--baseline {baseline.path}: {NO_SPEED}; give the model's file to compare latency",)


def _unpredicted(label: str, profile: Profile, work: Features | str | None) -> tuple[str, ...]:
    """Say why a profile with costs predicted no latency."""
    basis, threads = profile.prediction, profile.runtime.threads
    if work is None or basis is None or basis.host_ratio is not None:
        return ()
    if threads != basis.threads:
        fitted = f"its costs were fitted with {basis.threads}"
        return (f"{profile.name}: no latency is predicted for {threads} threads, {fitted}",)
    return (f"{label}: no latency is predicted: {work}",) if isinstance(work, str) else ()


def _environment(measurement: Measurement) -> dict[str, str]:
    return {
        "edgecompress": __version__,
        "onnxruntime": version("onnxruntime"),
        "python": platform.python_version(),
        "machine": measurement.host,
    }
