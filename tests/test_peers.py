"""Students born again of their teacher, and peers that teach each other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_lessons import CLASSES, blobs, dense, knowing, noisy_task, small
from torch import Tensor, nn

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.beginnings import afresh, begun
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.choice import CODISTILLED, CONTROL
from edgecompress.distilling.distill import distill
from edgecompress.distilling.hints import Answer
from edgecompress.distilling.kinds import Aim
from edgecompress.distilling.lesson import Moment
from edgecompress.distilling.loop import Bench, train_
from edgecompress.distilling.losses import hard_loss, soft_loss
from edgecompress.distilling.peers import BURN_IN_RATIO, Pair, PeerLesson
from edgecompress.distilling.scoring import forward
from edgecompress.distilling.views import task_views
from edgecompress.errors import RecipeError, TaskError, TrainingError
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, train_student
from edgecompress.recipe import DistillSettings, Recipe, TrainSettings

QUICK = DistillSettings(epochs=2, batch_size=16, learning_rate=1e-2, precision="fp32")
LONGER = QUICK.model_copy(update={"epochs": 10})


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class _KilledError(Exception):
    pass


# --- self-distillation ------------------------------------------------------------------------


def test_a_student_is_born_again_of_its_teacher() -> None:
    teacher = train_arm(CONTROL, dense(7, 32), blobs(), LONGER).module.requires_grad_(False)
    before = weights_digest(teacher)
    made = distill(None, teacher, blobs(), LONGER.model_copy(update={"student": "teacher"}))
    assert weights_digest(teacher) == before
    distilled = made.arms[0]
    assert [p.shape for p in distilled.module.parameters()] == [
        p.shape for p in teacher.parameters()
    ]
    assert distilled.figures is not None
    assert distilled.figures.agreement is not None
    assert distilled.figures.agreement > 0.9
    fresh = afresh(teacher)
    assert all(p.requires_grad for p in fresh.parameters())
    answers = (forward(m, blobs().validation.inputs).argmax(axis=1) for m in (fresh, teacher))
    assert (next(answers) == next(answers)).mean() < 0.9  # it knows nothing yet


@pytest.mark.parametrize("section", ["trained here", "came trained"])
def test_a_recipe_may_ask_for_the_teachers_architecture(tmp_path: Path, section: str) -> None:
    lesson = QUICK.model_copy(update={"student": "teacher"})
    trained = TrainSettings(epochs=10, batch_size=16, learning_rate=1e-2, precision="fp32")
    here = section == "trained here"
    recipe = Recipe(task="digits", distill=lesson, teacher=trained if here else None)
    given = noisy_task(teacher=lambda: dense(7, 32)) if here else noisy_task()
    with open_run(recipe, tmp_path, RunOptions(), given) as run:
        teacher = obtain_teacher(run)
        student = train_student(run, teacher)
    assert teacher.network is not None
    assert [p.shape for p in student.module.parameters()] == [
        p.shape for p in teacher.network.module.parameters()
    ]
    assert student.digest != teacher.network.digest
    assert student.training is not None
    assert student.training.teacher is not None
    assert student.training.teacher.trained_here == here


def test_every_part_that_keeps_weights_must_say_how_they_are_drawn() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, CLASSES)
            self.scale = nn.Parameter(torch.ones(CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale

    with pytest.raises(TrainingError, match=r"module 'Scaled' has weights of its own and no reset"):
        afresh(Scaled())
    with pytest.raises(TrainingError, match="module '1' has weights of its own"):
        afresh(nn.Sequential(nn.Linear(4, 4), Scaled()))


def test_norms_forget_what_they_have_seen() -> None:
    norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    norm(torch.randn(64, 4) + 5)
    assert torch.equal(afresh(norm)[1].running_mean, torch.zeros(4))  # type: ignore[index]


class Rule:
    """Teach by a rule; no torch module."""

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return 3 * inputs["x"][:, :CLASSES]


def test_only_a_torch_teacher_can_be_born_again() -> None:
    lesson = QUICK.model_copy(update={"student": "teacher"})
    with pytest.raises(RecipeError, match="this one is Rule, no torch module; remove the key"):
        distill(None, Rule(), noisy_task(), lesson)
    with pytest.raises(TaskError, match=r'student is Sequential and settings\.student "teacher"'):
        distill(small(), knowing(), noisy_task(), lesson)
    with pytest.raises(TaskError, match=r'student is NoneType and settings\.student "task"'):
        distill(None, knowing(), noisy_task(), QUICK)
    with pytest.raises(TaskError, match=r"student\(\) returned str; expected a torch.nn.Module"):
        begun(lambda: "net", 0)  # type: ignore[arg-type, return-value]


# --- codistillation ---------------------------------------------------------------------------


def test_peers_learn_without_a_teacher_and_the_better_one_is_kept() -> None:
    arm = train_arm(CODISTILLED, small, blobs(), LONGER)
    assert isinstance(arm.module, nn.Sequential)
    assert arm.evaluation.metric.value > 0.8
    assert len(arm.curve) == LONGER.epochs
    assert arm.curve[-1].validation == pytest.approx(arm.evaluation.metric.value)


def test_peers_teach_each_other() -> None:
    """Two that learned from each other answer more alike than two that learned apart."""
    given = blobs(pool=400)
    starts = [dense(1, 8), dense(2, 8)]
    pair = Pair(*(copy.deepcopy(start) for start in starts))
    lesson = PeerLesson(task_views(given, LONGER, 0, pool=True), 496)
    train_(pair, lesson, LONGER, lambda m: 0.0)
    pair.eval()
    alone = [train_arm(CONTROL, start, given, LONGER).module for start in starts]

    def distance(one: nn.Module, other: nn.Module) -> float:
        ours, theirs = (torch.from_numpy(forward(m, given.validation.inputs)) for m in (one, other))
        return float(soft_loss(ours, theirs, 1.0))

    assert distance(pair.one, pair.other) < 0.7 * distance(*alone)


def test_peers_learn_from_labels_alone_until_they_know_something() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 6, CLASSES), generator=draws, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, -1, -1])
    lesson = PeerLesson(task_views(blobs(), QUICK, 0, pool=False), 96)
    hard = hard_loss(logits[0], labels) + hard_loss(logits[1], labels)
    early = lesson.loss(Answer(logits), None, labels, 0.0, Moment(BURN_IN_RATIO / 2))
    torch.testing.assert_close(early, hard)
    late = lesson.loss(Answer(logits), None, labels, 0.0, Moment(0.5))
    softly = [soft_loss(logits[i], logits[1 - i].detach(), 1.0) for i in (0, 1)]
    torch.testing.assert_close(late, hard + sum(softly))
    (gradient,) = torch.autograd.grad(late, logits)
    (own,) = torch.autograd.grad(hard_loss(logits[0], labels) + softly[0], logits)
    torch.testing.assert_close(gradient[0], own[0])  # no peer is changed to be easier to teach
    assert gradient[0, 5].abs().sum() > 0  # unlabelled samples take part


def test_peers_teach_each_other_what_the_metric_asks_of_embeddings() -> None:
    one = torch.tensor([[1.0, 2.0]], requires_grad=True)
    other, labels = one.detach() * 3, torch.full((1, 2), float("nan"))
    views = task_views(blobs(), TrainSettings(), 0, False)
    for angles, value in ((True, 0.0), (False, 20.0)):  # one way, but not one length
        aim = Aim("embedding", torch.ones(1, dtype=torch.float64), angles)
        lesson = PeerLesson(views, 1, aim=aim)
        loss = lesson.loss(Answer(torch.stack([one, other])), None, labels, 0.0, Moment(1.0))
        assert float(loss.detach()) == pytest.approx(value, abs=1e-6)


def test_peers_must_not_begin_alike(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="both peers begin with the same weights"):
        train_arm(CODISTILLED, small(), blobs(), QUICK)
    asked = QUICK.model_copy(update={"peers": True})

    def never(text: str, done: int, total: int) -> None:
        raise AssertionError("trained before it was refused")

    with pytest.raises(TrainingError, match="both peers begin with the same weights"):
        distill(small(), knowing(), blobs(), asked, Bench(tick=never))
    with (
        pytest.raises(TrainingError, match="both peers begin with the same weights"),
        open_run(
            Recipe(task="digits", distill=asked),
            tmp_path,
            RunOptions(tick=never),
            noisy_task(student=lambda: dense(1, 8)),  # the same weights whatever the seed
        ) as run,
    ):
        train_student(run, obtain_teacher(run))


def test_what_adjusts_gradients_is_asked_of_each_peer() -> None:
    asked: list[tuple[int, nn.Module]] = []
    bench = Bench(adjust=lambda module, step: asked.append((step, module)))
    train_arm(CODISTILLED, small, blobs(), QUICK, bench)
    assert [step for step, _ in asked] == [step for step in range(12) for _ in range(2)]
    assert all(isinstance(module, nn.Sequential) for _, module in asked)
    assert len({id(module) for _, module in asked}) == 2


def test_killed_peers_end_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    whole = train_arm(CODISTILLED, small, noisy_task(pool=32), QUICK)

    def kill(text: str, done: int, total: int) -> None:
        if text.startswith("epoch") and done == 5:
            raise _KilledError

    path = tmp_path / "c.safetensors"
    with pytest.raises(_KilledError):
        train_arm(CODISTILLED, small, noisy_task(pool=32), QUICK, Bench(checkpoint=path, tick=kill))
    resumed = train_arm(CODISTILLED, small, noisy_task(pool=32), QUICK, Bench(checkpoint=path))
    assert weights_digest(resumed.module) == weights_digest(whole.module)
