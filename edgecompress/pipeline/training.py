"""The torch half of the chain: teacher, distillation, pruning, re-distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress.distilling.checkpoint import save_weights, weights_digest
from edgecompress.distilling.distill import (
    CONTROL,
    DISTILLED,
    forward,
    pick_arm,
    train_arm,
)
from edgecompress.distilling.loop import Bench, logits_of
from edgecompress.distilling.losses import hard_loss
from edgecompress.distilling.modes import fastest_mode
from edgecompress.distilling.tuning import choice_in_words, tuned
from edgecompress.distilling.views import mixed_seed, tensors
from edgecompress.errors import TaskError
from edgecompress.pipeline.certainty import Certainty, certainty_of
from edgecompress.pipeline.run import Run
from edgecompress.pruning.plan import PruningPlan, apply_plan_
from edgecompress.pruning.prune import prune, reestimate_batchnorm_
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.records import Arm, Artifact, Mode, PruningOutcome, TrainedNetwork
from edgecompress.store import CHECKPOINT, StageCode, artifact, digest_of
from edgecompress.tasks.checks import check_network, check_teacher_outputs
from edgecompress.tasks.task import Split
from edgecompress.teachers.adapters import (
    CheckedTeacher,
    as_teacher,
    built,
    fingerprint,
    members,
    predict_logits,
    stored_parts,
)
from edgecompress.teachers.weights import load_weights_

_ROOMS = ("distilling", "teachers")
_LIBRARIES = ("torch", "accelerate")
PRECISION = StageCode("precision", ("distilling",), ("torch",))
PRUNE = StageCode("prune", ("pruning",), ("torch", "torch-pruning"))
PROBE_SAMPLES = 8
BATCHES, BATCH = 8, 128


@dataclass(frozen=True)
class Network:
    """Hold a torch network on its way to ONNX; `digest` covers its weights and its plan."""

    label: str
    module: nn.Module
    digest: str
    training: TrainedNetwork | None = None
    pruning: PruningOutcome | None = None


@dataclass(frozen=True)
class TeacherInHand:
    """Hold the teacher as a source of logits, and as a network or ONNX file where it is one.

    `certainty` is how far its logits can be trusted.
    """

    teacher: CheckedTeacher
    digest: str
    network: Network | None = None
    onnx: Path | None = None
    certainty: Certainty | None = None


def obtain_teacher(run: Run) -> TeacherInHand:
    """Return the task's teacher, trained first if the recipe has a `[teacher]` section."""
    if run.task.kind != "classification":
        raise TaskError(
            f"task {run.task.name!r}: kind {run.task.kind!r} can be scored, but only "
            "classification is trained yet; give the ONNX file of its model to `edgecompress "
            "quantize`"
        )
    torch.manual_seed(mixed_seed(run.recipe.seed, 1))
    source = built(run.task.teacher())
    network = _as_network(run, source) if isinstance(source, nn.Module) else None
    if run.recipe.teacher is not None and network is None:
        raise TaskError(
            f"recipe: [teacher] trains a torch network, but the task's teacher is "
            f"{type(source).__name__}; remove the section, its teacher is taken as trained"
        )
    teacher = as_teacher(
        source if network is None else network.module, run.task.class_names, run.options.trust_code
    )
    for stored in stored_parts(teacher):  # before anything trains; no answer is asked for
        for split in (run.task.train, run.task.validation, run.task.test):
            stored.places(split.inputs)
    outputs = predict_logits(teacher, run.task.validation.inputs)
    check_teacher_outputs(run.task, outputs)
    for member in members(teacher):
        check_teacher_outputs(run.task, predict_logits(member, run.task.validation.inputs))
    digest = digest_of([outputs.tobytes().hex(), fingerprint(teacher)])
    digest = network.digest if network else digest
    onnx = Path(source) if isinstance(source, str | Path) else None
    return TeacherInHand(teacher, digest, network, onnx, certainty_of(run.task, outputs))


def _calibrated(teacher: TeacherInHand, settings: DistillSettings) -> TeacherInHand:
    """Return the teacher with its certainty set right, where the settings ask for it."""
    if teacher.certainty is None:
        return teacher
    temperature = teacher.certainty.temperature(settings.calibrate_teacher)
    if temperature == 1:
        return teacher
    return replace(
        teacher,
        teacher=replace(teacher.teacher, temperature=temperature),
        digest=digest_of([teacher.digest, temperature]),
    )


def _as_network(run: Run, module: nn.Module) -> Network:
    network = Network("teacher", module, weights_digest(module))
    if run.recipe.teacher is None:
        return network
    arm = _arm(run, "teacher", "teacher", network, run.recipe.teacher)
    training = TrainedNetwork(
        "teacher", (arm,), "teacher", None, _parameters(module), "trained from hard labels"
    )
    return _carrying_on(network, training)


def train_student(run: Run, teacher: TeacherInHand) -> Network:
    """Return the distilled student, or its control where that is better on validation.

    Without a `[distill]` section the network to be compressed is the teacher itself.
    """
    if run.recipe.distill is None:
        if teacher.network is None:
            raise TaskError(
                "recipe: without [distill] the teacher itself is compressed, but it is no torch "
                "network; add [distill], or give its ONNX file to `edgecompress quantize`"
            )
        return replace(teacher.network, label="student", training=None)
    torch.manual_seed(mixed_seed(run.recipe.seed, 2))
    student = run.task.student()
    if not isinstance(student, nn.Module):
        raise TaskError(
            f"task: student() returned {type(student).__name__}; expected a torch.nn.Module"
        )
    shape = forward(student, run.task.validation.take(slice(0, PROBE_SAMPLES)).inputs).shape
    check_network(run.task, "student", shape, min(PROBE_SAMPLES, len(run.task.validation)))
    network = Network("student", student, weights_digest(student))
    return _taught(run, "distill", network, teacher, run.recipe.distill)


def prune_student(run: Run, student: Network, teacher: TeacherInHand) -> Network | None:
    """Return the pruned student, re-distilled if the recipe asks for it; None without `[prune]`."""
    if run.recipe.prune is None:
        return None
    settings = run.recipe.prune
    key = {
        "network": student.digest,
        "settings": settings.model_dump(),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
    }

    def make(folder: Path) -> PruningOutcome:
        inputs = tensors(run.task.example_inputs(2))
        pruned = prune(student.module, inputs, settings, _loss_batches(run), run.recipe.seed)
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
        )

    outcome = run.store.once(PRUNE, PruningOutcome, key, make)
    module = copy.deepcopy(student.module)
    apply_plan_(module, PruningPlan.load(outcome.plan.path), tensors(run.task.example_inputs(2)))
    load_weights_(module, outcome.weights.path)
    digest = digest_of([outcome.plan.sha256, outcome.weights.sha256])
    network = Network("pruned", module, digest, None, outcome)
    if run.recipe.redistill is None:
        return network
    return _taught(run, "redistill", network, teacher, run.recipe.redistill)


def arm_network(network: Network, name: str) -> Network:
    """Return the network as the arm `name` of its training ended."""
    assert network.training is not None
    arm = next(arm for arm in network.training.arms if arm.name == name)
    module = load_weights_(copy.deepcopy(network.module), arm.weights.path)
    return replace(network, label=name, module=module, digest=arm.weights.sha256)


def _taught(
    run: Run, stage: str, network: Network, teacher: TeacherInHand, settings: DistillSettings
) -> Network:
    teacher = _calibrated(teacher, settings)
    settings, trials = tuned(
        settings,
        lambda short: _arm(run, f"{stage}-trial", DISTILLED, network, short, teacher).evaluation,
    )
    arms = tuple(
        _arm(run, stage, name, network, settings, teacher) for name in (DISTILLED, CONTROL)
    )
    shipped, reason = pick_arm({arm.name: arm.evaluation for arm in arms})
    reason = choice_in_words(trials) + reason
    run.store.say(f"{stage}: {reason}")
    plan = network.pruning.plan if network.pruning else None
    size = _parameters(network.module)
    training = TrainedNetwork(stage, arms, shipped, plan, size, reason, trials)
    return _carrying_on(network, training)


def _arm(
    run: Run,
    stage: str,
    name: str,
    network: Network,
    settings: TrainSettings,
    teacher: TeacherInHand | None = None,
) -> Arm:
    """Return one trained arm, made once. Only what it depends on is in its key."""
    learns_softly = name == DISTILLED and teacher is not None
    asked = settings.model_dump()
    if not learns_softly:
        asked = {key: asked[key] for key in TrainSettings.model_fields}
    basis = {"network": network.digest, "task": run.fingerprint, "seed": run.recipe.seed}
    mode = run.store.once(
        PRECISION,
        Mode,
        {**basis, "precision": settings.precision, "batch": settings.batch_size},
        lambda folder: fastest_mode(network.module, run.task, settings),
        title=f"{stage} precision",
    )
    key = {
        **basis,
        "settings": asked,
        "mode": asdict(mode),
        "teacher": teacher.digest if teacher and learns_softly else None,
        "processes": run.store.crew.size,
    }
    soft = digest_of([teacher.digest if teacher else "", run.fingerprint, run.recipe.seed])

    def make(folder: Path) -> Arm:
        bench = Bench(
            seed=run.recipe.seed,
            mode=mode,
            checkpoint=folder / CHECKPOINT,
            soft_folder=run.store.folder / "soft_targets" / f"{soft[:16]}-{mode.precision}",
            tick=lambda text, done, total: run.tick(f"{stage} {name}: {text}", done, total),
        )
        arm = train_arm(
            name, network.module, run.task, settings, bench, teacher.teacher if teacher else None
        )
        weights = folder / "weights.safetensors"
        if run.store.crew.leads:
            save_weights(arm.module, weights)
        run.store.crew.agree(None)
        return Arm(name, artifact(weights, Artifact), arm.evaluation, arm.curve)

    code = StageCode(f"{stage}-{name}", _ROOMS, _LIBRARIES)
    title = stage if stage == name else f"{stage} {name}"
    return run.store.once(code, Arm, key, make, together=True, title=title)


def _carrying_on(network: Network, training: TrainedNetwork) -> Network:
    """Return the network with the weights of the arm that goes on."""
    weights = training.arm.weights
    module = load_weights_(copy.deepcopy(network.module), weights.path).eval()
    digest = digest_of([network.pruning.plan.sha256 if network.pruning else "", weights.sha256])
    return replace(network, module=module, digest=digest, training=training)


def _loss_batches(run: Run) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Yield the hard loss on a few training batches, for importance by gradients."""
    for batch in _batches(run):
        labels = torch.as_tensor(np.asarray(batch.labels), dtype=torch.int64)
        yield partial(_batch_loss, tensors(batch.inputs), labels)


def _batch_loss(inputs: dict[str, Tensor], labels: Tensor, module: nn.Module) -> Tensor:
    return hard_loss(logits_of(module(*inputs.values())), labels)


def _batches(run: Run) -> Iterator[Split]:
    """Yield a few training batches of about one size, none of a single sample.

    Drawn with the recipe's seed: files are often sorted by class, and the first samples of one.
    """
    rows = np.random.default_rng(run.recipe.seed).permutation(len(run.task.train))
    rows = rows[: BATCHES * BATCH]
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        yield run.task.train.take(part)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
