"""Teach with scikit-learn, XGBoost and other estimators that look like theirs.

What an estimator says becomes logits by what it can say, the richest first: `predict_proba`, then
`decision_function`, then `predict`. What it learned decides what its answers are: one class of
several, labels side by side, or numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.errors import TeacherError
from edgecompress.teachers.forms import Form
from edgecompress.teachers.protocol import (
    Teacher,
    are_probabilities,
    are_shares,
    class_key,
    column_order,
    listed,
    log_odds,
    log_probabilities,
    named,
)

Method = Literal["predict_proba", "decision_function", "predict", "transform"]
METHODS: tuple[Method, ...] = ("predict_proba", "decision_function", "predict")
OF_NUMBERS: tuple[Method, ...] = ("predict",)
OF_VECTORS: tuple[Method, ...] = ("predict", "transform")


@dataclass(frozen=True)
class EstimatorTeacher:
    """Teach with an estimator, which sees each sample as one flat row.

    - `predict_proba`: log-probabilities, so that `softmax(logits) == predict_proba`; softmax over
      probabilities themselves would flatten a certain answer to almost nothing.
    - `decision_function`: margins are taken as logits; their scale is no probability's, which is
      what calibration is for.
    - `predict`: rows of probabilities (as boosters and Keras models give) count as such. A class
      per sample is a certain answer, that class's probability being one: pseudo-labels. Calibrated,
      it becomes the answer with the estimator's error rate spread over the other classes.

    `columns` holds the estimator's column for each class name, () for the order as it is.
    """

    estimator: Any
    method: Method
    class_names: tuple[str, ...] = ()
    columns: tuple[int, ...] = ()

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits in the order of the class names."""
        answer = np.asarray(_asked(self.estimator, self.method, inputs))
        if self.method == "predict_proba":
            answer = log_probabilities(answer.astype(np.float64))
        elif self.method == "decision_function" and answer.ndim == 1:
            # the margin of the second of two classes
            answer = np.stack([np.zeros_like(answer), answer], axis=1)
        elif self.method == "predict":
            answer = self._said(answer)
        if self.columns and answer.shape[1:] == (len(self.columns),):
            answer = answer[:, self.columns]
        return torch.from_numpy(np.asarray(answer, dtype=np.float32))

    def _said(self, answer: NDArray[Any]) -> NDArray[Any]:
        """Return log-probabilities of what `predict` said: probabilities, or one class a sample."""
        who = type(self.estimator).__name__
        if answer.ndim == 2 and answer.shape[1] > 1:
            if not are_probabilities(answer, 1e-3):
                raise TeacherError(
                    f"teacher: {who}.predict returned shape {answer.shape}, rows that do not sum "
                    "to 1; expected one class for each sample, or probabilities"
                )
            return log_probabilities(answer.astype(np.float64))
        if len(self.class_names) == 2 and _is_a_share(answer):
            second = answer.reshape(len(answer), -1).astype(np.float64)
            return log_probabilities(np.concatenate([1 - second, second], axis=1))
        said = [class_key(value) for value in answer.reshape(len(answer), -1)[:, 0].tolist()]
        places = _places(self.estimator, self.class_names)
        unknown = [value for value in said if value not in places]
        if unknown:
            raise TeacherError(
                f"teacher: {who}.predict answered {unknown[0]!r}; expected one of the class names "
                f"({listed(self.class_names)}) or their indices 0..{len(self.class_names) - 1}"
            )
        hits = np.array([places[value] for value in said], dtype=np.intp)
        return log_probabilities(np.eye(max(places.values()) + 1)[hits])


@dataclass(frozen=True)
class LabelsTeacher:
    """Teach labels that stand side by side: one logit each, the log-odds of what is said of it.

    `predict_proba` gives a column for each label, or, as forests do, a list with the probabilities
    of 0 and 1 for each; `decision_function` margins, taken as logits; `predict` 0 and 1, each a
    certain answer.
    """

    estimator: Any
    method: Method

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits (batch, labels)."""
        said = _asked(self.estimator, self.method, inputs)
        if isinstance(said, list):
            known = self.estimator.classes_
            said = np.stack([_true(p, c) for p, c in zip(said, known, strict=True)], axis=1)
        answer = np.asarray(said, dtype=np.float64)
        if self.method != "decision_function":
            if not are_shares(answer):
                raise TeacherError(
                    f"teacher: {type(self.estimator).__name__}.{self.method} answered beyond 0..1; "
                    "expected for each label how likely it is"
                )
            answer = log_odds(answer)
        return torch.from_numpy(answer.astype(np.float32))


@dataclass(frozen=True)
class NumbersTeacher:
    """Teach regression and embeddings with what an estimator predicts, or transforms into."""

    estimator: Any
    method: Method

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return numbers (batch, values)."""
        answer = np.asarray(_asked(self.estimator, self.method, inputs), dtype=np.float32)
        return torch.from_numpy(answer.reshape(len(answer), -1))


def estimator_teacher(source: object, form: Form) -> Teacher | None:
    """Return a teacher made of an estimator, or None for an object that is none.

    Raises TeacherError for an estimator that cannot teach this.
    """
    match form.kind:
        case "classification":
            return _classes_teacher(source, form.class_names)
        case "binary":
            return _classes_teacher(source, form.class_names or ("0", "1"))
        case "multilabel":
            method = _first_of(METHODS, source)
            return None if method is None else LabelsTeacher(source, method)
        case "regression" | "embedding":
            return _numbers_teacher(source, OF_VECTORS if form.kind == "embedding" else OF_NUMBERS)
        case "tokens":
            if _first_of(METHODS, source) is None:
                return None
            raise TeacherError(
                f"teacher: {type(source).__name__} answers once for a whole sample, but a task of "
                "kind 'tokens' asks for every token; expected a torch module, an ONNX file or "
                "stored soft targets"
            )


def _classes_teacher(source: object, class_names: tuple[str, ...]) -> EstimatorTeacher | None:
    method = _first_of(METHODS, source)
    if method is None:
        return None
    name = type(source).__name__
    if method == "predict" and is_regressor(source):
        raise TeacherError(
            f"teacher: {name} predicts numbers, not classes; expected an estimator with "
            "predict_proba, decision_function, or a predict that answers with a class"
        )
    if method == "decision_function" and _pairs_up(source):
        raise TeacherError(
            f"teacher: {name} was made with decision_function_shape='ovo', whose values compare "
            "pairs of classes; give it 'ovr'"
        )
    known = getattr(source, "classes_", None)
    if known is None and method == "predict" and not class_names:
        raise TeacherError(
            f"teacher: {name} answers with a class alone and does not say which there are; "
            "give the task class_names"
        )
    columns: tuple[int, ...] = ()
    if known is not None and class_names:
        columns = column_order(np.asarray(known).tolist(), class_names, f"{name} was fitted on")
    return EstimatorTeacher(source, method, class_names, columns if method != "predict" else ())


def _numbers_teacher(source: object, methods: tuple[Method, ...]) -> NumbersTeacher | None:
    method = _first_of(methods, source)
    if method is None:
        return None
    if method == "predict" and _type_of(source) == "classifier":
        raise TeacherError(
            f"teacher: {type(source).__name__} predicts classes, not numbers; expected a regressor"
        )
    return NumbersTeacher(source, method)


def _first_of(methods: tuple[Method, ...], source: object) -> Method | None:
    return next((m for m in methods if callable(getattr(source, m, None))), None)


def is_regressor(source: object) -> bool:
    """Return whether an estimator says of itself that it predicts numbers."""
    return _type_of(source) == "regressor"


def _type_of(source: object) -> str | None:
    """Return what an estimator says of itself that it is, in scikit-learn's words."""
    tags = getattr(source, "__sklearn_tags__", None)
    said = tags().estimator_type if callable(tags) else getattr(source, "_estimator_type", None)
    return said if isinstance(said, str) else None


def _asked(estimator: Any, method: str, inputs: Mapping[str, Tensor]) -> Any:
    """Return what the estimator says of the samples, of which each is one flat row."""
    rows = np.concatenate([t.cpu().numpy().reshape(len(t), -1) for t in inputs.values()], axis=1)
    with named(inputs), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        return getattr(estimator, method)(rows)


def _true(probabilities: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Return how likely one label is to be 1: never, where the estimator never saw that."""
    known = [class_key(value) for value in np.asarray(classes).tolist()]
    return probabilities[:, known.index(1)] if 1 in known else np.zeros(len(probabilities))


def _is_a_share(answer: NDArray[Any]) -> bool:
    """Return whether `predict` said how likely the second class is, as boosters do."""
    return answer.dtype.kind == "f" and are_shares(answer) and bool((answer % 1 != 0).any())


def _pairs_up(source: object) -> bool:
    last = source[-1] if hasattr(source, "steps") else source  # type: ignore[index]
    known = np.asarray(getattr(source, "classes_", ()))
    return getattr(last, "decision_function_shape", None) == "ovo" and len(known) > 2


def _places(estimator: Any, class_names: tuple[str, ...]) -> dict[object, int]:
    """Return the class that each answer of `predict` stands for.

    Whole numbers are indices, also where the names are digits, unless the estimator was fitted on
    names.
    """
    if not class_names:
        return {class_key(c): i for i, c in enumerate(np.asarray(estimator.classes_).tolist())}
    names: dict[object, int] = {name: i for i, name in enumerate(class_names)}
    return names | {i: i for i in range(len(class_names))}
