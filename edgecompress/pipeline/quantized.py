"""The quantized candidates beside a float one, and what is to be said of 8 bits here and there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from edgecompress.exporting.differing import first_value, located
from edgecompress.exporting.parity import INT8, Tolerance, check_parity
from edgecompress.measuring.host import SATURATES, describe_host, fleet_of, saturates_int8
from edgecompress.pipeline.candidates import PARITY_SAMPLES, candidate_of
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.quantization import Scheme
from edgecompress.quantizing.fitting import schemes_for
from edgecompress.quantizing.schemes import QuantizedModel, quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import Candidate, OnnxModel, Parity
from edgecompress.runtime import run as run_model
from edgecompress.store import StageCode

_ONNX = ("onnx", "onnxruntime")
QUANTIZE = StageCode("quantize", ("quantizing", "graphs.py", "runtime.py"), (*_ONNX, "numpy"))
PARITY = StageCode(
    "parity",
    ("exporting/parity.py", "exporting/differing.py", "tasks/inspection.py", "runtime.py"),
    _ONNX,
)


def quantize_candidate(run: Run, profile: Profile, candidate: Candidate) -> tuple[Candidate, ...]:
    """Return the smaller candidates made from a float one; none without a `[quantize]` section."""
    if run.recipe.quantize is None or candidate.dropped is not None:
        return ()
    name = candidate.label.removesuffix("-fp32")
    made = _made(run, profile, candidate, run.recipe.quantize)
    for line in _left_out(name, made):
        run.store.say(f"quantize: {line}")
    return tuple(
        candidate_of(f"{name}-{m.scheme}", m.model, m.scheme, int8_parity(run, candidate, m.model))
        for m in made
        if m.model is not None
    )


def _made(
    run: Run, profile: Profile, candidate: Candidate, settings: QuantizeSettings
) -> tuple[QuantizedModel, ...]:
    """Return what the schemes made of a float candidate, and why some made nothing."""
    settings = for_device(settings, profile)
    if settings.schemes == "auto":
        tried = _worth_a_try(profile, candidate.model)
        settings = settings.model_copy(update={"schemes": tried})
    rows = calibration_rows(run, settings.calibration_samples)
    key = {
        "model": candidate.model.sha256,
        "settings": settings.model_dump(),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
    }
    return run.store.once(
        QUANTIZE,
        tuple[QuantizedModel, ...],
        key,
        lambda folder: quantize(
            candidate.model, run.task.train.take(rows).inputs, folder, settings
        ),
        title=f"quantize {candidate.label}",
    )


def _worth_a_try(profile: Profile, model: OnnxModel) -> tuple[Scheme, ...]:
    """Return the schemes to try on this device.

    Half precision is tried wherever the float file is too large. Else it could win by its speed
    alone, and a machine without its arithmetic measures conversions to and fro.
    """
    formats = set(profile.runtime.fast_formats)
    limit = (profile.budget.model_size_mb or inf) * 1e6
    casts = "fp16" not in describe_host().isa and model.size_bytes <= limit
    return schemes_for(model.path, formats, SATURATES in fleet_of(profile.device), casts)


def _left_out(name: str, made: Sequence[QuantizedModel]) -> list[str]:
    """Say which schemes made nothing of a network, and why."""
    return [f"{name}-{m.scheme} left out: {m.reason}" for m in made if m.model is None]


def left_out_notes(run: Run, profile: Profile, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Say which schemes made nothing of the float candidates, and why."""
    settings = run.recipe.quantize
    if settings is None:
        return ()
    floats = [
        replace(c, model=c.unfolded or c.model)
        for c in candidates
        if c.scheme == "fp32" and c.parity and c.parity.passed
    ]
    return tuple(
        line
        for one in floats
        for line in _left_out(one.label.removesuffix("-fp32"), _made(run, profile, one, settings))
    )


def int8_notes(run: Run, profile: Profile) -> tuple[str, ...]:
    """Say where the 8-bit products of this machine or the device's fleet would saturate."""
    if run.recipe.quantize is None:
        return ()
    asked = run.recipe.quantize.reduce_range
    without = "an x86 without VNNI, where sums of 8-bit products saturate"
    there, here = SATURATES in fleet_of(profile.device), saturates_int8(describe_host().isa)
    if asked == "auto" and there:
        return (f"int8 weights use 7 bits: the fleet of {profile.name} has {without}",)
    if asked is True or not (there or here):
        return ()
    where = f"on part of the fleet of {profile.name}: it has" if there else "here: this machine is"
    remedy = "quantize.reduce_range = true is safe everywhere"
    return (f"int8 models may score lower {where} {without}; {remedy}",)


def for_device(settings: QuantizeSettings, profile: Profile) -> QuantizeSettings:
    """Return the settings with `reduce_range = "auto"` settled by all of the device's fleet."""
    if settings.reduce_range != "auto":
        return settings
    seven = SATURATES in fleet_of(profile.device)
    return settings.model_copy(update={"reduce_range": seven})


def int8_parity(run: Run, candidate: Candidate, model: OnnxModel) -> Parity:
    """Return how far an int8 model lies from the float one that it was made from."""
    probe = run.task.validation.take(slice(0, PARITY_SAMPLES)).inputs
    return _compared(run, candidate, model, probe, INT8)


def _compared(
    run: Run,
    reference: Candidate,
    model: OnnxModel,
    probe: Mapping[str, NDArray[np.generic]],
    tolerance: Tolerance,
) -> Parity:
    key = {"model": model.sha256, "reference": reference.model.sha256, "task": run.fingerprint}
    return run.store.once(
        PARITY,
        Parity,
        key,
        lambda folder: located(
            check_parity(
                run_model(reference.model, probe),
                model,
                probe,
                reference.label,
                tolerance,
                run.task.kind,
            ),
            lambda: first_value(reference.model, model, probe),
        ),
        title=f"parity with {reference.label}",
    )


def calibration_rows(run: Run, wanted: int) -> NDArray[np.intp]:
    """Return rows of the training split, drawn with the recipe's seed."""
    rows = np.random.default_rng(run.recipe.seed).permutation(len(run.task.train))
    return np.sort(rows[:wanted])
