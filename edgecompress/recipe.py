"""The recipe: what the user asks for, read from TOML and checked once at the door.

Each section is the settings value of one stage. A section that is absent is a stage that does not
run; `[export]` always does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from edgecompress.errors import RecipeError
from edgecompress.exports import ExportSettings as ExportSettings
from edgecompress.lessons import DistillSettings as DistillSettings
from edgecompress.lessons import FeatureSettings as FeatureSettings
from edgecompress.lessons import RedistillSettings as RedistillSettings
from edgecompress.lessons import Seed
from edgecompress.lessons import TrainSettings as TrainSettings
from edgecompress.quantization import QuantizeSettings as QuantizeSettings
from edgecompress.settings import (
    Count,
    Document,
    NotNegative,
    Positive,
    Settings,
    did_you_mean,
    editor_schema,
    near_file,
    parse,
    read_toml,
)

BUILT_IN_TASK = "digits"
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


TARGETS = ("latency_ms.p50", "size_bytes", "macs")


class PruneSettings(Settings):
    """Say how much goes, and what."""

    target: float | str | dict[str, float] | None = Field(
        default=None,
        description="What the exported model shall cost, in place of a ratio: a share of the "
        'unpruned p50, {"latency_ms.p50" = MS}, {size_bytes = N}, {macs = N} (below 1: a share), '
        'or "budget": what the profile allows.',
    )

    kind: Literal["structured", "unstructured"] = Field(
        default="structured",
        description="Remove channels; or set single weights to 0: a smaller download, no faster.",
    )
    pruning_ratio: Share = Field(
        default=0.3, description="Share of the channels (unstructured: weights) that are removed."
    )
    head_ratio: Share = Field(
        default=0.0, description="Share of the attention heads that are removed."
    )
    block_ratio: Share = Field(
        default=0.0, description="Share of the residual blocks that are dropped whole."
    )
    importance: Literal[
        "l1", "l2", "group", "lamp", "fpgm", "bn_scale", "taylor", "hessian", "random"
    ] = Field(default="group", description="What tells an important channel.")
    scope: Literal["global", "isomorphic", "local"] = Field(
        default="local",
        description="Who competes: all channels, those of layers of one build, or of one layer.",
    )
    round_to: Count = Field(
        default=8, description="Channels that remain in a layer are a multiple of this."
    )
    steps: Count = Field(
        default=1,
        description="In how many steps the channels go; they are ranked anew before each.",
    )
    recover_epochs: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Epochs of training between two steps, as [redistill] trains."
    )
    schedule: Literal["linear", "cubic"] = Field(
        default="linear", description="Equal steps, or cubic: most goes in the first ones."
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="Names of modules that keep all their channels."
    )
    penalty: Literal["none", "group_lasso", "bn_scale", "growing"] = Field(
        default="none",
        description="What pushes channels towards 0 in the training before pruning.",
    )
    penalty_strength: Positive = Field(
        default=1e-4, description="Factor of the penalty on channels."
    )

    @field_validator("target", mode="before")
    @classmethod
    def _is_a_target(cls, target: object) -> object:
        """Return the target: None, "budget", a share, or one figure with its limit."""
        match target:
            case None | "budget":
                return target
            case bool():
                pass
            case int() | float() if 0 < target < 1:
                return float(target)
            case dict() if len(target) == 1:
                ((figure, limit),) = target.items()
                if figure in TARGETS and isinstance(limit, int | float) and 0 < limit < inf:
                    return {figure: float(limit)}
        raise ValueError(
            f'given {target!r}, expected a share above 0 and below 1, "budget", or one of '
            f'{", ".join(TARGETS)} with its limit, such as {{"latency_ms.p50" = 2.0}}'
        )

    @model_validator(mode="after")
    def _leaves_widths_to_the_target(self) -> PruneSettings:
        widths = ("kind", "pruning_ratio", "head_ratio", "block_ratio", "scope", "round_to")
        also = [
            name
            for name in (*widths, "steps", "schedule", "recover_epochs")
            if name in self.model_fields_set
        ]
        if self.target is not None and also:
            raise ValueError(
                f"target finds the width of every layer by itself, and {also[0]} is given too; "
                "remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _recovers_between_steps(self) -> PruneSettings:
        if self.recover_epochs and self.steps == 1:
            raise ValueError(
                f"recover_epochs = {self.recover_epochs} trains between two steps, and steps = 1; "
                "give steps = 2 or more, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _asks_for_something_possible(self) -> PruneSettings:
        if not (self.pruning_ratio or self.head_ratio or self.block_ratio):
            raise ValueError(
                "pruning_ratio, head_ratio and block_ratio are all 0: nothing would go; "
                "raise one of them"
            )
        if self.kind == "unstructured":
            channels = {"head_ratio", "block_ratio", "importance", "round_to", "penalty"}
            if meant := sorted(channels & self.model_fields_set):
                raise ValueError(
                    f'kind = "unstructured" sets the smallest single weights to 0; {meant[0]} is '
                    "about channels; remove it"
                )
            if self.scope == "isomorphic" or not self.pruning_ratio:
                raise ValueError(
                    f'kind = "unstructured" with scope = "{self.scope}" and pruning_ratio = '
                    f"{self.pruning_ratio:g}, expected scope global or local and a ratio above 0"
                )
        return self


class MeasureSettings(Settings):
    """Say how carefully the host is measured."""

    processes: tuple[Count, ...] = Field(
        default=(5, 10, 20),
        min_length=1,
        description="Numbers of fresh processes after which the judge looks, rising.",
    )
    seconds_per_process: Positive = Field(
        default=0.5, description="Seconds that each process measures."
    )
    screening_processes: Count = Field(
        default=3, description="Processes of the quick look that picks the finalists."
    )
    batch: Count = Field(default=1, description="Samples in each measured call.")

    @field_validator("processes")
    @classmethod
    def _rises(cls, processes: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in pairwise(processes)):
            raise ValueError(f"given {list(processes)}, expected numbers that rise")
        return processes


class AcceptSettings(Settings):
    """Say how much of the teacher's score may be lost, and how far processors may disagree."""

    max_drop: NotNegative = Field(
        description="Largest loss against the teacher, absolute, in the metric's own unit."
    )
    max_isa_spread: NotNegative | None = Field(
        default=None,
        description="Largest difference between the scores of the shipped file on the processors "
        "of the profile's fleet, absolute, in the metric's own unit.",
    )
    isa_samples: Count = Field(
        default=1000,
        description="Test samples, evenly spaced, on which max_isa_spread is judged.",
    )


class Recipe(Settings):
    """Hold a whole recipe."""

    task: str = Field(
        default=BUILT_IN_TASK,
        description="The user's task as file.py:function, relative to the recipe; or digits.",
    )
    data: Path | None = Field(
        default=None, description="A file or folder handed to the task, relative to the recipe."
    )
    seed: Seed = Field(default=0, description="Seed of every random draw.")
    teacher: TrainSettings | None = Field(
        default=None, description="Train the teacher; leave out for one already trained."
    )
    distill: DistillSettings | None = Field(
        default=None, description="Teach the student the teacher's soft targets."
    )
    prune: PruneSettings | None = Field(
        default=None, description="Remove the least important channels."
    )
    redistill: RedistillSettings | None = Field(
        default=None, description="Distill again after pruning."
    )
    export: ExportSettings = Field(default=ExportSettings(), description="Write the ONNX file.")
    quantize: QuantizeSettings | None = Field(
        default=None, description="Make int8 candidates beside the float model."
    )
    measure: MeasureSettings | None = Field(
        default=MeasureSettings(), description="Measure the candidates on this host."
    )
    accept: AcceptSettings | None = Field(
        default=None, description="Judge the loss of accuracy against the teacher."
    )

    @field_validator("task")
    @classmethod
    def _names_a_function(cls, task: str) -> str:
        file, _, function = task.rpartition(":")
        if task != BUILT_IN_TASK and not (file.endswith(".py") and function.isidentifier()):
            near = did_you_mean(task, [BUILT_IN_TASK])
            raise ValueError(
                f"given {task!r}, expected 'file.py:function' or '{BUILT_IN_TASK}'{near}"
            )
        return task

    @model_validator(mode="after")
    def _prepares_for_pruning(self) -> Recipe:
        if self.prune and self.prune.penalty != "none" and (not self.distill or self.distill.peers):
            raise ValueError(
                f'prune.penalty = "{self.prune.penalty}" acts in the training of one student by '
                "[distill], without peers; add [distill], remove peers, or remove the penalty"
            )
        return self

    @model_validator(mode="after")
    def _recovers_from_something(self) -> Recipe:
        if self.redistill and not self.prune:
            raise ValueError(
                "[redistill] without [prune]: there is nothing to recover from; "
                "add [prune] or remove [redistill]"
            )
        if self.prune and self.prune.recover_epochs and not self.redistill:
            raise ValueError(
                f"prune.recover_epochs = {self.prune.recover_epochs} trains as [redistill] does; "
                "add [redistill], or remove it"
            )
        if self.redistill and (self.redistill.peers or self.redistill.student != "task"):
            raise ValueError(
                "[redistill] trains the pruned network on from its weights; "
                "give peers and student in [distill]"
            )
        return self


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in the file `path`, or the built-in digits recipe when that is None.

    `overrides` are texts `section.key=value`, the value in TOML syntax or a bare word; the last
    one wins. `task` and `data` come back absolute, resolved from the recipe's folder.

    Raises RecipeError, one line: file, field, what was given, what was expected.
    """
    if path is None:
        with as_file(files("edgecompress") / "digits.toml") as packaged:
            document = read_toml(packaged, "a recipe", "install edgecompress again", RecipeError)
        where, folder = "built-in recipe 'digits'", Path.cwd()
    else:
        document = read_toml(path, "a recipe", "'edgecompress init' writes one", RecipeError)
        where, folder = str(path), path.absolute().parent
    for override in overrides:
        _apply_(document, override)
    given = f" with {' '.join(f'--set {o}' for o in overrides)}" if overrides else ""
    recipe = parse(Recipe, document, where + given, RecipeError)
    return recipe.model_copy(update=_resolve(recipe, folder, where + given))


def quantize_settings(overrides: Sequence[str]) -> QuantizeSettings:
    """Return the `[quantize]` section that `overrides` make, for a model without a recipe.

    Raises RecipeError for a key outside of that section, and for training in 8 bits.
    """
    document: dict[str, Any] = {}
    for override in overrides:
        _apply_(document, override)
    if outside := sorted(document.keys() - {"quantize"}):
        raise RecipeError(
            f"--set {outside[0]}: expected quantize.KEY=VALUE, for there is nothing but [quantize] "
            "to set here"
        )
    settings = parse(Recipe, document, "--set", RecipeError).quantize or QuantizeSettings()
    if settings.aware is not None:
        raise RecipeError(
            "--set quantize.aware: nothing is trained here, a student learns in 8 bits from its "
            "teacher; give the section in a recipe to `edgecompress run`"
        )
    return settings


def recipe_schema() -> Document:
    """Return the JSON schema of a recipe, for editors."""
    return editor_schema(Recipe, "edgecompress recipe")


def _resolve(recipe: Recipe, folder: Path, where: str) -> Mapping[str, object]:
    """Return `task` and `data` as absolute paths, both of which must exist."""
    task, data = recipe.task, recipe.data
    if task != BUILT_IN_TASK:
        name, _, function = task.rpartition(":")
        file = (folder / name).resolve()
        if not file.is_file():
            raise RecipeError(f"{where}: task: no file '{file}'{near_file(file) or '; create it'}")
        task = f"{file}:{function}"
    if data is not None:
        data = (folder / data.expanduser()).resolve()
        if not data.exists():
            raise RecipeError(f"{where}: data: no file or folder '{data}'; correct the path")
    return {"task": task, "data": data}


def _apply_(document: dict[str, Any], override: str) -> None:
    """Write one `section.key=value` into the document."""
    name, equals, text = override.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise RecipeError(
            f"--set {override}: expected section.key=value, for example distill.epochs=5"
        )
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise RecipeError(f"--set {override}: '{key}' is a value, it has no keys inside")
    document[keys[-1]] = _read_value(text.strip())


def _read_value(text: str) -> object:
    """Return a TOML value, or the text itself when it is none.

    >>> _read_value("0.5"), _read_value("[1, 2]"), _read_value("sgd"), _read_value("'sgd'")
    (0.5, [1, 2], 'sgd', 'sgd')
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if document.keys() == {"value"} else text
