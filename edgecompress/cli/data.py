"""Read labelled samples for an ONNX file, from an npz file or from a recipe's task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError
from edgecompress.exporting.folding import folding_in
from edgecompress.records import Evaluation
from edgecompress.runtime import Arrays, ModelFacts, check_array, describe_inputs, read_npz, run
from edgecompress.settings import did_you_mean
from edgecompress.tasks.metrics import evaluate, first_non_finite
from edgecompress.tasks.task import ACCURACY, Metric

LABELS = ("labels", "y")


@dataclass(frozen=True)
class Samples:
    """Hold samples by input name, their labels, the metric and the teacher's scores on them.

    `answer` is the shape of one answer that the metric can score; () where the labels tell.
    `of_task` says that the arrays are what networks take, and the metric what they answer, whatever
    an app's own work is folded into a file.
    """

    where: str
    arrays: Arrays
    labels: NDArray[Any] | None
    metric: Metric = ACCURACY
    teacher: Evaluation | None = None
    answer: tuple[int, ...] = ()
    of_task: bool = False


def read_samples(path: Path, labelled: bool = True) -> Samples:
    """Return what an npz file holds: inputs by name, and their labels as `labels` or `y`."""
    arrays = read_npz(path, "--data")
    found = [name for name in LABELS if name in arrays]
    if labelled and not found:
        raise DataError(
            f"--data {path}: has no labels; expected an array 'labels' (or 'y') beside the inputs, "
            f"found {', '.join(sorted(arrays)) or 'nothing'}"
        )
    inputs = {name: array for name, array in arrays.items() if name not in LABELS}
    return Samples(f"--data {path}", inputs, arrays[found[0]] if found else None)


def inputs_for(facts: ModelFacts, samples: Samples) -> dict[str, NDArray[Any]]:
    """Return the samples that the model takes, each array checked against its input."""
    chosen: dict[str, NDArray[Any]] = {}
    arrays = folding_in(facts.model.path).raw(samples.arrays) if samples.of_task else samples.arrays
    for tensor in facts.inputs:
        array = arrays.get(tensor.name)
        if array is None:
            raise DataError(
                f"{samples.where}: has no array {tensor.name!r}"
                f"{did_you_mean(tensor.name, samples.arrays)}; {facts.model.path} takes "
                f"{describe_inputs(facts)}"
            )
        if array.ndim == 0 or not len(array):
            raise DataError(f"{samples.where}: array {tensor.name!r} holds no samples")
        check_array(array[: tensor.shape[0] if tensor.shape else None], tensor, samples.where)
        chosen[tensor.name] = array
    if not chosen:
        raise DataError(f"{facts.model.path}: takes no inputs, so no samples can score it")
    counts = {len(array) for array in chosen.values()}
    if len(counts) != 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in chosen.items())
        raise DataError(f"{samples.where}: its arrays differ in their number of samples: {sizes}")
    return chosen


def check_samples(facts: ModelFacts, samples: Samples) -> None:
    """Refuse samples that cannot score the model, before anything of it has run."""
    inputs = inputs_for(facts, samples)
    for name, array in inputs.items():
        if (bad := first_non_finite(array)) is not None:
            raise DataError(
                f"{samples.where}: sample {bad} of {name!r} is not finite; leave it out"
            )
    count = len(next(iter(inputs.values())))
    labels = samples.labels
    if labels is None or labels.shape[:1] != (count,):
        given = "none" if labels is None else f"shape {labels.shape}"
        raise DataError(f"{samples.where}: labels: given {given}, expected one for each of {count}")
    if samples.metric is ACCURACY:
        _check_classes(labels, facts.outputs[0].shape, samples.where)


def score(facts: ModelFacts, samples: Samples) -> Evaluation:
    """Return the model's score on labelled samples that `check_samples` has let through."""
    assert samples.labels is not None
    outputs = as_scored(facts, samples, run(facts.model, inputs_for(facts, samples)))
    if samples.metric is ACCURACY:
        _check_classes(samples.labels, outputs.shape, samples.where)
    elif samples.answer and outputs.shape[1:] != samples.answer:  # a metric might broadcast
        raise DataError(
            f"{samples.where}: {facts.model.path} answers with shape {outputs.shape[1:]} a sample; "
            f"expected {samples.answer}, to be scored by {samples.metric.name}"
        )
    return evaluate(samples.metric, outputs, samples.labels, "test")


def as_scored(facts: ModelFacts, samples: Samples, answer: NDArray[Any]) -> NDArray[Any]:
    """Return what the model answered as the samples' metric takes it."""
    return folding_in(facts.model.path).logits(answer) if samples.of_task else answer


def _check_classes(labels: NDArray[Any], shape: tuple[int | None, ...], where: str) -> None:
    """Refuse labels that are no classes of a model whose outputs have this shape."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels: given {labels.dtype} of shape {labels.shape}, expected whole "
            "numbers of shape (samples,)"
        )
    if len(shape) != 2:
        raise DataError(
            f"{where}: the model's output has {len(shape)} dimensions, expected (samples, classes) "
            "to score accuracy; give a recipe with --recipe for other metrics"
        )
    classes = shape[1]
    if classes is None:  # the model does not say; its outputs will
        return
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise DataError(
            f"{where}: labels: sample {bad[0]} is {labels[bad[0]]}, expected 0 to {classes - 1}, "
            f"for the model tells {classes} classes apart"
        )
