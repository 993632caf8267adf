"""Ask an estimator of its own training rows without letting it answer from memory.

An estimator that was fitted on a row knows its label: a random forest is close to one-hot there,
and has nothing to teach beside it. So the rows are dealt out to folds, and what the estimator says
of a row comes from a copy that was fitted on the other folds (cross-fitting; for distillation: Dao,
Kamath, Syrgkanis, Mackey 2021, "Knowledge Distillation as Semiparametric Inference", section 4).
Whatever is no training row is answered by the estimator fitted on all of them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.errors import TeacherError
from edgecompress.store import row_digests
from edgecompress.teachers.protocol import Teacher, reason

Arrays = Mapping[str, NDArray[Any]]
Adapt = Callable[[Any], Teacher]


@dataclass(frozen=True)
class OutOfFold:
    """Name an estimator and the rows to fit it on; a task's teacher returns this.

    `inputs` and `labels` are those of the task's training split. A copy of the estimator is fitted
    `folds` + 1 times; `seed` deals the rows out.
    """

    estimator: Any
    inputs: Arrays = field(repr=False)
    labels: NDArray[Any] = field(repr=False)
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True)
class OutOfFoldTeacher:
    """Answer a training row as the copy does that never saw it, everything else as the whole.

    A row is known by its content, as with stored soft targets: never by its place. An augmented
    row is therefore not known: distilling from it with augmentation or mixing is refused.
    """

    whole: Teacher
    rows: Mapping[bytes, int]
    held_out: Tensor = field(repr=False)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits held in store for training rows, and computed ones for all others."""
        keys = row_digests({name: tensor.cpu().numpy() for name, tensor in inputs.items()})
        places = torch.tensor([self.rows.get(key, -1) for key in keys])
        known = places >= 0
        answer = torch.empty(len(places), *self.held_out.shape[1:])
        answer[known] = self.held_out[places[known]]
        if not bool(known.all()):
            strange = {name: tensor[~known.to(tensor.device)] for name, tensor in inputs.items()}
            answer[~known] = self.whole.logits(strange).cpu().float()
        return answer

    def knows(self, inputs: Arrays) -> bool:
        """Return whether every one of these samples was among the training rows."""
        return all(key in self.rows for key in row_digests(inputs))

    @property
    def fingerprint(self) -> str:
        """Return a digest of what the teacher says of its training rows."""
        digest = hashlib.sha256(self.held_out.numpy().tobytes())
        for key in self.rows:
            digest.update(key)
        return digest.hexdigest()


def out_of_fold_teacher(source: OutOfFold, adapt: Adapt) -> OutOfFoldTeacher:
    """Fit the estimator on all rows and once more without each fold; return the teacher.

    `adapt` makes a teacher of a fitted estimator. Raises TeacherError for what cannot be fitted.
    """
    if not callable(getattr(source.estimator, "fit", None)):
        raise TeacherError(
            f"teacher: OutOfFold was given {type(source.estimator).__name__}, which has no method "
            "fit; expected an estimator in the manner of scikit-learn"
        )
    if source.folds < 2:
        raise TeacherError(
            f"teacher: OutOfFold was given folds = {source.folds}; expected 2 or more: without "
            "folds give the fitted estimator itself"
        )
    inputs, labels = source.inputs, np.asarray(source.labels)
    keys = list(row_digests(inputs))
    if len(labels) != len(keys):
        raise TeacherError(
            f"teacher: OutOfFold was given {len(keys)} samples and {len(labels)} labels; expected "
            "the inputs and labels of one split"
        )

    def teacher(rows: NDArray[np.bool_]) -> Teacher:
        return adapt(_fitted(source.estimator, _taken(inputs, rows), labels[rows]))

    whole, fold = teacher(np.ones(len(labels), bool)), deal(keys, labels, source.folds, source.seed)
    held_out = whole.logits(_tensors(inputs)).cpu().float()
    for part in range(source.folds):
        asked = fold == part
        if asked.any():
            answer = teacher(~asked).logits(_tensors(_taken(inputs, asked)))
            held_out[torch.from_numpy(asked)] = answer.cpu().float()
    rows: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, row)
    return OutOfFoldTeacher(whole, rows, held_out)


def deal(keys: list[bytes], labels: NDArray[Any], folds: int, seed: int) -> NDArray[np.intp]:
    """Return each row's fold, class by class; rows of one content share a fold.

    -1 is a row that is never held out, because the other folds hold none of its class.

    >>> deal([b"a", b"b", b"c", b"a", b"d"], np.array([0, 0, 1, 0, 0]), 2, seed=0).tolist()
    [1, 0, -1, 1, 0]
    """
    _, first, twin = np.unique(np.array(keys), return_index=True, return_inverse=True)
    classes = labels if labels.ndim == 1 and labels.dtype.kind in "iub" else np.zeros(len(labels))
    draws = np.random.default_rng(seed)
    fold_of = np.empty(len(first), np.intp)
    for value in np.unique(classes[first]):
        members = draws.permutation(np.flatnonzero(classes[first] == value))
        fold_of[members] = np.arange(len(members)) % folds
    fold: NDArray[np.intp] = fold_of[twin.reshape(-1)]
    for part in range(folds):
        held = fold == part
        fold[held & ~np.isin(classes, classes[~held])] = -1
    return fold


def _fitted(estimator: Any, inputs: Arrays, labels: NDArray[Any]) -> Any:
    """Return a fitted copy, for the estimator that was given stays as it was."""
    ours = copy.deepcopy(estimator)
    rows = np.concatenate([a.reshape(len(a), -1) for a in inputs.values()], axis=1)
    try:
        ours.fit(rows, labels)
    except Exception as error:  # foreign code: each library has exceptions of its own
        raise TeacherError(
            f"teacher: {type(estimator).__name__}.fit failed on {len(rows)} rows of "
            f"{rows.shape[1]} numbers: {reason(error)}"
        ) from error
    return ours


def _taken(inputs: Arrays, rows: NDArray[np.bool_]) -> Arrays:
    return {name: array[rows] for name, array in inputs.items()}


def _tensors(inputs: Arrays) -> dict[str, Tensor]:
    return {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in inputs.items()}
