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
from edgecompress.quantizing.static import StaticForm
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import Candidate, Controlled, Evaluation, OnnxModel
from edgecompress.runtime import run as run_model
from edgecompress.store import StageCode
from edgecompress.tasks.metrics import evaluate
from edgecompress.verdict import score_drop

CONTROL = StageCode(
    "control",
    ("quantizing", "measuring", "tasks", "graphs.py", "runtime.py"),
    ("onnx", "onnxruntime", "numpy"),
)
SCHEME = "int8-controlled"
_PLAIN = ("int8-static", "int8-dynamic")


def controlled(
    run: Run, profile: Profile, candidates: Sequence[Candidate]
) -> tuple[Candidate, ...]:
    """Return the scored candidates, and a controlled one for each network whose int8 all lose.

    They lose when each is out, or more than `quantize.max_drop` worse on validation than the float
    model that it was made from, on the same samples.
    """
    if run.recipe.quantize is None:
        return tuple(candidates)
    settings = for_device(run.recipe.quantize, profile)
    floats = [c for c in candidates if c.scheme == "fp32" and c.dropped is None]
    made = [
        _controlled(run, profile, settings, one)
        for one in floats
        if _all_lose(one, candidates, settings.max_drop)
    ]
    return (*candidates, *(one for one in made if one is not None))


def control_notes(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Say what was repaired, what stays float, and how many evaluations that took."""
    return tuple(
        f"{c.label}: {told(c.control)}" for c in candidates if c.control and c.dropped is None
    )


def told(found: Controlled) -> str:
    """Return in words how accuracy control went."""
    count = len(found.keep_float)
    floats = f"{count} nodes stay float ({', '.join(found.keep_float)})" if count else ""
    parts = (
        f"plain static int8 loses {found.plain_loss:.3g} on validation, this {found.loss:.3g}",
        f"repaired by {', '.join(found.repairs)}" if found.repairs else "no repair helped",
        floats or "no layer went back to float",
        f"{found.evaluations} full evaluations",
    )
    return "; ".join(parts)


def _all_lose(whole: Candidate, candidates: Sequence[Candidate], allowed: float) -> bool:
    """Return whether a network has static int8, and none that keeps what is allowed."""
    network = whole.label.removesuffix("-fp32")
    own = [c for c in candidates if c.label == f"{network}-{c.scheme}"]
    plain = [c for c in own if c.scheme.startswith(_PLAIN)]
    static = any(c.scheme.startswith(_PLAIN[0]) for c in plain)
    return static and all(c.dropped is not None or _loss(whole, c) > allowed for c in plain)


def _loss(whole: Candidate, candidate: Candidate) -> float:
    exact, rounded = (one.evaluation("validation") for one in (whole, candidate))
    assert exact is not None and rounded is not None  # scored before
    return score_drop(exact, rounded)[0]


def _controlled(
    run: Run, profile: Profile, settings: QuantizeSettings, whole: Candidate
) -> Candidate | None:
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
    form = StaticForm(
        per_channel=settings.per_channel,
        reduce_range=settings.reduce_range is True,
        calibration=settings.calibration,
    )

    def make(folder: Path) -> Controlled:
        return control(whole.model, run.task.train.take(rows).inputs, folder, form, terms)

    network = whole.label.removesuffix("-fp32")
    found = run.store.once(CONTROL, Controlled, key, make, title=f"control {network}'s int8")
    if found.model is None:
        run.store.say(f"quantize: {network}-{SCHEME} left out: {found.reason}")
        return None
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
