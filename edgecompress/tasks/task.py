"""The task: plain Python data that says what is learned, by whom, and how well it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.records import Kind
from edgecompress.tasks.tokenizers import Tokenizer

if TYPE_CHECKING:  # torch is needed to train a task, not to describe one
    import torch

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Split:
    """Hold samples as named arrays (first axis = sample) and their labels.

    `labels` is None only for an unlabelled pool; their shape is that of the task's kind. `files`
    are the data files that the arrays were read from: a loader fills them in, so that a run can
    tell changed data by the files' digests.
    """

    inputs: Arrays
    labels: NDArray[Any] | None = None
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: NDArray[np.intp] | slice) -> Split:
        """Return the split reduced to `rows`, an index array or slice over samples."""
        labels = None if self.labels is None else self.labels[rows]
        return Split({k: v[rows] for k, v in self.inputs.items()}, labels, self.files)


@dataclass(frozen=True)
class Metric:
    """Name a score and how each sample earns it; the mean over samples is the score.

    `per_sample(outputs, labels)` takes arrays with a leading sample axis and returns one float a
    sample, higher is better unless `higher_is_better` is False.
    """

    name: str
    per_sample: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
    higher_is_better: bool = True


def _correct(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.argmax(outputs, axis=-1) == labels, dtype=np.float64)


ACCURACY = Metric("accuracy", _correct)
"""The metric of tasks with classes; `tasks.scores` holds those of the other kinds."""

IGNORED = -100
"""The label of a token or pixel that counts nowhere, as in torch and transformers."""


@dataclass(frozen=True)
class Normalization:
    """Say how raw sensor values became the model's inputs: `(raw * scale - mean) / std`."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Task:
    """Hold everything that a compression needs to know about a user's problem.

    `kind` says what a label is, and with it what a network returns for a batch:

    - `classification`: class indices (batch,); logits (batch, classes).
    - `binary`: 0 or 1 (batch,); one logit, that of 1 (batch, 1).
    - `multilabel`: 0 or 1 for each label (batch, labels); one logit for each (batch, labels).
    - `regression`: numbers (batch,) or (batch, values); the same (batch, values).
    - `embedding`: vectors to come near to, as another model gave them (batch, width); the same.
    - `tokens`: class indices (batch, ...), -100 where none counts; logits (batch, classes, ...),
      as torch's cross-entropy has them.

    `teacher` returns the big model: a `torch.nn.Module` (a module already trained, unless the
    recipe has a `[teacher]` section, which trains it), a scikit-learn style estimator, or the path
    of an ONNX file. `student` returns a fresh, untrained `torch.nn.Module`; it may be left out
    where `[distill] student` names another or leaves it to the budget. Both take the inputs
    positionally, in the order of the dict, and return logits of shape (batch, classes).

    `augment(batch, generator)` returns a new batch of torch tensors of the same names; teacher
    and student see the same view. All random draws must come from `generator`.

    `tokenizer` made the input of its name out of texts; the bundle carries it, so that an app
    starts from a text too. `intended_use` says in plain words what the model is for, for whom, and
    what it must not be used for: the model card repeats it.

    `lengths` names inputs (samples, length, ...) that may be shorter than the data's, such as token
    ids beside their mask: the exported file takes them at any length, where the network does.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    teacher: Callable[[], Any]
    student: Callable[[], torch.nn.Module] | None = None
    class_names: tuple[str, ...] = ()
    metric: Metric = ACCURACY
    unlabelled: Split | None = None
    augment: (
        Callable[[dict[str, torch.Tensor], torch.Generator], dict[str, torch.Tensor]] | None
    ) = None
    normalization: Mapping[str, Normalization] = field(default_factory=dict)
    kind: Kind = "classification"
    tokenizer: Tokenizer | None = None
    lengths: tuple[str, ...] = ()
    intended_use: str = ""

    @property
    def free_lengths(self) -> tuple[str, ...]:
        """Return the inputs whose second axis is a length: what a tokenizer makes, and as said."""
        made = (self.tokenizer.name,) if self.tokenizer is not None else ()
        return tuple(dict.fromkeys((*made, *self.lengths)))

    def example_inputs(self, batch: int = 1) -> dict[str, NDArray[Any]]:
        """Return the first `batch` training samples as a dict of named arrays."""
        return {name: np.ascontiguousarray(a[:batch]) for name, a in self.train.inputs.items()}
