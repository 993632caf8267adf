"""The end of the chain: settle on one model, prove it on the test split, say what was found."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from edgecompress import __version__
from edgecompress.distilling.choice import CONTROL
from edgecompress.exporting.download import download_bytes
from edgecompress.measuring.host import describe_host
from edgecompress.measuring.readings import GUARD
from edgecompress.pipeline.aware import aware_notes
from edgecompress.pipeline.candidates import (
    TEST,
    export_network,
    measured,
    measured_on_device,
    scored,
    teacher_score,
)
from edgecompress.pipeline.choice import choose, median_ms, without_slower
from edgecompress.pipeline.controlled import control_notes
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.quantized import int8_notes, left_out_notes
from edgecompress.pipeline.run import Run
from edgecompress.pipeline.spread import with_isa_spread
from edgecompress.pipeline.students import Found
from edgecompress.profiles import Profile
from edgecompress.recipe import MeasureSettings
from edgecompress.records import Candidate, Evaluation, Report, Verdict
from edgecompress.store import library_version
from edgecompress.verdict import Evidence, decided, demand_measured, judge

_LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxscript", "torch-pruning", "accelerate", "numpy")


@dataclass(frozen=True)
class Choice:
    """Hold the candidate that ships, why, and all that it was compared with."""

    label: str | None
    reason: str
    candidates: tuple[Candidate, ...]
    reference: Candidate | None

    @property
    def chosen(self) -> Candidate | None:
        """Return the candidate that ships."""
        return next((c for c in self.candidates if c.label == self.label), None)


def settle(
    run: Run,
    profile: Profile,
    candidates: Sequence[Candidate],
    reference: Candidate | None,
    teacher: TeacherInHand,
) -> Choice:
    """Screen all candidates cheaply, then measure in full whoever would ship, until that stands.

    The choice is made on validation; the teacher is measured beside the candidates. Whoever would
    ship is measured on the run's target too.
    """
    settings = run.recipe.measure or MeasureSettings()
    aside = [reference] if reference is not None else []
    screened = measured(run, profile, [*candidates, *aside], settings.screening_processes)
    known = {c.label: c for c in screened}
    teacher_validation = teacher_score(run, teacher, "validation")
    picked: dict[str, str] = {}  # why each was picked, while all stood on the same footing
    while True:
        competing = [known[c.label] for c in candidates]
        verdicts = {
            c.label: _judged(run, profile, c, teacher_validation, c.evaluation("validation"))
            for c in competing
        }
        competing = without_slower(competing, verdicts, _must_gain(run))
        chosen, reason = choose(competing, verdicts)
        if chosen is None or chosen.label in picked:
            break
        picked[chosen.label] = reason
        finalists = [chosen, *(known[a.label] for a in aside)]
        full = measured(run, profile, finalists, None, decided(profile, settings.processes))
        there = decided(profile, settings.processes, on_device=True)
        full = measured_on_device(run, profile, full, there)
        known.update({c.label: c for c in full})
    return Choice(
        chosen.label if chosen else None,
        picked[chosen.label] if chosen else reason,
        tuple(competing),
        known[reference.label] if reference is not None else None,
    )


def _must_gain(run: Run) -> bool:
    """Return whether the pruned network is to be faster; single weights at 0 make none so."""
    return run.recipe.prune is not None and run.recipe.prune.kind == "structured"


def prove(
    run: Run,
    profile: Profile,
    choice: Choice,
    networks: Sequence[Network],
    teacher: TeacherInHand,
    found: Found | None = None,
) -> Report:
    """Read the test split for the chosen model, its control and the teacher; judge; report."""
    trained = [n for n in (teacher.network, *networks) if n is not None]
    chosen, reference, control = choice.chosen, choice.reference, None
    if chosen is not None:
        teacher_test = teacher_score(run, teacher, "test")
        chosen = scored(run, chosen, "test")
        control = _control(run, networks, chosen)
        verdict = _judged(run, profile, chosen, teacher_test, chosen.evaluation("test"))
        verdict = with_isa_spread(run, profile, chosen, verdict)
        verdict = demand_measured(verdict) if run.options.require_measured else verdict
        if reference is not None:
            validation = teacher_score(run, teacher, "validation")
            reference = replace(reference, evaluations=(validation, teacher_test))
    else:
        verdict = Verdict("inconclusive", (), choice.reason)
    return Report(
        verdict=verdict,
        profile=profile.name,
        task=run.task.name,
        chosen=choice.label,
        candidates=tuple(
            replace(
                chosen if chosen is not None and c.label == chosen.label else c,
                download_bytes=download_bytes(c.model.path),
            )
            for c in choice.candidates
        ),
        teacher=reference,
        control=control,
        trainings=tuple(n.training for n in trained if n.training is not None),
        prunings=tuple(n.pruning for n in trained if n.pruning is not None),
        test_reads=run.store.finished(TEST.name),
        environment=_environment(),
        settings=run.recipe.model_dump(mode="json"),
        notes=(
            choice.reason,
            *((found.choice.reason,) if found else ()),
            *(n.pruning.search.reason for n in networks if n.pruning and n.pruning.search),
            *_slower_than(reference, chosen),
            *_teacher_note(run, teacher),
            *int8_notes(run, profile),
            *left_out_notes(run, profile, choice.candidates),
            *aware_notes(run, profile, choice.candidates),
            *control_notes(choice.candidates),
            *run.notes,
        ),
        folder=run.store.folder.absolute(),
        students=found.choice if found else None,
    )


def _slower_than(reference: Candidate | None, chosen: Candidate | None) -> tuple[str, ...]:
    if reference is None or chosen is None:
        return ()
    before, now = median_ms(reference), median_ms(chosen)
    if not before * (1 + GUARD) < now < inf:
        return ()
    figures = f"{now:.3g} ms against {before:.3g} ms"
    return (f"{chosen.label} is slower here than the teacher: {figures}; try a smaller student",)


def _teacher_note(run: Run, teacher: TeacherInHand) -> tuple[str, ...]:
    settings = run.recipe.distill or run.recipe.redistill
    if settings is None or teacher.certainty is None:
        return ()
    return (teacher.certainty.note(settings.calibrate_teacher),)


def _judged(
    run: Run,
    profile: Profile,
    candidate: Candidate,
    teacher: Evaluation | None,
    score: Evaluation | None,
) -> Verdict:
    settings = run.recipe.measure or MeasureSettings()
    evidence = Evidence(
        candidate.model,
        candidate.measurement,
        candidate.prediction,
        teacher,
        score,
        candidate.device,
    )
    return judge(profile, evidence, run.recipe.accept, settings.processes)


def _control(run: Run, networks: Sequence[Network], chosen: Candidate) -> Candidate | None:
    """Return the hard-label arm beside which the chosen model was trained, with its test score."""
    network = next(n for n in networks if chosen.label.startswith(f"{n.label}-"))
    if network.training is None:
        return None
    arm = export_network(run, network.as_arm(CONTROL), CONTROL)
    return scored(run, scored(run, arm, "validation"), "test")


def _environment() -> Mapping[str, str]:
    host = describe_host()
    return {
        "edgecompress": __version__,
        "python": platform.python_version(),
        **{name: library_version(name) for name in _LIBRARIES},
        "host": host.cpu,
        "cores": str(len(host.cores)),
        "instructions": " ".join(host.isa),
        "system": host.system,
    }
