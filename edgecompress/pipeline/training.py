"""The torch half of the chain: teacher, distillation, pruning, re-distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress.distilling.beginnings import Student, begun, born_again, check_answers
from edgecompress.distilling.certainty import certainty_as_taught
from edgecompress.distilling.checkpoint import save_weights, weights_digest
from edgecompress.distilling.features import relational_loss
from edgecompress.distilling.kinds import Aim, aim_of, form_of, hard_part, to_labels
from edgecompress.distilling.loop import logits_of
from edgecompress.distilling.views import mixed_seed, tensors
from edgecompress.errors import TaskError
from edgecompress.pipeline.aiming import AIMED, aimed, basis
from edgecompress.pipeline.arms import Adjusting, Course, taught
from edgecompress.pipeline.networks import Network, TeacherInHand, parameters
from edgecompress.pipeline.recovering import recovering
from edgecompress.pipeline.run import Run
from edgecompress.pipeline.students import Found
from edgecompress.pipeline.tutors import tutor
from edgecompress.profiles import Profile
from edgecompress.pruning.masks import masks_of
from edgecompress.pruning.penalty import penalty_on
from edgecompress.pruning.plan import PruningPlan, apply_plan
from edgecompress.pruning.prune import Recover, prune, reestimate_batchnorm_, unpruned
from edgecompress.records import Artifact, PruningOutcome, TrainedNetwork
from edgecompress.store import StageCode, artifact, digest_of
from edgecompress.tasks.checks import check_teacher_outputs
from edgecompress.tasks.targets import labels_of
from edgecompress.tasks.task import Split
from edgecompress.teachers.adapters import (
    as_teacher,
    built,
    fingerprint,
    members,
    parts,
    predict_logits,
)
from edgecompress.teachers.stored import StoredTeacher
from edgecompress.teachers.weights import load_weights_

PRUNE = StageCode("prune", ("pruning", "distilling", "students"), ("torch", "torch-pruning"))
BATCHES, BATCH = 8, 128


def obtain_teacher(run: Run) -> TeacherInHand:
    """Return the task's teacher, trained first if the recipe has a `[teacher]` section."""
    torch.manual_seed(mixed_seed(run.recipe.seed, 1))
    source = built(run.task.teacher())
    network = _as_network(run, source) if isinstance(source, nn.Module) else None
    if run.recipe.teacher is not None and network is None:
        raise TaskError(
            f"recipe: [teacher] trains a torch network, but the task's teacher is "
            f"{type(source).__name__}; remove the section, its teacher is taken as trained"
        )
    teacher = as_teacher(
        source if network is None else network.module, form_of(run.task), run.options.trust_code
    )
    splits = (run.task.train, run.task.validation, run.task.test, run.task.unlabelled)
    for stored in parts(teacher, StoredTeacher):  # before anything trains; nothing is asked
        for split in filter(None, splits):
            stored.places(split.inputs)
    outputs = predict_logits(teacher, run.task.validation.inputs)
    check_teacher_outputs(run.task, outputs)
    for member in members(teacher):
        check_teacher_outputs(run.task, predict_logits(member, run.task.validation.inputs))
    digest = digest_of([outputs.tobytes().hex(), fingerprint(teacher)])
    digest = network.digest if network else digest
    onnx = Path(source) if isinstance(source, str | Path) else None
    certainty = certainty_as_taught(run.task, teacher, outputs)
    return TeacherInHand(teacher, digest, network, onnx, certainty)


def _as_network(run: Run, module: nn.Module) -> Network:
    network = Network("teacher", module, weights_digest(module))
    if run.recipe.teacher is None:
        return network
    arm = Course(run, "teacher", module).arm("teacher", run.recipe.teacher, run.recipe.seed)
    training = TrainedNetwork(
        "teacher", (arm,), "teacher", None, parameters(module), "trained from hard labels",
        seed=arm.seed,
    )  # fmt: skip
    return network.trained(training)


def train_student(run: Run, teacher: TeacherInHand, found: Found | None = None) -> Network:
    """Return the distilled student, or its control where that is better on validation.

    `found` is the student of the budget's choice, where the recipe leaves it to that. Without a
    `[distill]` section the network to be compressed is the teacher itself.
    """
    if run.recipe.distill is None:
        if teacher.network is None:
            raise TaskError(
                "recipe: without [distill] the teacher itself is compressed, but it is no torch "
                "network; add [distill], or give its ONNX file to `edgecompress quantize`"
            )
        return replace(teacher.network, label="student", training=None)
    settings, start = run.recipe.distill, found.start if found else _beginning(run, teacher)
    student = begun(start, (settings.seeds or (run.recipe.seed,))[0])
    if warning := check_answers(run.task, student):
        run.store.say(f"warning: {warning}")
    network = Network("student", student, weights_digest(student))
    return taught(Course(run, "distill", start, teacher, _penalty(run)), network, settings)


def _penalty(run: Run) -> Adjusting | None:
    """Return the penalty that readies channels for the pruning to come, where one is asked for."""
    settings = run.recipe.prune
    if settings is None or settings.penalty == "none":
        return None
    asked = settings.model_dump(include={"penalty", "penalty_strength", "pruning_ratio", "ignore"})
    inputs = tensors(run.task.example_inputs(2))
    return Adjusting(asked, lambda module: penalty_on(module, inputs, settings))


def _beginning(run: Run, teacher: TeacherInHand) -> Student:
    """Return how students begin: made by the task, or of the teacher's own architecture.

    A teacher that was trained here can be made anew; of one that came trained, the weights are
    drawn anew.
    """
    if run.recipe.distill is None or run.recipe.distill.student == "task":
        if run.task.student is None:
            raise TaskError(
                f"task {run.task.name!r}: has no student; return one, or leave it to the budget "
                'with student = "auto" in [distill]'
            )
        return run.task.student
    if run.recipe.teacher is None:
        return born_again(teacher.teacher)
    return lambda: built(run.task.teacher())  # type: ignore[return-value]


def prune_student(
    run: Run, student: Network, teacher: TeacherInHand, profile: Profile | None = None
) -> Network | None:
    """Return the pruned student, re-distilled if the recipe asks for it; None without `[prune]`.

    Where a target was set and nothing came nearer to it, the student comes back as it is, with the
    reason. `profile` is needed for a target that it sets.
    """
    if run.recipe.prune is None:
        return None
    settings = run.recipe.prune
    key = {
        "network": student.digest,
        "settings": settings.model_dump(),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
    }
    again = run.recipe.redistill
    tutors = tutor(run, student, teacher, again) if again else None
    code, recover = PRUNE, recovering(run, tutors)
    if settings.target is not None:
        code, key["aim"] = AIMED, basis(run, profile)
    if recover is not None:
        assert again is not None
        assert tutors is not None
        key["recovering"] = {"teacher": tutors.digest, "settings": again.model_dump()}
    outcome = run.store.once(
        code, PruningOutcome, key, lambda folder: _prune(run, student, profile, folder, recover)
    )
    plan, inputs = PruningPlan.load(outcome.plan.path), tensors(run.task.example_inputs(2))
    module = load_weights_(apply_plan(student.module, plan, inputs), outcome.weights.path)
    digest = digest_of([outcome.plan.sha256, outcome.weights.sha256])
    network = Network("pruned", module, digest, None, outcome)
    if again is None or (outcome.search and not outcome.search.gained):
        return network
    sparse = Adjusting({"masks": digest}, masks_of) if settings.kind == "unstructured" else None
    return taught(Course(run, "redistill", module, tutors, sparse), network, again)


def _prune(
    run: Run, student: Network, profile: Profile | None, folder: Path, recover: Recover | None
) -> PruningOutcome:
    """Prune by the recipe's ratios or to its target, and keep the plan and the weights."""
    settings, inputs, search = run.recipe.prune, tensors(run.task.example_inputs(2)), None
    assert settings is not None
    if settings.target is None:
        losses = _loss_batches(run)
        pruned = prune(student.module, inputs, settings, losses, run.recipe.seed, recover)
    else:
        found, search = aimed(run, student, tuple(_loss_batches(run)), profile, folder)
        run.store.say(search.reason)
        pruned = found or unpruned(student.module, inputs)
    run.store.say(f"prune: {pruned.in_words()}")
    reestimate_batchnorm_(pruned.module, (tensors(b.inputs) for b in _batches(run)))
    plan, weights = folder / "plan.json", folder / "weights.safetensors"
    pruned.plan.save(plan)
    save_weights(pruned.module, weights)
    return PruningOutcome(
        plan=artifact(plan, Artifact),
        weights=artifact(weights, Artifact),
        requested_ratio=pruned.requested_ratio,
        achieved_ratio=pruned.achieved_ratio,
        macs_before=pruned.macs_before,
        macs_after=pruned.macs_after,
        parameters_before=pruned.parameters_before,
        parameters_after=pruned.parameters_after,
        heads=pruned.heads,
        blocks=pruned.blocks,
        search=search,
    )


def _loss_batches(run: Run) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Yield the hard loss on a few training batches, for importance by gradients."""
    aim = aim_of(run.task)
    for batch in _batches(run):
        labels = to_labels(run.task.kind, labels_of(batch))
        yield partial(_batch_loss, aim, tensors(batch.inputs), labels)


def _batch_loss(aim: Aim, inputs: dict[str, Tensor], labels: Tensor, module: nn.Module) -> Tensor:
    answers = logits_of(module(*inputs.values()))
    if aim.kind == "embedding" and answers.shape[1] < labels.shape[1]:
        return relational_loss(answers, labels)  # the projection that it learned with is gone
    return hard_part(aim, answers, labels)


def _batches(run: Run) -> Iterator[Split]:
    """Yield a few training batches of about one size, none of a single sample.

    Drawn with the recipe's seed: files are often sorted by class, and the first samples of one.
    """
    rows = np.random.default_rng(run.recipe.seed).permutation(len(run.task.train))
    rows = rows[: BATCHES * BATCH]
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        yield run.task.train.take(part)
