"""Make a teacher of whatever the user has: one method, `logits`, behind every kind of model.

torch modules, scikit-learn and XGBoost style estimators and ONNX files differ in what they take
and give. Here they all take named tensors and give finite numbers in the form that the task's
kind has: logits (batch, classes) in the order of the class names, or what `forms` says.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompress.errors import TeacherError
from edgecompress.teachers.estimators import estimator_teacher
from edgecompress.teachers.forms import Form, classes_form, formed
from edgecompress.teachers.mixtures import (
    ClassSubsets,
    Ensemble,
    EnsembleTeacher,
    SubsetTeacher,
    places,
    shares,
)
from edgecompress.teachers.onnx_files import onnx_teacher
from edgecompress.teachers.out_of_fold import OutOfFold, OutOfFoldTeacher, out_of_fold_teacher
from edgecompress.teachers.protocol import Teacher, column_order, named, reason
from edgecompress.teachers.reduced import ReducedTeacher
from edgecompress.teachers.stored import StoredTargets, StoredTeacher, stored_teacher

T = TypeVar("T")
_OF_TOKENS = "ForTokenClassification"
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class CheckedTeacher:
    """Pass on what a teacher says if it has the task's form and every number of it is finite.

    Its logits are divided by `temperature`, which calibration finds; 1 leaves them as they are.
    """

    inner: Teacher
    form: Form
    temperature: float = 1.0

    def logits(self, inputs: Mapping[str, Tensor], first_sample: int = 0, every: int = 1) -> Tensor:
        """Return checked float32 answers without gradient, on the inputs' device.

        For the message, `first_sample` is the number of the batch's first sample; the batch holds
        it and each one that is `every` samples on. Raises TeacherError, which names the sample.
        """
        batch = next(iter(inputs.values()))
        with torch.no_grad():
            answer = self.inner.logits(inputs)
        if not isinstance(answer, Tensor):
            raise TeacherError(
                f"teacher: returned type {type(answer).__name__}; expected a tensor of logits"
            )
        answer = formed(answer.detach(), self.form, len(batch)).to(batch.device, torch.float32)
        finite = torch.isfinite(answer).flatten(1).all(dim=1)
        if not bool(finite.all()):
            bad = first_sample + every * int(torch.argmin(finite.int()))
            raise TeacherError(
                f"teacher: its logits for sample {bad} are not finite; "
                "check that sample and the teacher's weights"
            )
        return answer / self.temperature if self.temperature != 1 else answer


def predict_logits(
    teacher: CheckedTeacher, inputs: Mapping[str, NDArray[Any]], batch: int = 256
) -> NDArray[np.float32]:
    """Return the teacher's answers for all samples of named arrays, shape (samples, ...)."""
    samples = len(next(iter(inputs.values())))
    answers = [
        teacher.logits(
            {
                k: torch.from_numpy(np.require(v[i : i + batch], requirements=["C", "W"]))
                for k, v in inputs.items()
            },
            first_sample=i,
        )
        for i in range(0, samples, batch)
    ]
    result: NDArray[np.float32] = torch.cat(answers).cpu().numpy()
    return result


def as_teacher(
    source: object, form: Form | tuple[str, ...], trust_code: bool = False
) -> CheckedTeacher:
    """Return a teacher made of anything that can teach, its answers checked.

    `form` is what a task of its kind wants to hear; class names alone stand for single-label
    classification.
    `source` is a torch module (also of transformers), an estimator in the manner of scikit-learn,
    the path of an ONNX file or of stored soft targets (.npz, .parquet), the import path
    `module:function` of a function that returns one of these, an `Ensemble`, `ClassSubsets`,
    `OutOfFold`, or an object with `logits`. A pickled torch module (`.pt`, `.pth`) is opened only
    with `trust_code`, since opening it runs what its author wrote into it. Raises TeacherError for
    what cannot teach.
    """
    if isinstance(source, CheckedTeacher):
        return source
    form = form if isinstance(form, Form) else classes_form(form)
    source = built(source)
    if isinstance(source, Ensemble):
        inner: Teacher = _ensemble(source, form, trust_code)
    elif isinstance(source, ClassSubsets):
        inner = _subsets(source, form, trust_code)
    elif isinstance(source, OutOfFold):
        inner = out_of_fold_teacher(source, lambda one: as_teacher(one, form, trust_code))
    elif isinstance(source, StoredTargets):
        inner = stored_teacher(source, form)
    elif isinstance(source, str | Path):
        inner = _from_file(Path(source), form, trust_code)
    else:
        inner = _from_object(source, form)
    return CheckedTeacher(inner, form)


def built(source: object) -> object:
    """Return what the function of an import path `module:function` makes; else `source` itself."""
    if not isinstance(source, str) or not _FACTORY.fullmatch(source):
        return source
    module, _, name = source.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
        return make()
    except Exception as error:  # foreign code may raise anything
        raise TeacherError(
            f"teacher {source}: {reason(error)}; expected module:function, importable from here, "
            "that takes nothing and returns the teacher"
        ) from error


def members(teacher: CheckedTeacher) -> tuple[CheckedTeacher, ...]:
    """Return the members of an ensemble, each of which answers for all classes; () for another."""
    if not isinstance(teacher.inner, EnsembleTeacher):
        return ()
    return tuple(CheckedTeacher(member, teacher.form) for member in teacher.inner.members)


def fingerprint(teacher: Teacher) -> str:
    """Return a digest of what a teacher knows beyond what a few of its answers would show.

    That is the content of stored or out-of-fold soft targets; empty for a teacher that computes
    its answers.
    """
    match teacher:
        case CheckedTeacher():
            return fingerprint(teacher.inner)
        case StoredTeacher() | OutOfFoldTeacher():
            return teacher.fingerprint
        case EnsembleTeacher() | SubsetTeacher():
            return "".join(map(fingerprint, teacher.members))
        case ReducedTeacher():
            return fingerprint(teacher.inner) + teacher.reduction.fingerprint
        case _:
            return ""


def parts(teacher: Teacher, of: type[T]) -> Iterator[T]:
    """Yield what a teacher consists of, itself included, where that is of one type."""
    if isinstance(teacher, of):
        yield teacher
    match teacher:
        case CheckedTeacher() | ReducedTeacher():
            yield from parts(teacher.inner, of)
        case EnsembleTeacher() | SubsetTeacher():
            for member in teacher.members:
                yield from parts(member, of)
        case _:
            pass


def _from_object(source: object, form: Form) -> Teacher:
    if isinstance(source, nn.Module):
        return ModuleTeacher(source, _named_columns(source, form.class_names))
    if callable(getattr(source, "logits", None)):
        return source  # type: ignore[return-value]
    teacher = estimator_teacher(source, form)
    if teacher is None:
        raise TeacherError(
            f"teacher: its type is {type(source).__name__}; expected a torch module, an estimator "
            "with predict_proba, decision_function or predict, or the path of an ONNX file or of "
            "stored soft targets"
        )
    return teacher


def _ensemble(source: Ensemble, form: Form, trust_code: bool) -> EnsembleTeacher:
    members = tuple(as_teacher(member, form, trust_code) for member in source.members)
    return EnsembleTeacher(members, shares(source.weights, len(members)), form.kind)


def _subsets(source: ClassSubsets, form: Form, trust_code: bool) -> SubsetTeacher:
    if form.kind != "classification":
        raise TeacherError(
            f"teacher: ClassSubsets unites experts of single-label classes, but the task is of "
            f"kind {form.kind!r}; give an Ensemble of teachers that each answer for all of it"
        )
    known = places(source.experts, form.class_names)
    weights = shares(source.weights, len(known))
    members = tuple(as_teacher(e.source, e.class_names, trust_code) for e in source.experts)
    return SubsetTeacher(members, known, weights)


@dataclass(frozen=True)
class ModuleTeacher:
    """Teach with a torch module, which is left exactly as it was found.

    Inputs go in positionally, in the order of the dict; into a model of transformers by name, for
    there a mask in the place of the token ids would be taken without a word. The output is a
    tensor, or an object or dict that has one as `logits`. `columns` is the column of each class
    name, () for the order as it is. Token classifiers of transformers have their classes on the
    last axis; here they come second, as in torch.
    """

    module: nn.Module
    columns: tuple[int, ...] = ()

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the module's logits, computed in eval mode without gradient."""
        weight = next(self.module.parameters(), None)
        if weight is not None:
            inputs = {name: tensor.to(weight.device) for name, tensor in inputs.items()}
        with _evaluating(self.module), torch.no_grad(), named(inputs):
            if hasattr(self.module, "main_input_name"):
                output = self.module(**inputs)
            else:
                output = self.module(*inputs.values())
        if isinstance(output, Mapping):
            output = output.get("logits", output)
        found: Tensor = getattr(output, "logits", output)
        if isinstance(found, Tensor) and type(self.module).__name__.endswith(_OF_TOKENS):
            found = found.movedim(-1, 1)
        if self.columns and isinstance(found, Tensor):
            found = found[:, list(self.columns)]
        return found


def _from_file(path: Path, form: Form, trust_code: bool) -> Teacher:
    if path.suffix == ".onnx":
        return onnx_teacher(path, form.kind)
    if path.suffix in (".npz", ".parquet"):
        return stored_teacher(StoredTargets(path), form)
    if path.suffix not in (".pt", ".pth"):
        raise TeacherError(
            f"teacher {path}: expected the path of an .onnx file, or of soft targets in .npz or "
            ".parquet; for other formats return the loaded model itself"
        )
    if not trust_code:
        raise TeacherError(
            f"teacher {path}: a pickled module runs its author's code when opened; return the "
            "module with load_weights_(module, path), or pass --trust-code"
        )
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle may raise anything
        raise TeacherError(f"teacher {path}: cannot be opened: {reason(error)}") from error
    if not isinstance(module, nn.Module):
        raise TeacherError(
            f"teacher {path}: holds type {type(module).__name__}; expected a module; build the "
            "module and use load_weights_(module, path)"
        )
    return ModuleTeacher(module)


def _named_columns(module: nn.Module, class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the order of the classes that a model of transformers names in its configuration.

    Only where its `id2label` holds the very class names; its default is LABEL_0, LABEL_1, ...
    """
    known = getattr(getattr(module, "config", None), "id2label", None)
    labels = [str(known[key]) for key in sorted(known)] if isinstance(known, Mapping) else []
    if labels == list(class_names) or sorted(labels) != sorted(class_names):
        return ()
    return column_order(labels, class_names, f"{type(module).__name__} has")


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode and every part of it back as it was."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True
