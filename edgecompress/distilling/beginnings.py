"""How a student begins: with its own weights, with ones drawn from a seed, or born again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from edgecompress.distilling.checkpoint import require_numbers
from edgecompress.distilling.scoring import forward
from edgecompress.distilling.views import mixed_seed
from edgecompress.errors import EdgecompressError, RecipeError, TaskError, TrainingError
from edgecompress.tasks.checks import check_network
from edgecompress.tasks.skill import out_of_reach
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import CheckedTeacher, ModuleTeacher
from edgecompress.teachers.protocol import reason

Student = nn.Module | Callable[[], nn.Module]
"""A module, with whose weights every training begins, or a function that draws fresh ones."""

PROBE_SAMPLES = 8
_RESETS = ("reset_parameters", "_reset_parameters")


def begun(student: Student, seed: int, peer: int = 0) -> nn.Module:
    """Return a student to be trained: a copy of a module, or what the function makes of a seed.

    `peer` numbers students of one seed that must differ. Raises TaskError where the function
    makes anything but a module, TrainingError for weights that are not there yet.
    """
    if isinstance(student, nn.Module):
        require_numbers(student)
        return copy.deepcopy(student)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(seed, 2, *([peer] if peer else [])))
        made: object = student()
    if not isinstance(made, nn.Module):
        raise TaskError(
            f"task: student() returned {type(made).__name__}; expected a torch.nn.Module"
        )
    require_numbers(made)
    return made


def check_answers(task: Task, student: nn.Module) -> str:
    """Check what an untrained student answers to a few samples; return a warning, or nothing.

    Raises TaskError for a student that fails on them, or answers in another form than the task's.
    """
    inputs = task.validation.take(slice(0, PROBE_SAMPLES)).inputs
    try:
        outputs = forward(student, inputs)
    except EdgecompressError:
        raise
    except Exception as error:  # the user's code may raise anything
        shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
        raise TaskError(
            f"task {task.name!r}, student: {type(student).__name__} fails on {shapes}: "
            f"{reason(error)}"
        ) from error
    check_network(task, "student", outputs.shape, len(outputs))
    return out_of_reach(task, outputs)


def born_again(teacher: CheckedTeacher) -> Callable[[], nn.Module]:
    """Return a function that makes fresh students of the teacher's own architecture.

    (Furlanello et al. 2018, "Born Again Neural Networks".) Raises RecipeError for a teacher that
    is no torch module.
    """
    inner = teacher.inner
    if not isinstance(inner, ModuleTeacher):
        raise RecipeError(
            f'recipe: distill.student = "teacher" makes a network like the teacher, but this one '
            f"is {type(inner).__name__}, no torch module; remove the key"
        )
    return lambda: afresh(inner.module)


def afresh(network: nn.Module) -> nn.Module:
    """Return a copy whose weights are drawn anew, each part's in its own way; all may learn.

    Raises TrainingError for a part with weights of its own that does not say how they are drawn:
    they would be the old network's.
    """
    fresh = copy.deepcopy(network)
    # The inner parts first, so that what encloses them has the last word, as when it was made.
    for name, part in reversed(list(fresh.named_modules())):
        reset = next((r for r in (getattr(part, n, None) for n in _RESETS) if callable(r)), None)
        if reset is not None:
            reset()
        elif any(True for _ in part.parameters(recurse=False)):
            raise TrainingError(
                f'distill.student: "teacher" needs fresh weights, but its module '
                f"'{name or type(part).__name__}' has weights of its own and no "
                "reset_parameters(); add that method, or return such a network from the task's "
                "student()"
            )
    return fresh.requires_grad_(True)
