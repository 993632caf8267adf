"""Teach with an ONNX file, which a limited child admits before it is opened here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.errors import ModelError, TeacherError
from edgecompress.graphs import answering_operator
from edgecompress.records import Kind
from edgecompress.runtime import admit, main_output, session
from edgecompress.teachers.protocol import (
    are_probabilities,
    are_shares,
    log_odds,
    log_probabilities,
    named,
)

# What ends a network in plain numbers. Any other end is judged by the rows it gives.
_PLAIN = ("Add", "BatchNormalization", "Conv", "Gemm", "Log", "LogSoftmax", "MatMul", "Sub")


@dataclass(frozen=True)
class OnnxTeacher:
    """Teach with an ONNX file's first float output, through an open session.

    Many files end in a softmax: their answer is taken at its logarithm; in a sigmoid, where labels
    stand side by side: it is taken at its log-odds. `ending` is the operator that computes the
    answer; it decides where it can, for a single row of logits may sum to one by chance. Numbers
    are never probabilities.
    """

    path: Path
    session: Any
    names: tuple[str, ...]
    ending: str = ""
    kind: Kind = "classification"

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
        with named(inputs, str(self.path)):
            parts = [
                self.session.run(output, {k: v[i : i + step] for k, v in arrays.items()})[0]
                for i in range(0, samples, step)
            ]
        return torch.from_numpy(self._unsquashed(np.concatenate(parts)))

    def _unsquashed(self, answer: NDArray[Any]) -> NDArray[Any]:
        """Return probabilities as logits, and everything else as it is."""
        if self.ending in _PLAIN or self.kind in ("regression", "embedding"):
            return answer
        if self.kind == "tokens" and answer.ndim > 2:
            return log_probabilities(answer) if self.ending == "Softmax" else answer
        if self.kind == "multilabel" or (self.kind == "binary" and answer.shape[1:] in ((), (1,))):
            return log_odds(answer) if are_shares(answer) else answer
        return log_probabilities(answer) if are_probabilities(answer) else answer


def onnx_teacher(path: Path, kind: Kind = "classification") -> OnnxTeacher:
    """Return a teacher made of the ONNX file at `path`; raise TeacherError if it is none."""
    try:
        facts = admit(path)
        opened = session(path)
    except ModelError as error:
        raise TeacherError(f"teacher {error}") from error
    names = tuple(tensor.name for tensor in facts.inputs)
    ending = answering_operator(path, main_output(opened).name)
    return OnnxTeacher(path, opened, names, ending, kind)
