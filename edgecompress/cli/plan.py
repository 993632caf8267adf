"""Put into words what a run will do, and what a run that stopped early has done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.cli.show import table
from edgecompress.profiles import Profile
from edgecompress.recipe import Recipe
from edgecompress.report import words

if TYPE_CHECKING:
    from edgecompress.pipeline.stages import Unfinished

STAGES = ("teacher", "distill", "prune", "redistill", "export", "quantize", "measure", "accept")


def plan_document(recipe: Recipe, profile: Profile, out: Path) -> dict[str, object]:
    """Return the plan for machines: the whole recipe and profile, defaults filled in."""
    return {
        "schema_version": 1,
        "dry_run": True,
        "out": str(out),
        "stages": [stage for stage in STAGES if getattr(recipe, stage) is not None],
        "recipe": recipe.model_dump(mode="json"),
        "profile": profile.model_dump(mode="json"),
    }


def plan_table(recipe: Recipe, profile: Profile) -> str:
    """Return the plan for people: one row a stage, then the budgets."""
    rows = [("task", recipe.task)]
    for stage in STAGES:
        settings = getattr(recipe, stage)
        if settings is not None:
            shown = (f"{key}={value}" for key, value in settings.model_dump(mode="json").items())
            rows.append((stage, ", ".join(shown)))
        else:
            rows.append((stage, "skipped"))
    limits = profile.budget.model_dump(exclude_none=True)
    latency = limits.pop("latency_ms", {})
    budgets = {f"latency_ms.{q}": limit for q, limit in latency.items()} | limits
    rows.append(
        (profile.name, ", ".join(f"{name} <= {limit:g}" for name, limit in budgets.items()))
    )
    return table(rows)


def unfinished_table(made: Unfinished) -> str:
    """Return what the stages made: arms, prunings and exports, for people."""
    rows = [("stage", "result", "score", "file")]
    for training in made.trainings:
        for arm in training.arms:
            several = len({arm.seed for arm in training.arms}) > 1
            name = f"{arm.name}, seed {arm.seed}" if several else arm.name
            name += " (goes on)" if arm is training.arm else ""
            score = f"{words.score(arm.evaluation.metric)} ({arm.evaluation.metric.split})"
            rows.append((training.stage, name, score, str(arm.weights.path)))
    for pruning in made.prunings:
        kept = f"{pruning.macs_after:,} of {pruning.macs_before:,} macs"
        if pruning.of == "weights":
            kept = f"{pruning.achieved_ratio:.0%} of the weights at 0, {pruning.macs_after:,} macs"
        rows.append(("prune", kept, words.NOTHING, str(pruning.weights.path)))
    for model in made.exports:
        parity = "parity holds" if model.dropped is None else model.dropped
        rows.append(("export", f"{model.label}: {parity}", words.NOTHING, str(model.model.path)))
    return table(rows)


def unfinished_document(made: Unfinished) -> dict[str, object]:
    """Return what the stages made, for machines."""
    from pydantic import TypeAdapter

    document: dict[str, object] = TypeAdapter(type(made)).dump_python(made, mode="json")
    return {"schema_version": 1, **document}
