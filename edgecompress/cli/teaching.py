"""Let a recipe's teacher say how well it does on the test split; the one check that needs torch."""

from __future__ import annotations

from pathlib import Path

from edgecompress.cli.data import Samples
from edgecompress.cli.show import progress
from edgecompress.pipeline.candidates import teacher_score
from edgecompress.pipeline.narrowing import narrowed
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher
from edgecompress.recipe import Recipe
from edgecompress.tasks.scores import NEIGHBOURS
from edgecompress.tasks.targets import output_shape_of


def task_samples(recipe: Recipe, out: Path, trust_code: bool) -> Samples:
    """Return the test split of the recipe's task, with its teacher's scores on it.

    A teacher that the recipe trains is taken from the run folder `out`, or trained there.
    """
    with (
        progress() as shown,
        open_run(recipe, out, RunOptions(None, trust_code, shown.say, shown.tick)) as run,
    ):
        run, teacher = narrowed(run, obtain_teacher(run))
        test, metric = run.task.test, run.task.metric
        score = teacher_score(run, teacher, "test")
        answer = () if metric is NEIGHBOURS else output_shape_of(run.task, 1)[1:]
        where = f"task {run.task.name!r}"
        return Samples(where, test.inputs, test.labels, metric, score, answer, of_task=True)
