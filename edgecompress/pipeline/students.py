"""Students from the budget: which fit is found out before any is trained; the best goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn

from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.tuning import EPOCHS_RATIO
from edgecompress.errors import RecipeError, TaskError
from edgecompress.exporting.onnx import export
from edgecompress.measuring.features import read_features
from edgecompress.measuring.host import describe_host
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.pipeline.arms import Course
from edgecompress.pipeline.candidates import for_device
from edgecompress.pipeline.networks import TeacherInHand
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import DistillSettings, MeasureSettings, Recipe
from edgecompress.records import (
    Family,
    Measurement,
    OnnxModel,
    StudentChoice,
    StudentOffer,
    StudentSpec,
    StudentTrial,
    Verdict,
)
from edgecompress.runtime import Arrays
from edgecompress.search.students import Design, Services, finalists, judge_students, nearest
from edgecompress.store import StageCode, digest_of
from edgecompress.students.ladder import (
    Problem,
    build,
    families_for,
    ladder,
    parameter_count,
    problem_of,
)
from edgecompress.tasks.targets import output_shape_of
from edgecompress.tasks.task import Task
from edgecompress.verdict import Evidence, decided, judge

STUDENTS = StageCode(
    "students",
    ("search", "students", "exporting", "quantizing", "measuring", "bounds.py", "verdict.py"),
    ("torch", "onnx", "onnxscript", "onnxruntime", "numpy"),
)
FINALISTS = 3  # that fit and are distilled for a while
CALIBRATION = 16  # samples: an untrained network's ranges mean nothing, nor do they cost anything
SHORT_S = 0.1
"""Seconds that each process measures in the first turn."""

Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Found:
    """Hold the student that goes on, how it begins, and how it was found."""

    start: Callable[[], nn.Module]
    choice: StudentChoice


def find_student(run: Run, profile: Profile | None, teacher: TeacherInHand) -> Found | None:
    """Return the student that the recipe names or leaves to the budget; None for other students.

    The largest that fit are distilled for a fifth of the epochs, and the best on validation goes
    on; where none fits, the one that comes nearest. Raises RecipeError where a budget is needed
    and no profile given.
    """
    settings = run.recipe.distill
    if settings is None or settings.student in ("task", "teacher"):
        return None
    problem = problem_of_task(run.task)
    if (named := StudentSpec.named(settings.student)) is not None:
        _check_family(named.family, problem, run.task)
        choice = StudentChoice(named, (), (), f"{named.label}: the student that the recipe names")
        return Found(partial(build, named, problem), choice)
    if profile is None:
        raise RecipeError(
            f'recipe: distill.student = "{settings.student}" is found for the budgets of a device, '
            "which this command does not know; use `edgecompress run --profile NAME`, or give the "
            "label of a student that `edgecompress students` lists"
        )
    offers = _offers(run, profile, problem, settings.student)
    choice = _chosen(run, teacher, problem, offers, settings)
    run.store.say(f"students: {choice.reason}")
    return Found(partial(build, choice.spec, problem), choice)


def problem_of_task(task: Task) -> Problem:
    """Return what a student has to answer; raise TaskError where no family can."""
    if task.kind == "tokens":
        raise TaskError(
            f"task {task.name!r}: no student family answers for each token; return a student of "
            'your own from the task and leave distill.student at "task"'
        )
    inputs, vocabularies = task.train.inputs, tuple[int, ...]()
    codes = [a for a in inputs.values() if a.dtype.kind == "i" and a.ndim == 2]
    if codes and len(inputs) == 2:  # a table: a code that training never saw counts as 0
        vocabularies = tuple(int(most) + 1 for most in codes[0].max(axis=0))
    return problem_of(inputs, output_shape_of(task, 1)[1], vocabularies)


def _check_family(family: Family, problem: Problem, task: Task) -> None:
    if family not in (suiting := families_for(problem)):
        raise RecipeError(
            f"recipe: distill.student: given family {family}, but task {task.name!r} has "
            f"{problem.modality} inputs; expected one of {', '.join(suiting)}"
        )


def _offers(run: Run, profile: Profile, problem: Problem, asked: str) -> tuple[StudentOffer, ...]:
    """Return what the students cost, found out once for this machine, profile and settings."""
    families = tuple(family for family in get_args(Family) if family == asked)
    for family in families:
        _check_family(family, problem, run.task)
    specs = ladder(problem, families)
    recipe = run.recipe
    key = {
        "specs": [spec.label for spec in specs],
        "problem": asdict(problem),
        "profile": digest_of(profile.model_dump(mode="json")),
        "host": describe_host().fingerprint,
        "export": recipe.export.model_dump(),
        "quantize": recipe.quantize and recipe.quantize.model_dump(),
        "measure": recipe.measure and recipe.measure.model_dump(),
    }
    return run.store.once(
        STUDENTS,
        tuple[StudentOffer, ...],
        key,
        lambda folder: student_offers(specs, problem, profile, recipe, run.tick),
        title=f"judge {len(specs)} untrained students",
    )


def _chosen(
    run: Run,
    teacher: TeacherInHand,
    problem: Problem,
    offers: Sequence[StudentOffer],
    settings: DistillSettings,
) -> StudentChoice:
    """Return the best of the largest that fit, each distilled for a while."""
    fitting = sum(offer.fits for offer in offers)
    tried = finalists(offers, FINALISTS)
    if not tried:
        near = nearest(offers)
        reason = f"none of {len(offers)} students is sure to fit; {near.spec.label} comes nearest"
        return StudentChoice(near.spec, tuple(offers), (), reason)
    short = settings.model_copy(
        update={
            "epochs": max(1, round(settings.epochs * EPOCHS_RATIO)),
            **{"tune": 0, "seeds": (), "peers": False},
        }
    )
    trials = []
    for offer in tried if len(tried) > 1 else ():
        start = partial(build, offer.spec, problem)
        course = Course(run, f"trial-{offer.spec.label}", start, teacher.calibrated(short))
        arm = course.arm(DISTILLED, short, run.recipe.seed)
        trials.append(StudentTrial(offer.spec, arm.evaluation.metric))
    best = max(trials, key=_quality).spec if trials else tried[0].spec
    reason = f"{best.label}: {fitting} of {len(offers)} students fit"
    if trials:
        scores = ", ".join(f"{t.spec.label} {t.metric.value:.4f}" for t in trials)
        name, epochs = trials[0].metric.name, short.epochs
        reason += f"; of the largest, after {epochs} epochs, the best {name} ({scores})"
    return StudentChoice(best, tuple(offers), tuple(trials), reason)


def _quality(trial: StudentTrial) -> float:
    return trial.metric.value if trial.metric.higher_is_better else -trial.metric.value


def student_offers(
    specs: Sequence[StudentSpec], problem: Problem, profile: Profile, recipe: Recipe, tick: Tick
) -> tuple[StudentOffer, ...]:
    """Return what these students would cost on the profile's device, and whether each fits.

    Of the recipe, `[export]`, `[quantize]` and `[measure]` count: the files are those that a run
    would make. Latency is measured on this host, or predicted for a device that is not here.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-students-") as folder:
        designs = []
        for done, spec in enumerate(specs):
            tick(f"exporting {spec.label}", done, len(specs))
            designs.append(design_student(spec, problem, profile, recipe, Path(folder)))
        return judge_students(designs, services(problem, profile, recipe, tick))


def design_student(
    spec: StudentSpec, problem: Problem, profile: Profile, recipe: Recipe, folder: Path
) -> Design:
    """Return an untrained student as ONNX files in `folder`: float, and int8 as the recipe asks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(spec, problem)
    samples = problem.example(CALIBRATION)
    model = export(network, samples, folder / f"{spec.label}.onnx", recipe.export)
    files = {"fp32": model}
    if recipe.quantize is not None:
        asked = for_device(recipe.quantize, profile)
        settings = asked.model_copy(
            update={"calibration": "minmax", "calibration_samples": CALIBRATION}
        )
        made = quantize(model, samples, folder / spec.label, settings)
        files |= {one.scheme: one.model for one in made if one.model is not None}
    return Design(spec, parameter_count(network), files)


def services(problem: Problem, profile: Profile, recipe: Recipe, tick: Tick) -> Services:
    """Return how students are costed and judged on this profile."""
    settings = recipe.measure or MeasureSettings()
    one = problem.example(1)
    inputs = {name: np.repeat(array, settings.batch, axis=0) for name, array in one.items()}
    judged = partial(_judged, profile, settings)
    return Services(
        work=lambda models: read_features(models, dict.fromkeys(models, inputs)),
        measure=partial(_measured, profile, settings, inputs, tick),
        predict=lambda measurement, features: predict(measurement, profile, features),
        judge=lambda model, measured, predicted: judged(Evidence(model, measured, predicted)),
    )


def _judged(profile: Profile, settings: MeasureSettings, evidence: Evidence) -> Verdict:
    return judge(profile, evidence, looks=settings.processes)


def _measured(
    profile: Profile,
    settings: MeasureSettings,
    inputs: Arrays,
    tick: Tick,
    models: Mapping[str, OnnxModel],
    carefully: bool,
) -> Mapping[str, Measurement]:
    """Measure with the recipe's looks until it is decided, or else in one short process each."""
    settled = decided(profile, settings.processes)
    short = settings.model_copy(update={"seconds_per_process": SHORT_S})
    return measure(
        models,
        dict.fromkeys(models, inputs),
        settings if carefully else short,
        profile.runtime.threads,
        None if carefully else 1,
        (lambda label, found: settled(label, found[label])) if carefully else None,
        lambda text: tick(text, 0, 0),
    )
