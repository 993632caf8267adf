"""Distillation as a scikit-learn estimator: fit, predict, and take the ONNX file along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from edgecompress.distilling.arms import TrainedArm, train_arm
from edgecompress.distilling.choice import CONTROL, DISTILLED, pick_arm
from edgecompress.distilling.loop import Bench
from edgecompress.errors import EdgecompressError, RecipeError
from edgecompress.exporting.onnx import export
from edgecompress.recipe import DistillSettings, ExportSettings
from edgecompress.records import Mode, OnnxModel
from edgecompress.settings import parse
from edgecompress.students.tabular import standardized_net
from edgecompress.tasks.rows import split_rows
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits
from edgecompress.teachers.calibration import calibrate
from edgecompress.teachers.out_of_fold import OutOfFold

INPUT = "x"
LEAST_TO_CALIBRATE = 50  # rows
_TAUGHT = ("temperature", "kd_weight", "epochs", "learning_rate", "batch_size")


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fit a teacher, distill it into a small network, and be that network.

    Parameters
    ----------
    teacher : a classifier with `fit` and `predict_proba` (or `decision_function`, or `predict`);
        it is cloned, and fitted on class indices. None is a random forest of 200 trees. Its
        answers are calibrated where that helps, by those that it gives out of fold.
    hidden : widths of the student's hidden layers.
    temperature : divides the logits of both before the softmax; a number, or
        `{"start": 5.0, "end": 1.0}`.
    kd_weight : share of the soft loss; the labels' loss has the rest.
    epochs, learning_rate, batch_size : of the student's training (AdamW, warm-up, half cosine).
    cv : folds by which the teacher answers for rows that it was not fitted on; None asks it about
        rows it knows by heart, which a forest answers almost with their labels.
    validation_fraction : share of the rows that is held out to choose between the distilled student
        and its control, which has the labels alone. 0 distills without a control.
    random_state : seed of everything; the same one gives the same predictions.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_ : as in scikit-learn.
    teacher_ : the teacher, fitted on class indices.
    module_ : the student, a `torch.nn.Module` from rows to logits.
    shipped_ : "distilled" or "control"; `reason_` says why, in words.
    arms_ : what was trained, each with its curve and its score on the rows held out.
    """

    def __init__(  # noqa: PLR0913  scikit-learn reads the parameters off the signature
        self,
        teacher: Any = None,
        *,
        hidden: Sequence[int] = (64, 32),
        temperature: float = 4.0,
        kd_weight: float = 0.7,
        epochs: int = 60,
        learning_rate: float = 5e-3,
        batch_size: int = 32,
        cv: int | None = 5,
        validation_fraction: float = 0.15,
        random_state: Any = None,
    ) -> None:
        self.teacher = teacher
        self.hidden = hidden
        self.temperature = temperature
        self.kd_weight = kd_weight
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.cv = cv
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803  as scikit-learn names it
        """Fit the teacher, then the student; return self.

        Raises ValueError for rows and parameters that no student can be taught with.
        """
        rows, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"DistilledClassifier: y has one class ({self.classes_[0]!r}) in {len(rows)} "
                "samples; expected at least two"
            )
        settings = self._settings()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        whole = Split({INPUT: rows}, labels.astype(np.int64))
        train, validation = self._split(whole, seed)
        try:
            with torch.random.fork_rng(devices=[]):  # the caller's own draws stay as they were
                self._learn(train, validation, settings, seed)
        except EdgecompressError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from error
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the student's probabilities, shape (samples, classes), columns as `classes_`."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        with torch.no_grad():  # in float64, so that a row's answer depends on no other row
            logits = self.module_(torch.from_numpy(rows.astype(np.float64)))
        probabilities: NDArray[np.float64] = torch.softmax(logits, dim=1).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each row."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_[likeliest]
        return classes

    def to_onnx(self, path: Path | str, softmax: bool = True) -> OnnxModel:
        """Write the student as an ONNX file: input `x` (batch, features), float32.

        Its output is `probabilities`, or `logits` without `softmax`.
        """
        check_is_fitted(self)
        example = {INPUT: np.zeros((2, self.n_features_in_), np.float32)}
        names = [str(name) for name in self.classes_]
        return export(self.module_, example, path, ExportSettings(softmax=softmax), names)

    def _settings(self) -> DistillSettings:
        given = {name: getattr(self, name) for name in _TAUGHT}
        plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in given.items()}
        plain |= {"loss": "kd", "precision": "fp32"}
        if self.cv is not None and self.cv < 2:
            raise ValueError(
                f"{type(self).__name__}: cv: given {self.cv}, expected 2 or more folds, or None"
            )
        try:
            return parse(DistillSettings, plain, type(self).__name__, RecipeError)
        except RecipeError as error:
            raise ValueError(str(error)) from error

    def _split(self, whole: Split, seed: int) -> tuple[Split, Split | None]:
        """Return the rows to train on and those to choose by, None where they are too few."""
        share, labels = self.validation_fraction, np.asarray(whole.labels)
        if not 0 <= share < 1:
            raise ValueError(
                f"DistilledClassifier: validation_fraction: given {share}, expected 0 or more and "
                "less than 1"
            )
        if not share or np.bincount(labels).min() < 2:
            return whole, None
        kept, held_out = split_rows(labels, (1 - share, share), seed)
        return whole.take(kept), whole.take(held_out)

    def _learn(
        self, train: Split, validation: Split | None, settings: DistillSettings, seed: int
    ) -> None:
        teacher = self._taught(train, seed)
        torch.manual_seed(seed)
        student = standardized_net(train.inputs[INPUT], len(self.classes_), tuple(self.hidden))
        seen = validation or train
        task = Task("fit", train, seen, seen, lambda: teacher, lambda: student)
        bench = Bench(seed=seed, mode=Mode(threads=1))

        def arm(name: str) -> TrainedArm:
            return train_arm(name, student, task, settings, bench, teacher)

        names = (DISTILLED,) if validation is None else (DISTILLED, CONTROL)
        self.arms_ = tuple(arm(name) for name in names)
        chosen, self.reason_ = pick_arm(self.arms_)
        if validation is None:
            self.reason_ = "no rows were held out to choose by"
        self.shipped_, self.module_ = chosen.name, chosen.module.double()

    def _taught(self, train: Split, seed: int) -> CheckedTeacher:
        """Fit the teacher, and return it as one that answers for each training row fairly."""
        estimator = RandomForestClassifier(200) if self.teacher is None else clone(self.teacher)
        _seed_(estimator, seed)
        names = tuple(str(index) for index in range(len(self.classes_)))
        labels = np.asarray(train.labels)
        self.teacher_ = clone(estimator).fit(train.inputs[INPUT], labels)
        if self.cv is None:
            return as_teacher(self.teacher_, names)
        teacher = as_teacher(OutOfFold(estimator, train.inputs, labels, self.cv, seed), names)
        return _as_sure_as_it_should_be(teacher, train)


def _as_sure_as_it_should_be(teacher: CheckedTeacher, train: Split) -> CheckedTeacher:
    """Return a teacher calibrated by what it says, out of fold, of its training rows."""
    if len(train) < LEAST_TO_CALIBRATE:
        return teacher
    found = calibrate(predict_logits(teacher, train.inputs), np.asarray(train.labels))
    return replace(teacher, temperature=found.temperature) if found.helps else teacher


def _seed_(estimator: Any, seed: int) -> None:
    """Give every part of an estimator that has no seed of its own this one."""
    parameters = estimator.get_params(deep=True)
    unset = [n for n in parameters if n.split("__")[-1] == "random_state" and parameters[n] is None]
    if unset:
        estimator.set_params(**dict.fromkeys(unset, seed))
