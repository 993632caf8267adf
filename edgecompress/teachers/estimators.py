"""Teach with scikit-learn, XGBoost and other estimators that look like theirs.

What an estimator says becomes logits by what it can say, the richest first: `predict_proba`, then
`decision_function`, then `predict`.
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
from edgecompress.teachers.protocol import (
    are_probabilities,
    class_key,
    column_order,
    listed,
    log_probabilities,
    named,
)

Method = Literal["predict_proba", "decision_function", "predict"]
METHODS: tuple[Method, ...] = ("predict_proba", "decision_function", "predict")


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
        answer = _asked(self.estimator, self.method, inputs)
        if self.method == "predict_proba":
            answer = log_probabilities(answer)
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


def estimator_teacher(source: object, class_names: tuple[str, ...]) -> EstimatorTeacher | None:
    """Return a teacher made of an estimator, or None for an object that is none.

    Raises TeacherError for an estimator that cannot teach these classes.
    """
    method = next((m for m in METHODS if callable(getattr(source, m, None))), None)
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


def is_regressor(source: object) -> bool:
    """Return whether an estimator says of itself that it predicts numbers."""
    tags = getattr(source, "__sklearn_tags__", None)
    if callable(tags):
        return bool(tags().estimator_type == "regressor")
    return bool(getattr(source, "_estimator_type", None) == "regressor")


def _asked(estimator: Any, method: str, inputs: Mapping[str, Tensor]) -> NDArray[Any]:
    rows = np.concatenate([t.cpu().numpy().reshape(len(t), -1) for t in inputs.values()], axis=1)
    with named(inputs), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        answer = np.asarray(getattr(estimator, method)(rows))
    return answer if method == "predict" else answer.astype(np.float64)


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
