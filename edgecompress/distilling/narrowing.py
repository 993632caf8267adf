"""Teach a student whose vectors are narrower than those it learns from.

Either behind a projection to the teacher's width, which learns beside the student and stays behind
when it ships (as hints have them: Romero et al. 2015, "FitNets"); or from vectors that are reduced
to the student's width before anything is trained, so that labels, teacher and score are narrow too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.distilling.views import mixed_seed
from edgecompress.errors import RecipeError
from edgecompress.tasks.targets import labels_of
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import CheckedTeacher
from edgecompress.teachers.forms import Form
from edgecompress.teachers.reduced import ReducedTeacher, Reduction, fit_reduction


class Widened(nn.Module):
    """Run a student and project its vectors to the labels' width; what else it gives passes by."""

    def __init__(self, student: nn.Module, width: int, wide: int) -> None:
        super().__init__()
        self.student, self.projection = student, nn.Linear(width, wide)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the projected vectors, and a pupil's features beside them."""
        output = self.student(*inputs)
        if isinstance(output, tuple):
            return self.projection(_vectors(output[0])), *output[1:]
        return self.projection(_vectors(output))


def widened(student: nn.Module, wide: int, inputs: Mapping[str, Tensor], seed: int) -> nn.Module:
    """Return the student behind a projection to `wide` values; as it is where it has so many.

    `inputs` are a few samples that show its width. The first weights come from the seed alone.
    """
    device = next(student.parameters()).device
    was_training = student.training
    student.eval()
    with torch.no_grad():
        output = student(*(tensor.to(device) for tensor in inputs.values()))
    student.train(was_training)
    width = _vectors(output[0] if isinstance(output, tuple) else output).shape[-1]
    if width == wide:
        return student
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(seed, wide))
        return Widened(student, width, wide).to(device)


def reduced(task: Task, teacher: CheckedTeacher, width: int) -> tuple[Task, CheckedTeacher]:
    """Return an embedding task and its teacher with vectors reduced to `width` values by PCA.

    It is fitted on the labels of the training split. Raises RecipeError where there is nothing to
    reduce.
    """
    wide = labels_of(task.train).shape[1]
    if not width < wide:
        raise RecipeError(
            f'recipe: distill.narrow_by = "pca" reduces vectors to the student\'s width, but its '
            f"{width} values are no fewer than the labels' {wide}; remove the key"
        )
    found = fit_reduction(labels_of(task.train), width)
    task = replace(
        task,
        train=_reduced(found, task.train),
        validation=_reduced(found, task.validation),
        test=_reduced(found, task.test),
    )
    narrow = CheckedTeacher(ReducedTeacher(teacher, found), Form("embedding", (), (width,)))
    return task, narrow


def _reduced(reduction: Reduction, split: Split) -> Split:
    return replace(split, labels=reduction.of(labels_of(split)))


def _vectors(output: Any) -> Tensor:
    found: Tensor = getattr(output, "logits", output)
    return found
