"""Let a recipe's teacher say how well it does on the test split; the one check that needs torch."""

from __future__ import annotations

from pathlib import Path

from edgecompress.cli.data import Samples
from edgecompress.cli.show import progress
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher
from edgecompress.recipe import Recipe
from edgecompress.tasks.metrics import evaluate
from edgecompress.teachers.adapters import predict_logits


def task_samples(recipe: Recipe, out: Path, trust_code: bool) -> Samples:
    """Return the test split of the recipe's task, with its teacher's scores on it.

    A teacher that the recipe trains is taken from the run folder `out`, or trained there.
    """
    with (
        progress() as shown,
        open_run(recipe, out, RunOptions(None, trust_code, shown.say, shown.tick)) as run,
    ):
        test, metric = run.task.test, run.task.metric
        assert test.labels is not None  # checked when the task was loaded
        logits = predict_logits(obtain_teacher(run).teacher, test.inputs)
        teacher = evaluate(metric, logits, test.labels, "test")
        return Samples(f"task {run.task.name!r}", test.inputs, test.labels, metric, teacher)
