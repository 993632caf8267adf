"""Accuracy control of a plain ONNX file: where its samples have labels, int8 is scored on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompress.cli.data import Samples, check_samples, inputs_for
from edgecompress.cli.models import OpenModel
from edgecompress.errors import DataError
from edgecompress.exporting.parity import INT8, check_parity
from edgecompress.measuring.node_costs import added_ms
from edgecompress.quantizing.control import Terms, control
from edgecompress.quantizing.prepared import NothingToDoError
from edgecompress.quantizing.schemes import form_of
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import Candidate, Evaluation, OnnxModel
from edgecompress.runtime import Arrays, run, takes_any_batch
from edgecompress.tasks.metrics import evaluate
from edgecompress.verdict import all_int8_loses, score_drop

Say = Callable[[str], None]
SCHEME = "int8-controlled"
_HELD = 4  # one sample in so many is held out, drawn at random: classes may take turns


def held_out(source: OpenModel, given: Samples) -> tuple[Samples, Samples | None, tuple[str, ...]]:
    """Return the samples to calibrate on, a fourth to score on, and why there are none such.

    Where labels can score the model, a fourth is held out; else every sample calibrates.
    """
    if given.labels is None:
        return given, None, ()
    try:
        check_samples(source.facts, given)
    except DataError as error:
        return given, None, (f"int8 is not scored: {error}",)
    held = np.random.default_rng(0).permutation(len(given.labels)) % _HELD == 0
    return _only(given, ~held), _only(given, held), ()


def _only(samples: Samples, rows: NDArray[np.bool_]) -> Samples:
    arrays = {name: array[rows] for name, array in samples.arrays.items()}
    assert samples.labels is not None
    return replace(samples, arrays=arrays, labels=samples.labels[rows])


def controlled(
    source: OpenModel,
    candidates: Sequence[Candidate],
    data: tuple[Arrays, Samples],
    out: Path,
    settings: QuantizeSettings,
    say: Say,
) -> tuple[list[Candidate], tuple[str, ...]]:
    """Return the candidates scored, with a controlled one where all int8 loses too much.

    And in words why there is none although it was tried. The float model is the first of them.
    `data`: what to calibrate on, what to score on.
    """
    calibration, held = data
    found = [replace(c, evaluations=(_score(source, c.model, held),)) for c in candidates]
    whole, exact = found[0], found[0].evaluations[0]
    if not all_int8_loses(whole, found[1:], settings.max_drop):
        return found, ()
    say("controlling the accuracy of int8")

    def lost(int8: OnnxModel) -> float:
        return score_drop(exact, _score(source, int8, held))[0]

    terms = Terms(
        settings.max_drop,
        lost,
        lambda whole, int8: added_ms(whole, int8, source.inputs, say=say),
        settings.repairs,
    )
    try:
        made = control(source.facts.model, calibration, out, form_of("static", settings), terms)
    except NothingToDoError as nothing:
        return found, (f"{SCHEME}: not made: {nothing}",)
    if made.model is None:
        return found, (f"{SCHEME}: not made: {made.reason}",)
    probe = inputs_for(source.facts, held)
    tolerance = replace(INT8, any_batch=takes_any_batch(source.facts))
    reference = run(source.facts.model, probe)
    parity = check_parity(reference, made.model, probe, source.label, tolerance)
    score = (_score(source, made.model, held),)
    dropped = None if parity.passed else parity.reason
    one = Candidate(SCHEME, made.model, SCHEME, parity, score, None, None, dropped, control=made)
    return [*found, one], ()


def _score(source: OpenModel, model: OnnxModel, held: Samples) -> Evaluation:
    assert held.labels is not None
    outputs = run(model, inputs_for(source.facts, held))
    return evaluate(held.metric, outputs, held.labels, "validation")
