"""Accuracy control in a run: one more int8 candidate where all the plain ones lose too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgecompress.measuring.host import describe_host
from edgecompress.measuring.node_costs import added_ms
from edgecompress.pipeline.candidates import candidate_of, measuring_inputs, scored
from edgecompress.pipeline.quantized import calibration_rows, for_device, int8_parity
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.quantizing.control import Terms, control
from edgecompress.quantizing.prepared import NothingToDoError
from edgecompress.quantizing.schemes import form_of
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import Candidate, Controlled, Evaluation, OnnxModel
from edgecompress.runtime import run as run_model
from edgecompress.store import StageCode
from edgecompress.tasks.metrics import evaluate
from edgecompress.verdict import all_int8_loses, score_drop

CONTROL = StageCode(
    "control",
    ("quantizing", "measuring", "tasks", "graphs.py", "runtime.py"),
    ("onnx", "onnxruntime", "numpy"),
)
SCHEME = "int8-controlled"


def controlled(
    run: Run, profile: Profile, candidates: Sequence[Candidate]
) -> tuple[Candidate, ...]:
    """Return the scored candidates, and a controlled one for each network whose int8 all lose.

    They lose when each is out, or more than `quantize.max_drop` worse on validation than the float
    model that it was made from, on the same samples. Where control finds none, the float candidate
    holds what it found instead.
    """
    if run.recipe.quantize is None:
        return tuple(candidates)
    settings = for_device(run.recipe.quantize, profile)
    floats = [c for c in candidates if c.scheme == "fp32" and c.dropped is None]
    tried = [
        _controlled(run, profile, settings, one)
        for one in floats
        if all_int8_loses(one, _made_from(one, candidates), settings.max_drop)
    ]
    found = {one.label: one for one in tried}
    known = [found.pop(c.label, c) for c in candidates]
    return (*known, *found.values())


def control_notes(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Say what was repaired and what stays float, or why control found nothing."""
    return tuple(
        f"{c.label}: {c.control.told}" if c.control.model else _left_out(c, c.control.reason)
        for c in candidates
        if c.control and c.dropped is None
    )


def _left_out(whole: Candidate, reason: str) -> str:
    return f"{whole.label.removesuffix('-fp32')}-{SCHEME} left out: {reason}"


def _made_from(whole: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates of the same network in other numbers."""
    network = whole.label.removesuffix("-fp32")
    return [c for c in candidates if c is not whole and c.label == f"{network}-{c.scheme}"]


def _controlled(
    run: Run, profile: Profile, settings: QuantizeSettings, whole: Candidate
) -> Candidate:
    """Return the controlled candidate, or the float one with the reason why there is none."""
    exact = whole.evaluation("validation")
    assert exact is not None
    rows = calibration_rows(run, settings.calibration_samples)
    key = {
        "model": whole.model.sha256,
        "settings": settings.model_dump(),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
        "host": describe_host().fingerprint,  # whose times decide what goes back to float
        "threads": profile.runtime.threads,
        "batch": run.recipe.measure.batch if run.recipe.measure else 1,
    }
    terms = Terms(
        settings.max_drop,
        partial(_lost, run, exact),
        lambda source, int8: added_ms(
            source,
            int8,
            measuring_inputs(run),
            profile.runtime.threads,
            lambda text: run.tick(text, 0, 0),
        ),
        settings.repairs,
    )
    form = form_of("static", settings)

    def make(folder: Path) -> Controlled:
        return control(whole.model, run.task.train.take(rows).inputs, folder, form, terms)

    network = whole.label.removesuffix("-fp32")
    try:
        found = run.store.once(CONTROL, Controlled, key, make, title=f"control {network}'s int8")
    except NothingToDoError as nothing:
        run.store.say(f"quantize: {_left_out(whole, str(nothing))}")
        return whole
    if found.model is None:
        run.store.say(f"quantize: {_left_out(whole, found.reason)}")
        return replace(whole, control=found)
    parity = int8_parity(run, whole, found.model)
    candidate = candidate_of(f"{network}-{SCHEME}", found.model, SCHEME, parity)
    return scored(run, replace(candidate, control=found), "validation")


def _lost(run: Run, exact: Evaluation, int8: OnnxModel) -> float:
    """Return what an int8 model loses against the float one on the validation split."""
    split = run.task.validation
    assert split.labels is not None  # checked when the task was loaded
    run.tick("evaluating int8", 0, 0)
    outputs = run_model(int8, split.inputs)
    return score_drop(exact, evaluate(run.task.metric, outputs, split.labels, "validation"))[0]
