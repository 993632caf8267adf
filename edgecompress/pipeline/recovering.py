"""Training between two steps of pruning, so that what is cut next is ranked by healed weights."""

from __future__ import annotations

from torch import nn

from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.choice import DISTILLED
from edgecompress.errors import RecipeError
from edgecompress.pipeline.arms import Adjusting, Course
from edgecompress.pipeline.networks import TeacherInHand
from edgecompress.pipeline.run import Run
from edgecompress.pruning.masks import masks_of
from edgecompress.pruning.prune import Recover
from edgecompress.recipe import DistillSettings
from edgecompress.teachers.weights import load_weights_


def recovering(run: Run, tutors: TeacherInHand | None) -> Recover | None:
    """Return what trains a network between two steps as `[redistill]` does; None where not asked.

    Each such training is a stage of its own, made once. Weights that are exactly 0 stay so in
    unstructured pruning.
    """
    prune, redistill = run.recipe.prune, run.recipe.redistill
    if prune is None or not prune.recover_epochs:
        return None
    assert redistill is not None  # the recipe was checked
    assert tutors is not None
    if run.store.crew.size > 1:
        raise RecipeError(
            f"recipe: prune.recover_epochs = {prune.recover_epochs} trains inside of pruning, "
            f"which one process does, but {run.store.crew.size} run; remove it, or start one"
        )
    settings: DistillSettings = redistill.model_copy(
        update={"epochs": prune.recover_epochs, "tune": 0, "seeds": ()}
    )
    teacher, seed = tutors.calibrated(settings), run.recipe.seed

    def recover(network: nn.Module) -> None:
        sparse = None
        if prune.kind == "unstructured":
            sparse = Adjusting({"masks": weights_digest(network)}, masks_of)
        course = Course(run, "recover", network, teacher, sparse)
        load_weights_(network, course.arm(DISTILLED, settings, seed).weights.path)

    return recover
