"""Make a teacher of whatever the user has: one method, `logits`, behind every kind of model.

torch modules, scikit-learn and XGBoost style estimators and ONNX files differ in what they take
and give. Here they all take named tensors and give finite logits of shape (batch, classes), in
the order of the task's class names.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompress.errors import ModelError, TeacherError
from edgecompress.runtime import admit, main_output, session

# Keeps the logarithm of a probability of zero finite; far below what any loss can tell from zero.
SMALLEST_PROBABILITY = 1e-12


class Teacher(Protocol):
    """Answer a batch of named tensors with logits; the one thing a teacher must do."""

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits of shape (batch, classes) for tensors with a leading batch axis."""


@dataclass(frozen=True)
class CheckedTeacher:
    """Pass on what a teacher says if its shape is right and every number of it finite."""

    inner: Teacher
    classes: int

    def logits(self, inputs: Mapping[str, Tensor], first_sample: int = 0) -> Tensor:
        """Return checked float32 logits without gradient, on the inputs' device.

        `first_sample` is the number of the batch's first sample, for the message. Raises
        TeacherError, which names the sample.
        """
        batch = next(iter(inputs.values()))
        with torch.no_grad():
            answer = self.inner.logits(inputs)
        if not isinstance(answer, Tensor):
            raise TeacherError(
                f"teacher: returned type {type(answer).__name__}; expected a tensor of logits"
            )
        if (
            answer.ndim != 2
            or len(answer) != len(batch)
            or self.classes not in (0, answer.shape[1])
        ):
            raise TeacherError(
                f"teacher: returned shape {tuple(answer.shape)} for {len(batch)} samples; expected "
                f"({len(batch)}, {self.classes or 'classes'}), one logit for each class"
            )
        answer = answer.detach().to(batch.device, torch.float32)
        finite = torch.isfinite(answer).all(dim=1)
        if not bool(finite.all()):
            bad = int(torch.argmin(finite.int()))
            raise TeacherError(
                f"teacher: its logits for sample {first_sample + bad} are not finite; "
                "check that sample and the teacher's weights"
            )
        return answer


def predict_logits(
    teacher: CheckedTeacher, inputs: Mapping[str, NDArray[Any]], batch: int = 256
) -> NDArray[np.float32]:
    """Return the teacher's logits for all samples of named arrays, shape (samples, classes)."""
    samples = len(next(iter(inputs.values())))
    parts = [
        teacher.logits(
            {
                k: torch.from_numpy(np.ascontiguousarray(v[i : i + batch]))
                for k, v in inputs.items()
            },
            first_sample=i,
        )
        for i in range(0, samples, batch)
    ]
    result: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return result


def as_teacher(
    source: object, class_names: tuple[str, ...], trust_code: bool = False
) -> CheckedTeacher:
    """Return a teacher made of a module, an estimator, an ONNX file, or an object with `logits`.

    A pickled torch module (`.pt`, `.pth`) is opened only with `trust_code`, since opening it runs
    what its author wrote into it. Raises TeacherError for what cannot teach.
    """
    if isinstance(source, CheckedTeacher):
        return source
    if isinstance(source, str | Path):
        inner = _from_file(Path(source), trust_code)
    elif isinstance(source, nn.Module):
        inner = ModuleTeacher(source)
    elif callable(getattr(source, "logits", None)):
        return CheckedTeacher(source, len(class_names))  # type: ignore[arg-type]
    elif callable(getattr(source, "predict_proba", None)):
        inner = EstimatorTeacher(source, "predict_proba", _columns(source, class_names))
    elif callable(getattr(source, "decision_function", None)):
        inner = EstimatorTeacher(source, "decision_function", _columns(source, class_names))
    else:
        raise TeacherError(
            f"teacher: its type is {type(source).__name__}; expected a torch module, an estimator "
            "with predict_proba or decision_function, or the path of an ONNX file"
        )
    return CheckedTeacher(inner, len(class_names))


@dataclass(frozen=True)
class ModuleTeacher:
    """Teach with a torch module, which is left exactly as it was found.

    Inputs go in positionally, in the order of the dict. The output is a tensor, or an object or
    dict that has one as `logits` (as transformers' models give).
    """

    module: nn.Module

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the module's logits, computed in eval mode without gradient."""
        weight = next(self.module.parameters(), None)
        tensors = list(inputs.values())
        if weight is not None:
            tensors = [tensor.to(weight.device) for tensor in tensors]
        with _evaluating(self.module), torch.no_grad(), _named(inputs):
            output = self.module(*tensors)
        if isinstance(output, Mapping):
            output = output.get("logits", output)
        found: Tensor = getattr(output, "logits", output)
        return found


@dataclass(frozen=True)
class EstimatorTeacher:
    """Teach with a scikit-learn style estimator, which sees each sample as one flat row.

    Probabilities become log-probabilities, so that `softmax(logits) == predict_proba`; softmax
    over probabilities themselves would flatten a certain answer to almost nothing.
    """

    estimator: Any
    method: str
    columns: tuple[int, ...]

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return log-probabilities or decision values in the order of the class names."""
        rows = np.concatenate(
            [t.cpu().numpy().reshape(len(t), -1) for t in inputs.values()], axis=1
        )
        with _named(inputs), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            answer = np.asarray(getattr(self.estimator, self.method)(rows), dtype=np.float64)
        if self.method == "predict_proba":
            answer = _log(answer)
        elif answer.ndim == 1:  # the margin of the second of two classes
            answer = np.stack([np.zeros_like(answer), answer], axis=1)
        if self.columns and answer.shape[1:] == (len(self.columns),):
            answer = answer[:, self.columns]
        return torch.from_numpy(answer.astype(np.float32))


@dataclass(frozen=True)
class OnnxTeacher:
    """Teach with an ONNX file's first float output, through an open session.

    Many files end in a softmax: rows that are probabilities are taken at their logarithm.
    """

    path: Path
    session: Any
    names: tuple[str, ...]

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the model's logits; a fixed batch dimension is fed in steps of its size."""
        if set(inputs) != set(self.names):
            raise TeacherError(
                f"teacher {self.path}: takes the inputs {', '.join(self.names)}; the task has "
                f"{', '.join(inputs)}; give them the same names"
            )
        arrays = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
        samples = len(next(iter(arrays.values())))
        fixed = self.session.get_inputs()[0].shape[:1]
        step = fixed[0] if fixed and isinstance(fixed[0], int) else samples
        output = [main_output(self.session).name]
        with _named(inputs, str(self.path)):
            parts = [
                self.session.run(output, {k: v[i : i + step] for k, v in arrays.items()})[0]
                for i in range(0, samples, step)
            ]
        answer = np.concatenate(parts)
        return torch.from_numpy(_log(answer) if _are_probabilities(answer) else answer)


def _log(probabilities: NDArray[Any]) -> NDArray[Any]:
    logs: NDArray[Any] = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, None))
    return logs


def _are_probabilities(answer: NDArray[Any]) -> bool:
    """Return whether every row sums to one, as far as an int8 softmax keeps to it."""
    if answer.ndim != 2 or answer.dtype.kind != "f" or (answer < 0).any():
        return False
    return bool((np.abs(answer.sum(axis=1) - 1) < 0.02).all())


def _from_file(path: Path, trust_code: bool) -> Teacher:
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if path.suffix not in (".pt", ".pth"):
        raise TeacherError(
            f"teacher {path}: expected the path of an .onnx file; for other formats return the "
            "loaded model itself"
        )
    if not trust_code:
        raise TeacherError(
            f"teacher {path}: a pickled module runs its author's code when opened; return the "
            "module with load_weights_(module, path), or pass --trust-code"
        )
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle may raise anything
        raise TeacherError(f"teacher {path}: cannot be opened: {_reason(error)}") from error
    if not isinstance(module, nn.Module):
        raise TeacherError(
            f"teacher {path}: holds type {type(module).__name__}; expected a module; build the "
            "module and use load_weights_(module, path)"
        )
    return ModuleTeacher(module)


def _from_onnx(path: Path) -> Teacher:
    try:
        facts = admit(path)
        opened = session(path)
    except ModelError as error:
        raise TeacherError(f"teacher {error}") from error
    return OnnxTeacher(path, opened, tuple(tensor.name for tensor in facts.inputs))


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


@contextlib.contextmanager
def _named(inputs: Mapping[str, Tensor], teacher: str = "") -> Iterator[None]:
    """Turn what a foreign model raises into one line that names the inputs it was given."""
    try:
        yield
    except TeacherError:
        raise
    except Exception as error:  # foreign code: each library has exceptions of its own
        given = ", ".join(
            f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            for name, t in inputs.items()
        )
        raise TeacherError(
            f"teacher{' ' + teacher if teacher else ''}: failed on {given}: {_reason(error)}"
        ) from error


def _columns(estimator: object, class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the estimator's column for each class name, in their order; () for the given order.

    Whole numbers in `classes_` are indices of the class names; anything else is matched by name.
    """
    known = getattr(estimator, "classes_", None)
    if known is None or not class_names:
        return ()
    keys = [_class_key(c) for c in np.asarray(known).tolist()]
    for wanted in (list(range(len(class_names))), list(class_names)):
        if set(keys) == set(wanted):
            return tuple(keys.index(key) for key in wanted)
    raise TeacherError(
        f"teacher: {type(estimator).__name__} was fitted on {len(keys)} classes "
        f"({_listed(keys)}); expected the {len(class_names)} class names ({_listed(class_names)}) "
        f"or their indices 0..{len(class_names) - 1}"
    )


def _class_key(value: object) -> object:
    """Return 1 for 1, 1.0 and True, and text for everything that is no whole number."""
    if isinstance(value, bool | int | float) and float(value).is_integer():
        return int(value)
    return str(value)


def _listed(values: Any) -> str:
    return ", ".join(map(str, list(values)[:4])) + (", ..." if len(values) > 4 else "")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"
