"""Hear what layers inside student and teacher answer, and bring the student to the teacher's width.

Hooks stand for one forward pass each, so nothing is left behind in a network that is exported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.distilling.features import attention_loss, hint_loss, relational_loss
from edgecompress.distilling.soft_targets import teacher_device
from edgecompress.distilling.views import mixed_seed
from edgecompress.errors import RecipeError
from edgecompress.recipe import FeatureSettings
from edgecompress.settings import did_you_mean
from edgecompress.teachers.adapters import CheckedTeacher, ModuleTeacher

Shape = tuple[int, ...]
FIELD = "distill.features.layers"
PROBE_SAMPLES = 2


@dataclass(frozen=True)
class Answer:
    """Hold what a network says of a batch: its logits, and what its named layers answered."""

    logits: Tensor
    features: tuple[Tensor, ...] = ()


class Pupil(nn.Module):
    """Run the student and give its named layers' features beside its output, projected.

    Only the student ships: the projections learn beside it and stay behind.
    """

    def __init__(self, student: nn.Module, paths: Sequence[str], projections: nn.ModuleList):
        super().__init__()
        self.student, self.projections, self.paths = student, projections, tuple(paths)

    def forward(self, *inputs: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        """Return the student's output and one feature for each path."""
        with listening(self.student, "student", self.paths) as heard:
            output = self.student(*inputs)
        pairs = zip(self.projections, self.paths, strict=True)
        return output, tuple(project(heard[path]) for project, path in pairs)


@dataclass(frozen=True)
class Hints:
    """Teach layers inside the student. The teacher is a torch module, asked anew at each step."""

    teacher: CheckedTeacher
    settings: FeatureSettings
    seed: int = 0
    autocast: bool = False

    def ask(self, inputs: Mapping[str, Tensor]) -> Answer:
        """Return the teacher's logits and features for a batch."""
        paths = [theirs for _, theirs in self.settings.layers]
        with (
            listening(_module(self.teacher), "teacher", paths) as heard,
            torch.autocast(teacher_device(self.teacher), torch.bfloat16, enabled=self.autocast),
        ):
            logits = self.teacher.logits(inputs)
        return Answer(logits, tuple(heard[path].detach() for path in paths))

    def pupil(self, student: nn.Module, inputs: Mapping[str, Tensor]) -> Pupil:
        """Return the student with a projection for each pair whose shapes differ.

        `inputs` are a few samples that show the shapes. The projections' first weights come from
        the seed alone. Raises RecipeError for a path that is not there, and for layers that
        cannot be compared.
        """
        few = {name: tensor[:PROBE_SAMPLES] for name, tensor in inputs.items()}
        paths = [ours for ours, _ in self.settings.layers]
        device = next(student.parameters()).device
        was_training = student.training
        student.eval()
        with listening(student, "student", paths) as heard, torch.no_grad():
            student(*(tensor.to(device) for tensor in few.values()))
        student.train(was_training)
        projections = nn.ModuleList()
        for index, (path, theirs) in enumerate(zip(paths, self.ask(few).features, strict=True)):
            pair = " and ".join(self.settings.layers[index])
            shapes = tuple(heard[path].shape[1:]), tuple(theirs.shape[1:])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mixed_seed(self.seed, index))
                projections.append(projection(self.settings, pair, *shapes))
        return Pupil(student, paths, projections)

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the feature losses of all pairs."""
        match self.settings.loss:
            case "hint":
                compare = hint_loss
            case "attention":
                compare = attention_loss
            case "relational":
                compare = relational_loss
        losses = [
            compare(ours, theirs.to(ours.device))
            for ours, theirs in zip(student, teacher, strict=True)
        ]
        return self.settings.factor * torch.stack(losses).sum()


def require_torch(teacher: CheckedTeacher) -> None:
    """Raise RecipeError unless the teacher has layers to listen to."""
    if not isinstance(teacher.inner, ModuleTeacher):
        raise RecipeError(
            f"recipe: [distill.features] listens to layers inside a torch teacher, but this one is "
            f"{type(teacher.inner).__name__}, which gives logits alone; remove the section"
        )


@contextlib.contextmanager
def listening(module: nn.Module, whose: str, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with what the modules at `paths` answer to the forward pass in the block.

    Raises RecipeError for a path that is not there, or that the pass did not come by.
    """
    modules = dict(module.named_modules())
    heard: dict[str, Tensor] = {}

    def hear(path: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor) or first.ndim < 2:
            raise RecipeError(
                f"recipe: {FIELD}: the {whose}'s module '{path}' answers with "
                f"{type(output).__name__}; expected a tensor (batch, ...); name another module"
            )
        heard[path] = first.clone()  # a following in-place activation must not change it

    with contextlib.ExitStack() as hooks:
        for path in paths:
            if path not in modules:
                parts = ", ".join(name for name, _ in module.named_children())
                near = did_you_mean(path, modules) or f"; its parts are {parts}"
                raise RecipeError(f"recipe: {FIELD}: the {whose} has no module '{path}'{near}")
            handle = modules[path].register_forward_hook(
                lambda _, inputs, output, path=path: hear(path, output)
            )
            hooks.callback(handle.remove)
        yield heard
    if missed := [path for path in paths if path not in heard]:
        raise RecipeError(
            f"recipe: {FIELD}: the {whose}'s module '{missed[0]}' takes no part in its forward "
            "pass; name one that does"
        )


def projection(settings: FeatureSettings, pair: str, student: Shape, teacher: Shape) -> nn.Module:
    """Return what brings the student's features to the teacher's width: shapes without batch axis.

    Nothing for equal widths, and for losses that compare any two; a linear layer for vectors and
    tokens; a convolution of size 1 for maps, whose sizes the loss makes one.

    >>> hint = FeatureSettings(layers=(("a", "b"),))
    >>> projection(hint, "a and b", (8, 4, 4), (16, 2, 2))
    Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))
    >>> projection(hint, "a and b", (10, 32), (10, 64))
    Linear(in_features=32, out_features=64, bias=True)
    """
    match settings.loss, student, teacher:
        case "relational", _, _:
            return nn.Identity()
        case "attention", (_, *ours), (_, *theirs) if 0 < len(ours) == len(theirs) < 3:
            return nn.Identity()
        case "hint", ours, theirs if ours == theirs:
            return nn.Identity()
        case "hint", (width,), (wanted,):
            return nn.Linear(width, wanted)
        case "hint", (tokens, width), (others, wanted) if tokens == others:
            return nn.Linear(width, wanted)
        case "hint", (width, length), (wanted, other) if length == other:
            return nn.Conv1d(width, wanted, 1)
        case "hint", (width, _, _), (wanted, _, _):
            return nn.Identity() if width == wanted else nn.Conv2d(width, wanted, 1)
    needs = "maps (channels, ...) of both" if settings.loss == "attention" else "features of a kind"
    raise RecipeError(
        f"recipe: {FIELD}: {pair} answer with shapes {student} and {teacher} a sample, which "
        f'loss = "{settings.loss}" cannot compare; expected {needs}; pair other layers'
    )


def _module(teacher: CheckedTeacher) -> nn.Module:
    require_torch(teacher)
    assert isinstance(teacher.inner, ModuleTeacher)
    return teacher.inner.module
