"""What a recipe may ask of which kind of task: settled, or refused, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from edgecompress.errors import RecipeError
from edgecompress.lessons import DistillSettings, RedistillSettings, TrainSettings
from edgecompress.recipe import Recipe
from edgecompress.records import Kind
from edgecompress.tasks.scores import SQUARED_ERROR
from edgecompress.tasks.task import Task

_OF_LABELS = ("kd", "multi", "mse")
SOFT_LOSSES: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("kd", "dkd", "dist", "standardized", "mse", "multi"),
    "binary": _OF_LABELS,
    "multilabel": _OF_LABELS,
    "regression": ("mse",),
    "embedding": ("cosine", "mse"),
    "tokens": ("kd", "standardized", "mse", "multi"),
}
"""The soft losses of each kind; of `loss = "auto"` the first, mse where the metric is squared.

`dkd` and `dist` are not for tokens: their papers know one label a sample, and correlations over a
batch would join tokens of different samples.
"""

NUMBERS: tuple[Kind, ...] = ("regression", "embedding")
"""Kinds without classes: nothing to smooth, to soften or to be certain of."""

S = TypeVar("S", bound=TrainSettings)


def settled_recipe(task: Task, recipe: Recipe) -> Recipe:
    """Return the recipe with what it leaves to the task's kind settled; raise RecipeError."""
    if recipe.export.softmax and task.kind not in ("classification", "tokens"):
        raise RecipeError(
            f"recipe: export.softmax: kind {task.kind!r} has no classes that share one certainty; "
            f"remove it{_SIGMOID if task.kind in ('binary', 'multilabel') else ''}"
        )
    if recipe.export.temperature != 1.0 and task.kind in NUMBERS:
        raise RecipeError(
            f"recipe: export.temperature: kind {task.kind!r} answers with numbers, not logits; "
            "remove it"
        )
    sections = {
        name: settled(task, given, name)
        for name, given in (
            ("teacher", recipe.teacher),
            ("distill", recipe.distill),
            ("redistill", recipe.redistill),
        )
        if given is not None
    }
    return recipe.model_copy(update=sections)


_SIGMOID = ", and let the app take 1 / (1 + exp(-logit))"


def settled(task: Task, settings: S, section: str = "distill") -> S:
    """Return the settings of one training with `loss = "auto"` settled by the task's kind.

    Raises RecipeError, which names the section, for what networks of this kind do not read.
    """
    where, kind = f"recipe: {section}", task.kind
    if kind in NUMBERS and settings.label_smoothing:
        raise RecipeError(
            f"{where}.label_smoothing: given {settings.label_smoothing:g}, but kind {kind!r} has "
            "no classes to spread a label over; remove it"
        )
    if not isinstance(settings, DistillSettings):
        return settings
    _require_narrowing(where, task, settings)
    if kind in NUMBERS:
        _refuse_certainty(where, kind, settings)
    _require_the_teacher(where, kind, settings)
    _require_room(where, kind, settings)
    known = SOFT_LOSSES[kind]
    if settings.loss == "auto":
        squared = kind == "embedding" and task.metric is SQUARED_ERROR
        return settings.model_copy(update={"loss": "mse" if squared else known[0]})
    if settings.loss not in known:
        raise RecipeError(
            f'{where}.loss: "{settings.loss}" is not for kind {kind!r}, which has '
            f'{", ".join(known)}; take loss = "{known[0]}", or leave it out'
        )
    return settings


def _refuse_certainty(where: str, kind: Kind, settings: DistillSettings) -> None:
    if settings.calibrate_teacher is True:
        raise RecipeError(
            f"{where}.calibrate_teacher: kind {kind!r} answers with numbers, which have no "
            "certainty to calibrate; remove it"
        )
    if settings.loss == "auto" and settings.temperature != DistillSettings().temperature:
        raise RecipeError(
            f"{where}.temperature: kind {kind!r} answers with numbers, which no softmax softens; "
            "remove it"
        )


def _require_the_teacher(where: str, kind: Kind, settings: DistillSettings) -> None:
    """Leave embeddings to the teacher: the unpruned student's may have another width."""
    if kind != "embedding" or not isinstance(settings, RedistillSettings):
        return
    if settings.teachers != "teacher":
        raise RecipeError(
            f'{where}.teachers: given "{settings.teachers}", but kind {kind!r} learns the '
            "teacher's own vectors; remove it"
        )


def _require_room(where: str, kind: Kind, settings: DistillSettings) -> None:
    """Refuse ways to keep soft targets that were made for classes."""
    form = settings.soft_targets
    if form.startswith("top-") and kind != "classification":
        half = "" if kind == "regression" else ' or "fp16"'
        raise RecipeError(
            f'{where}.soft_targets: given "{form}", which keeps the likeliest of one sample\'s '
            f'classes; for kind {kind!r} take "fp32"{half}'
        )
    if form == "fp16" and kind == "regression":
        raise RecipeError(
            f'{where}.soft_targets: given "fp16", which ends at 65504, and numbers may be of any '
            'size; take "fp32"'
        )


def _require_narrowing(where: str, task: Task, settings: DistillSettings) -> None:
    if settings.narrow_by == "pca" and task.kind != "embedding":
        raise RecipeError(
            f"{where}.narrow_by: given \"pca\", which is for kind 'embedding', but the task's kind "
            f"is {task.kind!r}; remove it"
        )
