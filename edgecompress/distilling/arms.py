"""The arms of a distillation: which there are, what each learns from, and which goes on.

All arms of one seed begin with the same weights (a peer apart), take the same number of steps and
see samples augmented alike; those that are shown the unlabelled pool see it in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from edgecompress.distilling.beginnings import Student, begun
from edgecompress.distilling.choice import (
    CODISTILLED,
    CONTROL,
    DISTILLED,
    PSEUDO,
    Contender,
    pick_arm,
    quality,
)
from edgecompress.distilling.hints import Hints, require_torch
from edgecompress.distilling.kinds import aim_of, answers_as_labels, labelled
from edgecompress.distilling.lesson import Lesson
from edgecompress.distilling.loop import Bench, computing, crew_of_launch, train_
from edgecompress.distilling.peers import Pair, PeerLesson, each_peer
from edgecompress.distilling.scoring import score
from edgecompress.distilling.soft_targets import SoftTargets
from edgecompress.distilling.tuning import choice_in_words, tuned
from edgecompress.distilling.views import Views, task_views
from edgecompress.errors import TeacherError, TrainingError
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.records import EpochPoint, Evaluation, Figures, Trial
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import CheckedTeacher, parts, predict_logits
from edgecompress.teachers.out_of_fold import OutOfFoldTeacher

C = TypeVar("C", bound=Contender)

# What stands in a key by what comes of it: the network, its seed, the teacher and the labels.
_TOLD_OTHERWISE = ("seeds", "peers", "student", "calibrate_teacher", "narrow_by", "teachers")


@dataclass(frozen=True)
class TrainedArm:
    """Hold one trained arm: the network, its validation score, its curve and its figures."""

    name: str
    module: nn.Module
    evaluation: Evaluation
    curve: tuple[EpochPoint, ...]
    seed: int = 0
    figures: Figures | None = None
    note: str = ""


@dataclass(frozen=True)
class Contest(Generic[C]):
    """Hold all arms of all seeds, the network that goes on and why, and what was tried before."""

    arms: tuple[C, ...]
    winner: C
    reason: str
    trials: tuple[Trial, ...]


def contest(
    task: Task,
    settings: DistillSettings,
    seed: int,
    train: Callable[[str, DistillSettings, int], C],
    trial: Callable[[DistillSettings, int], Evaluation],
) -> Contest[C]:
    """Tune, train every arm with every seed, and pick the network that goes on.

    `train(arm, settings, seed)` trains one arm; `trial(settings, seed)` scores a short training of
    the distilled one. All arms of a seed are trained before the next seed's. `seed` is for
    settings that give none.
    """
    seeds = settings.seeds or (seed,)
    settings, trials = tuned(settings, lambda short: trial(short, seeds[0]))
    arms = tuple(train(name, settings, s) for s in seeds for name in arm_names(task, settings))
    winner, reason = pick_arm(arms)
    notes = dict.fromkeys(arm.note for arm in arms if arm.note)
    return Contest(arms, winner, "; ".join((choice_in_words(trials) + reason, *notes)), trials)


def arm_names(task: Task, settings: DistillSettings) -> tuple[str, ...]:
    """Return the arms that a distillation trains, in order."""
    pseudo = (PSEUDO,) if task.unlabelled is not None else ()
    peers = (CODISTILLED,) if settings.peers else ()
    return (DISTILLED, CONTROL, *pseudo, *peers)


def check_beginning(student: Student, settings: DistillSettings, seed: int) -> None:
    """Refuse peers that would begin alike, before anything is trained."""
    if settings.peers:
        _pair(student, (settings.seeds or (seed,))[0])


def _pair(student: Student, seed: int) -> Pair:
    return Pair(begun(student, seed), begun(student, seed, peer=1))


def consults_teacher(name: str) -> bool:
    """Return whether an arm learns anything from the teacher."""
    return name in (DISTILLED, PSEUDO)


def settings_of(name: str, settings: TrainSettings) -> dict[str, object]:
    """Return the settings that the training of one arm depends on, for its key in a store."""
    asked = settings.model_dump()
    if name == DISTILLED:
        return {key: asked[key] for key in asked if key not in _TOLD_OTHERWISE}
    return {key: asked[key] for key in TrainSettings.model_fields}


def train_arm(
    name: str,
    student: Student,
    task: Task,
    settings: TrainSettings,
    bench: Bench = Bench(),
    teacher: CheckedTeacher | None = None,
) -> TrainedArm:
    """Train a student as one arm with the seed of `bench`; a module given is left as it was.

    `distilled` and `pseudo` ask the teacher, every other arm does not. A pool of unlabelled
    samples is shown to all arms that can learn from it; the others see as many samples, all
    labelled. Of two peers the better one on validation is kept.
    """
    seed = bench.seed
    module = _pair(student, seed) if name == CODISTILLED else begun(student, seed)
    if isinstance(module, Pair):
        bench = replace(bench, adjust=each_peer(bench.adjust))
    lesson = _lesson(name, task, settings, bench, teacher)

    with computing(bench.mode):
        curve = train_(module, lesson, settings, lambda m: _judged(m, task)[1].metric.value, bench)
    module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module.eval()
    kept, evaluation = _judged(module, task)
    note = lesson.soft.note() if lesson.soft else ""
    return TrainedArm(name, kept, evaluation, curve, bench.seed, note=note)


def _judged(network: nn.Module, task: Task) -> tuple[nn.Module, Evaluation]:
    """Return a network and its score on validation; of two peers the better one and its score."""
    peers = (network.one, network.other) if isinstance(network, Pair) else (network,)
    judged = [(peer, score(peer, task, "validation")) for peer in peers]
    return max(judged, key=lambda one: quality(one[1]))


def _lesson(
    name: str,
    task: Task,
    settings: TrainSettings,
    bench: Bench,
    teacher: CheckedTeacher | None,
) -> Lesson:
    """Return what an arm learns from; every arm's epoch shows equally many samples."""
    pool = task.unlabelled if isinstance(settings, DistillSettings) else None
    samples = len(task.train) + (len(pool) if pool is not None else 0)

    shown = pool is not None and name in (DISTILLED, PSEUDO, CODISTILLED)
    views, aim = task_views(task, settings, bench.seed, pool=shown), aim_of(task)
    match name:
        case "distilled":
            assert isinstance(settings, DistillSettings)
            lesson = Lesson(views, samples, settings, own=bench.loss, aim=aim)
            return _with_teacher(lesson, settings, bench, _given(teacher, name))
        case "pseudo":
            labels = _filled(views, task, _given(teacher, name))
            return Lesson(replace(views, labels=labels), samples, aim=aim)
        case "codistilled":
            return PeerLesson(views, samples, aim=aim)
        case _:
            return Lesson(views, samples, aim=aim)


def _with_teacher(
    lesson: Lesson, settings: DistillSettings, bench: Bench, teacher: CheckedTeacher
) -> Lesson:
    """Return the lesson with the teacher's word in it: kept soft targets, or layers to hear."""
    everywhere = bool(labelled(lesson.kind, lesson.views.labels).all())
    if settings.loss == "dkd" and not everywhere:
        raise TrainingError(
            "distill.loss: 'dkd' needs the label of every sample, but the task has unlabelled "
            'ones; take loss = "kd"'
        )
    if lesson.views.changing and any(parts(teacher, OutOfFoldTeacher)):
        raise TeacherError(
            "teacher: OutOfFold knows training samples only as they are: augmented or mixed, they "
            "would be answered by the fit that saw them; leave the task's augment and the recipe's "
            "mixing out, or give the fitted estimator itself"
        )
    autocast = bench.mode.precision == "bf16"
    if settings.features is not None:
        require_torch(teacher)
        return replace(lesson, hints=Hints(teacher, settings.features, bench.seed, autocast))
    soft = SoftTargets(
        teacher,
        lesson.views,
        bench.soft_folder,
        autocast,
        bench.tick,
        settings.soft_targets,
        crew_of_launch(),
    )
    return replace(lesson, soft=soft)


def _filled(views: Views, task: Task, teacher: CheckedTeacher) -> Tensor:
    """Return the labels of all samples, those of the pool the teacher's hard answers."""
    assert task.unlabelled is not None
    answers = predict_logits(teacher, task.unlabelled.inputs)
    said = answers_as_labels(task.kind, answers)
    return torch.cat([views.labels[: len(task.train)], said.to(views.labels.dtype)])


def _given(teacher: CheckedTeacher | None, arm: str) -> CheckedTeacher:
    if teacher is None:
        raise TrainingError(f"distill: no teacher was given; the {arm} arm needs one")
    return teacher
