"""What becomes of a narrowed network, at a glimpse: its score after one short lesson."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.choice import CONTROL
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import score
from edgecompress.distilling.views import tensors
from edgecompress.errors import TrainingError
from edgecompress.pipeline.run import Run
from edgecompress.pruning.prune import reestimate_batchnorm_
from edgecompress.recipe import TrainSettings
from edgecompress.records import Metric
from edgecompress.tasks.task import Split, Task

LESSON, HELD, BATCH = 8_192, 2_000, 128
"""Samples of the lesson, and of validation: enough to tell narrow networks apart."""


def glimpse(run: Run, module: nn.Module) -> Metric | None:
    """Return the score of a copy that saw each of a few training samples once, with its label.

    Its batch-norm statistics are estimated anew before. All lessons are alike, whatever the recipe
    says of training, so that another learning rate there is no other search. None where the lesson
    fails, and where several processes train, of which only one is here.
    """
    if run.store.crew.size > 1:
        return None
    bench = Bench(run.recipe.seed, tick=lambda text, at, of: run.tick("a short lesson", at, of))
    few, copy = _few(run), deepcopy(module)
    reestimate_batchnorm_(copy, _batches(few.train))
    try:
        return train_arm(CONTROL, copy, few, TrainSettings(epochs=1), bench).evaluation.metric
    except TrainingError:
        return None


def first_sight(run: Run, module: nn.Module) -> Metric:
    """Return the score of a network as it is, on the samples of a glimpse."""
    return score(module, _few(run), "validation").metric


def _batches(split: Split) -> Iterator[Mapping[str, Tensor]]:
    """Yield the samples in batches of about one size, none of a single sample."""
    for rows in np.array_split(np.arange(len(split)), -(-len(split) // BATCH)):
        yield tensors(split.take(rows).inputs)


def _few(run: Run) -> Task:
    """Return the task with the samples of a glimpse."""
    task, draws = run.task, np.random.default_rng(run.recipe.seed)

    def some(split: Split, most: int) -> Split:
        return split.take(np.sort(draws.permutation(len(split))[:most]))

    return replace(task, train=some(task.train, LESSON), validation=some(task.validation, HELD))
