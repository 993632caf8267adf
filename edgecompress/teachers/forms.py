"""What a teacher's answers look like in each kind of task, and how they are brought to that form.

A network of the task's own gives the form itself; a teacher from elsewhere may say the same in
another way, which is taken where it can be meant in one way only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from edgecompress.errors import TeacherError
from edgecompress.records import Kind
from edgecompress.teachers.protocol import are_probabilities


@dataclass(frozen=True)
class Form:
    """Say what a teacher answers: the task's kind, its classes, and the shape of one answer.

    `shape` has no batch axis; () where it is not known.
    """

    kind: Kind = "classification"
    class_names: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


def classes_form(class_names: tuple[str, ...]) -> Form:
    """Return the form of single-label answers; without names of any number of classes."""
    return Form("classification", class_names, (len(class_names),) if class_names else ())


def formed(answer: Tensor, form: Form, samples: int) -> Tensor:
    """Return an answer in the task's form; raise TeacherError for one that cannot be brought to it.

    - `binary`: of two logits the second's lead over the first; one logit a sample without an axis
      of its own.
    - `regression`: one number a sample without an axis of its own.
    - `tokens`: classes on the last axis, as transformers has them, where the other reading does
      not fit.
    """
    found = answer
    match form.kind:
        case "binary" if found.ndim == 2 and found.shape[1] == 2:
            _refuse_probabilities(found)
            found = found[:, 1:] - found[:, :1]
        case "binary" | "regression" if found.ndim == 1:
            found = found[:, None]
        case "tokens" if found.ndim > 2 and form.shape:
            turned = found.movedim(-1, 1)
            if tuple(found.shape[1:]) != form.shape == tuple(turned.shape[1:]):
                found = turned
    if len(found) != samples or not _fits(tuple(found.shape[1:]), form):
        raise TeacherError(
            f"teacher: returned shape {tuple(answer.shape)} for {samples} samples; expected "
            f"({', '.join([str(samples), *_axes(form)])}), {_WORDS[form.kind]}"
        )
    return found


def _fits(shape: tuple[int, ...], form: Form) -> bool:
    if form.shape:
        return shape == form.shape
    match form.kind:
        case "binary":
            return shape == (1,)
        case "tokens":
            return len(shape) > 1
        case _:
            return len(shape) == 1


def _axes(form: Form) -> tuple[str, ...]:
    return tuple(map(str, form.shape)) or _NAMES[form.kind]


def _refuse_probabilities(answer: Tensor) -> None:
    # A single pair of logits may sum to one by chance, a batch of them does not.
    if len(answer) > 1 and are_probabilities(answer.detach().float().cpu().numpy(), 1e-3):
        raise TeacherError(
            "teacher: its outputs are probabilities (every pair sums to 1); expected logits: take "
            "its softmax off"
        )


_NAMES: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("classes",),
    "binary": ("1",),
    "multilabel": ("labels",),
    "regression": ("values",),
    "embedding": ("width",),
    "tokens": ("classes", "..."),
}
_WORDS: Mapping[Kind, str] = {
    "classification": "one logit for each class",
    "binary": "one logit, that of label 1, or one for each of the two classes",
    "multilabel": "one logit for each label",
    "regression": "one number for each value",
    "embedding": "a vector as wide as the labels",
    "tokens": "one logit for each class, on the second axis or on the last",
}
