"""What untrained students cost on a device: exported, quantized, measured or predicted, judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from edgecompress.distilling.beginnings import Student, begun
from edgecompress.exporting.onnx import export
from edgecompress.measuring.features import read_features
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.pipeline.quantized import for_device
from edgecompress.profiles import Profile
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import MeasureSettings, Recipe
from edgecompress.records import Measurement, OnnxModel, StudentOffer, StudentSpec, Verdict
from edgecompress.runtime import Arrays
from edgecompress.search.students import Design, Services, judge_students
from edgecompress.students.ladder import Problem, parameter_count
from edgecompress.verdict import Evidence, decided, judge

CALIBRATION = 16  # samples: an untrained network's ranges mean nothing, nor do they cost anything
SHORT_S = 0.1
"""Seconds that each process measures in the first turn."""

Tick = Callable[[str, int, int], None]


def student_offers(
    students: Mapping[StudentSpec, Student],
    problem: Problem,
    profile: Profile,
    recipe: Recipe,
    tick: Tick,
) -> tuple[StudentOffer, ...]:
    """Return what these students would cost on the profile's device, and whether each fits.

    Of the recipe, `[export]`, `[quantize]` and `[measure]` count: the files are those that a run
    would make. Latency is measured on this host, or predicted for a device that is not here.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-students-") as folder:
        designs = []
        for done, (spec, student) in enumerate(students.items()):
            tick(f"exporting {spec.label}", done, len(students))
            place = Path(folder) / spec.label
            designs.append(design_student(spec, student, problem, profile, recipe, place))
        return judge_students(designs, services(problem, profile, recipe, tick))


def design_student(
    spec: StudentSpec,
    student: Student,
    problem: Problem,
    profile: Profile,
    recipe: Recipe,
    folder: Path,
) -> Design:
    """Return an untrained student as ONNX files in `folder`: float, and int8 as the recipe asks."""
    network = begun(student, seed=0)
    samples = problem.example(CALIBRATION)
    model = export(network, samples, folder / "fp32.onnx", recipe.export.plain)
    files = {"fp32": model}
    if recipe.quantize is not None:
        asked = for_device(recipe.quantize, profile)
        schemes = ("static", "dynamic") if asked.schemes == "auto" else asked.schemes
        cheap = {"calibration": "minmax", "calibration_samples": CALIBRATION, "schemes": schemes}
        settings = asked.model_copy(update=cheap)
        made = quantize(model, samples, folder, settings)
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
