"""Accuracy control: an int8 model that loses no more than is allowed, or the reason why none does.

First the repairs that cost nothing at run time, each kept where it brings the network's output
nearer to the float one's on calibration data. Then one pass tells what 8 bits do to each layer, and
the cheapest layers go back to float. Only whole evaluations on validation decide, and they are few.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgecompress.errors import ModelError
from edgecompress.graphs import labels_of, tidy
from edgecompress.quantization import Repair
from edgecompress.quantizing.calibration import calibration_sample
from edgecompress.quantizing.correction import corrected
from edgecompress.quantizing.equalization import equalized, smoothed
from edgecompress.quantizing.floats import Names, closed, given_back, ordered, smallest, units
from edgecompress.quantizing.layers import layers, unshared
from edgecompress.quantizing.prepared import NothingToDoError, prepare, refuse_quantized
from edgecompress.quantizing.rounding import rounded
from edgecompress.quantizing.sensitivity import layer_errors
from edgecompress.quantizing.static import StaticForm, static_int8
from edgecompress.records import Controlled, OnnxModel
from edgecompress.runtime import Arrays, run
from edgecompress.store import artifact, write_atomic

REPAIRS: tuple[Repair, ...] = get_args(Repair)
FILE = "int8-controlled.onnx"
_EVALUATIONS = 10
_ALL = 2**31
_ASIDE = 4  # one calibration sample in so many judges the repairs and makes none


@dataclass(frozen=True)
class Terms:
    """Say what is wanted, and how to ask.

    `evaluate` returns what an int8 model loses against the float one on validation, in the metric's
    unit; each call is a full evaluation, at most `most` of them. `cost` returns, for the float
    model and the int8 one made from it, the milliseconds that each node, by the name that it has in
    both, would add to a call if it stayed float; it is asked once, if at all.
    """

    allowed: float
    evaluate: Callable[[OnnxModel], float]
    cost: Callable[[OnnxModel, OnnxModel], Mapping[str, float]]
    repairs: tuple[Repair, ...] = REPAIRS
    most: int = _EVALUATIONS


@dataclass(frozen=True)
class _Plan:
    """Say what an int8 model is made of: a float graph, repairs of its int8 form, float nodes."""

    source: ModelProto
    repairs: tuple[Repair, ...] = ()
    keep_float: Names = frozenset()


@dataclass(frozen=True)
class _Found:
    """Hold the plan that was found, whether it is within what is allowed, and why it ended so."""

    plan: _Plan
    within: bool
    reason: str
    nodes: int = 0
    added_ms: float = 0.0


def control(
    model: OnnxModel, calibration: Arrays, folder: Path, form: StaticForm, terms: Terms
) -> Controlled:
    """Write `int8-controlled.onnx` into `folder`: int8 that loses at most `terms.allowed`.

    `calibration` holds training inputs by name. Raise DataError where they cannot serve, ModelError
    for a model that is quantized already, NothingToDoError for one that has no static int8 form.
    """
    source = onnx.load(model.path)
    refuse_quantized(source, model.path)
    sample = calibration_sample(calibration, source, _ALL)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.", suffix=".partial") as scratch:
        bench = _Bench(Path(scratch), sample, form, terms)
        found = _controlled(bench, unshared(onnx.load(prepare(model.path, Path(scratch)))))
        path = folder.absolute() / FILE
        if found.within:
            int8 = tidy(bench.made(found.plan), labels_of(source))
            write_atomic(path, int8.SerializeToString(deterministic=True))
    return Controlled(
        model=artifact(path, OnnxModel) if found.within else None,
        plain_loss=bench.losses[0][1],
        loss=bench.loss_of(found.plan),
        repairs=found.plan.repairs,
        keep_float=tuple(sorted(found.plan.keep_float)),
        nodes=found.nodes,
        added_ms=found.added_ms,
        evaluations=len(bench.losses),
        reason=found.reason,
    )


def _controlled(bench: _Bench, prepared: ModelProto) -> _Found:
    plain = _Plan(prepared)
    if bench.within(plain):
        return _Found(plain, True, "plain int8 loses no more than is allowed")
    plan = _repaired(bench, plain)
    if plan.repairs and bench.within(plan):
        return _Found(plan, True, "repaired, it stays int8 throughout")
    return _with_floats(bench, plan)


def _repaired(bench: _Bench, plan: _Plan) -> _Plan:
    """Return the plan with every repair that lowers the error of the network's output."""
    exact = bench.answers(plan.source)
    error = bench.output_error(plan, exact)
    for repair in bench.terms.repairs:
        source = bench.evened(plan.source, repair)
        if source is None:
            continue
        tried = _Plan(source, (*plan.repairs, repair))
        now = bench.output_error(tried, exact)
        if now < error:
            plan, error = tried, now
    return plan


def _with_floats(bench: _Bench, plan: _Plan) -> _Found:
    """Return the plan with the cheapest layers back to float."""
    int8 = bench.made(plan)
    errors = layer_errors(plan.source, int8, bench.fit)
    noise = {name: error.noise for name, error in errors.items() if error.noise > 0}
    among, costs = units(plan.source, list(noise)), bench.costs(plan.source, int8)

    def within(kept: Names) -> bool | None:
        return bench.within(replace(plan, keep_float=closed(kept, among)))

    layered = {layer.node for layer in layers(plan.source)} & noise.keys()
    first = smallest(ordered(noise, among, costs), layered, within)
    if first is None:
        reason = f"nothing but float was within it after {len(bench.losses)} evaluations"
        return _Found(plan, False, reason, len(noise))

    def worth(node: str) -> tuple[float, str]:
        return noise.get(node, 0.0) / max(costs.get(node, 0.0), 1e-9), node

    kept = closed(given_back(first.nodes, sorted(first.nodes, key=worth), within), among)
    added = sum(costs.get(node, 0.0) for node in kept)
    kept_plan = replace(plan, keep_float=kept)
    return _Found(kept_plan, True, "with the cheapest layers in float", len(noise), added)


class _Bench:
    """Make int8 models by plans, ask what they lose, and remember every answer."""

    def __init__(self, scratch: Path, sample: Arrays, form: StaticForm, terms: Terms) -> None:
        self.scratch, self.form, self.terms = scratch, form, terms
        count = len(next(iter(sample.values())))
        aside = np.random.default_rng(0).permutation(count) % _ASIDE == 0
        self.fit = {name: array[~aside] for name, array in sample.items()}
        self.aside = {name: array[aside] for name, array in sample.items()}
        self.losses: list[tuple[_Plan, float]] = []

    def evened(self, source: ModelProto, repair: Repair) -> ModelProto | None:
        """Return the float graph that a repair makes; None where there is nothing to even out."""
        match repair:
            case "equalization":
                evened = equalized(source, self.fit, self.form.per_channel)
            case "smoothing":
                evened = smoothed(source, self.fit, self.form.per_channel)
            case "rounding" | "bias":  # they act on the int8 form
                return source
        return None if evened is source else evened

    def made(self, plan: _Plan) -> ModelProto:
        """Return the int8 model of a plan."""
        path = self._written(plan.source, "source.onnx").path
        int8 = static_int8(path, self.fit, self.form, sorted(plan.keep_float))
        if "rounding" in plan.repairs:
            int8 = rounded(plan.source, int8, self.fit)
        if "bias" in plan.repairs:
            int8 = corrected(plan.source, int8, self.fit)
        return int8

    def within(self, plan: _Plan) -> bool | None:
        """Return whether a plan's int8 model loses little enough; None when none may be asked."""
        if len(self.losses) >= self.terms.most:
            return None
        try:
            int8 = self._written(self.made(plan), "int8.onnx")
            loss = self.terms.evaluate(int8)
        except (NothingToDoError, ModelError) as error:  # of no use with these nodes in float
            if not self.losses:
                raise NothingToDoError(str(error)) from error
            return False
        self.losses.append((plan, loss))
        return loss <= self.terms.allowed

    def loss_of(self, plan: _Plan) -> float:
        """Return what a plan was found to lose; of one that was never evaluated, the plain one."""
        key = (plan.repairs, plan.keep_float)
        known = {(p.repairs, p.keep_float): loss for p, loss in self.losses}
        return known.get(key, self.losses[0][1])

    def answers(self, model: ModelProto) -> NDArray[Any]:
        """Return a model's output on the samples put aside."""
        return run(self._written(model, "answering.onnx"), self.aside)

    def output_error(self, plan: _Plan, exact: NDArray[Any]) -> float:
        """Return the mean squared error of the network's output on the samples put aside.

        It is infinite where the quantizer makes nothing usable of the plan.
        """
        try:
            outputs = self.answers(self.made(plan))
        except (NothingToDoError, ModelError):
            return inf
        return float(np.square(outputs - exact, dtype=np.float64).mean())

    def costs(self, source: ModelProto, int8: ModelProto) -> Mapping[str, float]:
        """Return the milliseconds that each node would add as float."""
        models = [self._written(m, f"{n}.onnx") for n, m in (("source", source), ("int8", int8))]
        return self.terms.cost(*models)

    def _written(self, model: ModelProto, name: str) -> OnnxModel:
        path = self.scratch / name
        path.write_bytes(model.SerializeToString())
        return artifact(path, OnnxModel)
