"""How arms are remembered: each arm of each seed is a stage of its own, trained once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from edgecompress.distilling.arms import (
    check_beginning,
    consults_teacher,
    contest,
    settings_of,
    train_arm,
)
from edgecompress.distilling.beginnings import Student, begun
from edgecompress.distilling.checkpoint import layout_digest, save_weights, weights_digest
from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.inspecting import (
    figures_of,
    network_answers,
    teacher_answers,
    teacher_score,
)
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.modes import fastest_mode
from edgecompress.pipeline.networks import Network, TeacherInHand, parameters
from edgecompress.pipeline.run import Run
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.records import Arm, Artifact, Evaluation, Inspection, Mode, TrainedNetwork
from edgecompress.store import CHECKPOINT, StageCode, artifact, digest_of

_ROOMS = ("distilling", "teachers", "students")
_LIBRARIES = ("torch", "accelerate")
FIGURES = StageCode("figures", (*_ROOMS, "tasks", "statistics.py"), ("torch",))
PRECISION = StageCode("precision", ("distilling",), ("torch",))


@dataclass(frozen=True)
class Adjusting:
    """Hold what changes gradients in training: made for the network as it begins.

    `basis` is all that it depends on beside that network, for the key of the stage.
    """

    basis: dict[str, object]
    on: Callable[[nn.Module], Callable[[nn.Module, int], None]]


@dataclass(frozen=True)
class Course:
    """Hold what the arms of one training stage share: how they begin, and their teacher.

    `adjusting` is what pruning asks of the training before or after it. `origin` tells networks
    that round in training from others of the same weights.
    """

    run: Run
    stage: str
    student: Student
    teacher: TeacherInHand | None = None
    adjusting: Adjusting | None = None
    origin: str = ""

    def arm(self, name: str, settings: TrainSettings, seed: int) -> Arm:
        """Return one trained arm of one seed, made once; only what it depends on is in its key."""
        run, first = self.run, begun(self.student, seed)
        teacher = self.teacher if consults_teacher(name) else None
        mode = self._mode(first, settings)
        key = {
            "network": weights_digest(first),
            "task": run.fingerprint,
            "seed": seed,
            "settings": settings_of(name, settings),
            "mode": asdict(mode),
            "teacher": teacher.digest if teacher else None,
            "processes": run.store.crew.size,
        }
        rooms: tuple[str, ...] = _ROOMS
        if self.adjusting is not None:
            key["adjusting"], rooms = self.adjusting.basis, (*_ROOMS, "pruning")
        if self.origin:
            key["origin"], rooms = self.origin, (*rooms, "quantizing")
        # Whatever the seed: a view that another one saw has a file that is named after it.
        soft = digest_of([teacher.digest if teacher else "", run.fingerprint])
        which = name
        if isinstance(settings, DistillSettings) and len(settings.seeds) > 1:
            which += f", seed {seed}"

        def make(folder: Path) -> Arm:
            bench = Bench(
                seed=seed,
                mode=mode,
                checkpoint=folder / CHECKPOINT,
                soft_folder=run.store.folder / "soft_targets" / f"{soft[:16]}-{mode.precision}",
                tick=lambda text, at, of: run.tick(f"{self.stage} {which}: {text}", at, of),
                section=_section(self.stage),
            )
            if self.adjusting is not None:
                bench = replace(bench, adjust=self.adjusting.on(first))
            asked = teacher.teacher if teacher else None
            arm = train_arm(name, self.student, run.task, settings, bench, asked)
            weights = folder / "weights.safetensors"
            if run.store.crew.leads:
                save_weights(arm.module, weights)
            run.store.crew.agree(None)
            kept = artifact(weights, Artifact)
            return Arm(name, kept, arm.evaluation, arm.curve, seed, note=arm.note)

        code = StageCode(f"{self.stage}-{name}", rooms, _LIBRARIES)
        title = self.stage if self.stage == name else f"{self.stage} {which}"
        return run.store.once(code, Arm, key, make, together=True, title=title)

    def _mode(self, network: nn.Module, settings: TrainSettings) -> Mode:
        """Return how all arms compute: found once for a layout, for pairs must compute alike."""
        key = {
            "network": layout_digest(network),
            "task": self.run.fingerprint,
            "precision": settings.precision,
            "batch": settings.batch_size,
        }
        return self.run.store.once(
            PRECISION,
            Mode,
            key,
            lambda folder: fastest_mode(network, self.run.task, settings),
            title=f"{self.stage} precision",
        )


def _section(stage: str) -> str:
    """Return the section of the recipe that a training stage has its settings from."""
    match stage.partition("-")[0]:
        case "aware":
            return "quantize.aware"
        case "redistill" | "recover":
            return "redistill"
        case "teacher":
            return "teacher"
    return "distill"  # its trials too, and those of students that were found


def inspected(course: Course, network: Network, arms: tuple[Arm, ...]) -> Inspection:
    """Return the figures of all arms and of their teacher, made once; nothing is trained for it."""
    run, teacher = course.run, course.teacher
    assert teacher is not None
    here = run.recipe.teacher is not None

    def make(folder: Path) -> Inspection:
        said = teacher_answers(teacher.teacher, run.task)
        figures = tuple(
            figures_of(run.task, network_answers(network.loaded(arm.weights), run.task), said)
            for arm in arms
        )
        return Inspection(figures, teacher_score(run.task, said, trained_here=here))

    key = {
        "arms": [arm.weights.sha256 for arm in arms],
        "teacher": teacher.digest,
        "trained_here": here,
        "task": run.fingerprint,
    }
    return run.store.once(FIGURES, Inspection, key, make, title=f"{course.stage} figures")


def taught(course: Course, network: Network, settings: DistillSettings) -> Network:
    """Return `network` with the weights of the arm that goes on."""
    run = course.run
    check_beginning(course.student, settings, run.recipe.seed)
    if course.teacher is not None:
        course = replace(course, teacher=course.teacher.calibrated(settings))
    trials = replace(course, stage=f"{course.stage}-trial")

    def trial(short: DistillSettings, seed: int) -> Evaluation:
        return trials.arm(DISTILLED, short, seed).evaluation

    found = contest(run.task, settings, run.recipe.seed, course.arm, trial)
    run.store.say(f"{course.stage}: {found.reason}")
    inspection = inspected(course, network, found.arms)
    pairs = zip(found.arms, inspection.arms, strict=True)
    training = TrainedNetwork(
        stage=course.stage,
        arms=tuple(replace(arm, figures=figures) for arm, figures in pairs),
        shipped=found.winner.name,
        plan=network.pruning.plan if network.pruning else None,
        parameters=parameters(network.module),
        reason=found.reason,
        trials=found.trials,
        seed=found.winner.seed,
        teacher=inspection.teacher,
    )
    return network.trained(training)
