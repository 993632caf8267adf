"""Students from the budget: which fit is found out before any is trained; the best goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from edgecompress.distilling.beginnings import Student
from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.tuning import EPOCHS_RATIO
from edgecompress.distilling.views import tensors
from edgecompress.errors import PruningError, RecipeError, TaskError
from edgecompress.measuring.host import describe_host
from edgecompress.pipeline.arms import Course
from edgecompress.pipeline.networks import TeacherInHand
from edgecompress.pipeline.offers import student_offers
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.pruning.prune import prune
from edgecompress.recipe import DistillSettings, PruneSettings
from edgecompress.records import (
    Family,
    StudentChoice,
    StudentOffer,
    StudentSpec,
    StudentTrial,
)
from edgecompress.search.students import finalists, nearest
from edgecompress.store import StageCode, digest_of
from edgecompress.students.ladder import (
    Problem,
    build,
    families_for,
    grid,
    ladder,
    problem_of,
)
from edgecompress.tasks.targets import output_shape_of
from edgecompress.tasks.task import Task
from edgecompress.tasks.tokenizers import WordPieces

STUDENTS = StageCode(
    "students",
    (
        *("search", "students", "pruning", "exporting", "quantizing", "measuring"),
        *("bounds.py", "graphs.py", "verdict.py"),
    ),
    ("torch", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "numpy"),
)
FINALISTS = 3  # that fit and are distilled for a while


@dataclass(frozen=True)
class Found:
    """Hold the student that goes on, how it begins, and how it was found."""

    start: Student
    choice: StudentChoice


def find_student(run: Run, profile: Profile | None, teacher: TeacherInHand) -> Found | None:
    """Return the student that the recipe names or leaves to the budget; None for other students.

    The largest that fit are distilled for a fifth of the epochs, and the best on validation goes
    on; where none fits, the one that comes nearest. Raises RecipeError where a budget is needed
    and no profile given.
    """
    settings = run.recipe.distill
    if settings is None or settings.student in ("task", "teacher"):
        return None
    asked, nursery = settings.student, Nursery(run, problem_of_task(run.task), teacher)
    if (named := StudentSpec.named(asked)) is not None:
        nursery.check(named.family)
        choice = StudentChoice(named, (), (), f"{named.label}: the student that the recipe names")
        return Found(nursery.start(named), choice)
    if profile is None:
        raise RecipeError(
            f'recipe: distill.student = "{asked}" is found for the budgets of a device; give '
            "--profile NAME, or the label of a student that `edgecompress students` lists"
        )
    students = nursery.students(asked)
    offers = _offers(nursery, profile, students)
    choice = _chosen(nursery, students, offers, settings)
    run.store.say(f"students: {choice.reason}")
    return Found(students[choice.spec], choice)


@dataclass(frozen=True)
class Nursery:
    """Make students for a run's task: grown from a family, or cut out of the teacher."""

    run: Run
    problem: Problem
    teacher: TeacherInHand

    @property
    def families(self) -> tuple[Family, ...]:
        """Return the families that suit the task."""
        cut: tuple[Family, ...] = ("cut_teacher",) if self.teacher.network else ()
        return (*families_for(self.problem), *cut)

    def check(self, family: str) -> None:
        """Raise RecipeError for a family that does not suit the task."""
        if family not in self.families:
            teacher = "a torch module" if self.teacher.network else "no torch module"
            raise RecipeError(
                f"recipe: distill.student: given family {family}, but task {self.run.task.name!r} "
                f"has {self.problem.modality} inputs and a teacher that is {teacher}; expected one "
                f"of {', '.join(self.families)}"
            )

    def students(self, asked: str) -> Mapping[StudentSpec, Student]:
        """Return how each student of a family begins, or of all that suit; sorted by size.

        A teacher that cannot be cut offers none.
        """
        if asked != "auto":
            self.check(asked)
        wanted = [family for family in self.families if asked in (family, "auto")]
        grown = [family for family in wanted if family != "cut_teacher"]
        found: dict[StudentSpec, Student] = {}
        for spec in (
            *(ladder(self.problem, grown) if grown else ()),
            *(grid(["cut_teacher"]) if "cut_teacher" in wanted else ()),
        ):
            try:
                found[spec] = self.start(spec)
            except PruningError as error:
                self.run.store.say(f"students: {spec.label} left out: {error}")
        if not found:
            raise RecipeError(
                f'recipe: distill.student = "{asked}": this teacher cannot be cut, as said above; '
                f"expected {' or '.join(f for f in self.families if f != asked)}, or auto"
            )
        return found

    def start(self, spec: StudentSpec) -> Student:
        """Return how a student begins: with weights drawn from the seed, or with the teacher's."""
        if spec.family != "cut_teacher":
            return partial(build, spec, self.problem)
        assert self.teacher.network is not None  # else the family does not suit
        if spec.width >= 1 or spec.depth != 1:
            raise RecipeError(
                f'recipe: distill.student = "{spec.label}": expected cut_teacher-wSHARE-d1 with '
                "a SHARE of the channels below 1, for a teacher only loses some"
            )
        settings = PruneSettings(pruning_ratio=1 - spec.width)
        inputs = tensors(self.run.task.example_inputs(2))
        return prune(self.teacher.network.module, inputs, settings).module


def problem_of_task(task: Task) -> Problem:
    """Return what a student has to answer; raise TaskError where no family can."""
    if task.kind == "tokens":
        raise TaskError(
            f"task {task.name!r}: no student family answers for each token; return a student of "
            'your own from the task and leave distill.student at "task"'
        )
    return problem_of(task.train.inputs, output_shape_of(task, 1)[1], _vocabularies(task))


def _vocabularies(task: Task) -> tuple[int, ...]:
    """Return the codes of each column of a table, or the word pieces of texts where they are known.

    A code that training never saw counts as 0, but a token id beyond its table has no vector: the
    largest id among the samples says nothing of the next text.
    """
    if isinstance(task.tokenizer, WordPieces):
        return (len(task.tokenizer.pieces),)
    inputs = task.train.inputs
    codes = [a for a in inputs.values() if a.dtype.kind == "i" and a.ndim == 2]
    if not codes or len(inputs) != 2:
        return ()
    return tuple(int(most) + 1 for most in codes[0].max(axis=0))


def _offers(
    nursery: Nursery, profile: Profile, students: Mapping[StudentSpec, Student]
) -> tuple[StudentOffer, ...]:
    """Return what the students cost, found out once for this machine, profile and settings."""
    run, recipe = nursery.run, nursery.run.recipe
    cut = any(spec.family == "cut_teacher" for spec in students)
    key = {
        "students": [spec.label for spec in students],
        "teacher": nursery.teacher.digest if cut else None,
        "problem": asdict(nursery.problem),
        "profile": digest_of(profile.model_dump(mode="json")),
        "host": describe_host().fingerprint,
        "export": recipe.export.plain.model_dump(),
        "quantize": recipe.quantize and recipe.quantize.model_dump(),
        "measure": recipe.measure and recipe.measure.model_dump(),
    }
    return run.store.once(
        STUDENTS,
        tuple[StudentOffer, ...],
        key,
        lambda folder: student_offers(students, nursery.problem, profile, recipe, run.tick),
        title=f"judge {len(students)} untrained students",
    )


def _chosen(
    nursery: Nursery,
    students: Mapping[StudentSpec, Student],
    offers: Sequence[StudentOffer],
    settings: DistillSettings,
) -> StudentChoice:
    """Return the best of the largest that fit, each distilled for a while."""
    tried = finalists(offers, FINALISTS)
    if not tried:
        near = nearest(offers).spec
        reason = f"none of {len(offers)} students is sure to fit; {near.label} comes nearest"
        return StudentChoice(near, tuple(offers), (), reason)
    epochs = max(1, round(settings.epochs * EPOCHS_RATIO))
    short = settings.model_copy(update={"epochs": epochs, "tune": 0, "seeds": (), "peers": False})
    trials = []
    for spec in [offer.spec for offer in tried] if len(tried) > 1 else ():
        teacher = nursery.teacher.calibrated(short)
        course = Course(nursery.run, f"trial-{spec.label}", students[spec], teacher)
        arm = course.arm(DISTILLED, short, nursery.run.recipe.seed)
        trials.append(StudentTrial(spec, arm.evaluation.metric))
    best = max(trials, key=_quality).spec if trials else tried[0].spec
    reason = f"{best.label}: {sum(o.fits for o in offers)} of {len(offers)} students fit"
    if trials:
        scores = ", ".join(f"{t.spec.label} {t.metric.value:.4f}" for t in trials)
        reason += f"; of the largest, after {epochs} epochs, the best {trials[0].metric.name}"
        reason += f" ({scores})"
    return StudentChoice(best, tuple(offers), tuple(trials), reason)


def _quality(trial: StudentTrial) -> float:
    return trial.metric.value if trial.metric.higher_is_better else -trial.metric.value
