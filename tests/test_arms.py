"""All arms of a seed see the same, seeds stay apart; peers, and students born again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kind_tasks import KINDS
from kind_tasks import knowing as knowing_kind
from kind_tasks import network as network_of
from kind_tasks import task as task_of
from tiny_lessons import CLASSES, knowing, noisy_task, small
from torch import Tensor, nn

from edgecompress.distilling.arms import arm_names, settings_of, train_arm
from edgecompress.distilling.beginnings import begun
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.choice import CODISTILLED, CONTROL, DISTILLED, PSEUDO
from edgecompress.distilling.distill import distill
from edgecompress.distilling.hints import Answer
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.losses import hard_loss
from edgecompress.errors import RecipeError
from edgecompress.pipeline.networks import Network
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, train_student
from edgecompress.recipe import DistillSettings, Recipe, load_recipe
from edgecompress.records import Kind
from edgecompress.teachers.adapters import as_teacher
from edgecompress.teachers.forms import classes_form

QUICK = DistillSettings(epochs=2, batch_size=16, learning_rate=1e-2, precision="fp32")
LONGER = QUICK.model_copy(update={"epochs": 10})


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def taught_by(teacher: nn.Module) -> object:
    return as_teacher(teacher, classes_form(("a", "b", "c")))


# --- what the arms see ------------------------------------------------------------------------


class Watching(nn.Module):
    """Note every batch that it is trained on, and the state of the generator that it draws from."""

    def __init__(self, seen: list[Tensor], drawn: list[Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)
        self.seen, self.drawn = seen, drawn

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.clone())
            self.drawn.append(torch.random.get_rng_state())
        return self.layer(x)


def watched(name: str, pool: int) -> tuple[list[Tensor], list[Tensor]]:
    seen: list[Tensor] = []
    drawn: list[Tensor] = []
    train_arm(
        name,
        lambda: Watching(seen, drawn),
        noisy_task(pool),
        QUICK,
        Bench(seed=5),
        taught_by(knowing()),  # type: ignore[arg-type]
    )
    return seen, drawn


def assert_alike(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_distilled_and_control_see_the_same_batches_and_draw_alike() -> None:
    (seen, drawn), (others, others_drawn) = watched(DISTILLED, 0), watched(CONTROL, 0)
    assert_alike(seen, others)
    assert_alike(drawn, others_drawn)
    assert len(seen) == 2 * (96 // 16)
    assert not torch.equal(torch.cat(seen[:6]).sort(dim=0)[0], torch.cat(seen[6:]).sort(dim=0)[0])


def test_all_arms_that_are_shown_the_pool_see_it_in_the_same_order() -> None:
    seen, _ = watched(DISTILLED, pool=64)
    assert_alike(seen, watched(PSEUDO, pool=64)[0])
    both, _ = watched(CODISTILLED, pool=64)
    assert_alike(seen, both[0::2])
    assert_alike(seen, both[1::2])  # the other peer
    control, _ = watched(CONTROL, pool=64)
    assert [len(batch) for batch in control] == [len(batch) for batch in seen]


def test_pseudo_labels_are_the_teachers_hard_answers_on_the_pool_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Tensor] = []
    lesson = "edgecompress.distilling.lesson.Lesson.loss"

    def spy(self: object, answer: Answer, word: object, labels: Tensor, *rest: object) -> Tensor:
        shown.append(labels)
        return hard_loss(answer.logits, labels)

    monkeypatch.setattr(lesson, spy)
    given = noisy_task(pool=64, augment=None)
    one_batch = QUICK.model_copy(update={"epochs": 1, "batch_size": 160})
    train_arm(PSEUDO, small, given, one_batch, Bench(), taught_by(knowing()))  # type: ignore[arg-type]
    assert given.unlabelled is not None
    answers = given.unlabelled.inputs["x"][:, :CLASSES].argmax(axis=1)
    expected = sorted([*given.train.labels.tolist(), *answers.tolist()])  # type: ignore[union-attr]
    assert sorted(shown[0].tolist()) == expected


def test_there_are_as_many_arms_as_the_task_and_the_recipe_ask_for() -> None:
    peers = QUICK.model_copy(update={"peers": True})
    assert arm_names(noisy_task(), QUICK) == (DISTILLED, CONTROL)
    assert arm_names(noisy_task(pool=8), QUICK) == (DISTILLED, CONTROL, PSEUDO)
    assert arm_names(noisy_task(pool=8), peers) == (DISTILLED, CONTROL, PSEUDO, CODISTILLED)


# --- seeds ------------------------------------------------------------------------------------


def test_seeds_repeat_all_arms_with_first_weights_of_their_own() -> None:
    several = QUICK.model_copy(update={"seeds": (3, 1)})
    made = distill(small, knowing(), noisy_task(), several)
    assert [(a.name, a.seed) for a in made.arms] == [
        (DISTILLED, 3), (CONTROL, 3), (DISTILLED, 1), (CONTROL, 1),
    ]  # fmt: skip
    alone = distill(small, knowing(), noisy_task(), QUICK, Bench(seed=1))
    assert [weights_digest(a.module) for a in made.arms[2:]] == [
        weights_digest(a.module) for a in alone.arms
    ]
    assert weights_digest(begun(small, 3)) != weights_digest(begun(small, 1))
    assert weights_digest(made.module) in {
        weights_digest(a.module) for a in made.arms if a.name == made.shipped
    }
    assert f"student of seed {made.seed}, its best, goes on" in made.reason


def test_a_module_is_where_every_seed_begins() -> None:
    start = small()
    assert weights_digest(begun(start, 0)) == weights_digest(begun(start, 1))
    before = torch.random.get_rng_state()
    begun(small, 0)
    assert torch.equal(torch.random.get_rng_state(), before)  # no draw of anybody else changes


def test_a_key_holds_nothing_twice() -> None:
    plain = settings_of(DISTILLED, QUICK)
    other = {"calibrate_teacher": False, "narrow_by": "pca", "seeds": (3,), "peers": True}
    assert settings_of(DISTILLED, QUICK.model_copy(update=other)) == plain
    assert settings_of(DISTILLED, QUICK.model_copy(update={"kd_weight": 0.4})) != plain


def test_seeds_are_checked_at_the_door() -> None:
    with pytest.raises(RecipeError, match=r"one seed trains the same networks each time"):
        load_recipe(None, ["distill.seeds=[1, 1]"])
    with pytest.raises(RecipeError, match=r"distill.seeds\[0\]"):
        load_recipe(None, ["distill.seeds=[-1]"])
    with pytest.raises(RecipeError, match=r"give peers and student in \[distill\]"):
        load_recipe(None, ["prune.pruning_ratio=0.3", "redistill.peers=true"])


class _KilledError(Exception):
    pass


def run_chain(out: Path, settings: DistillSettings, stop: str = "") -> tuple[Network, list[str]]:
    said: list[str] = []

    def tick(text: str, done: int, total: int) -> None:
        if stop and text.startswith(stop) and done > total // 2:
            raise _KilledError

    recipe = Recipe(task="digits", distill=settings)
    with open_run(recipe, out, RunOptions(say=said.append, tick=tick), noisy_task(pool=32)) as run:
        return train_student(run, obtain_teacher(run)), said


def started(said: list[str]) -> list[str]:
    return [line.removesuffix(": started") for line in said if line.endswith("started")]


def test_a_kill_between_seeds_costs_nothing_and_a_new_seed_trains_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    settings = QUICK.model_copy(update={"seeds": (0, 1), "peers": True})
    whole, said = run_chain(tmp_path / "whole", settings)
    assert [line for line in started(said) if "seed" in line] == [
        f"distill {name}, seed {seed}"
        for seed in (0, 1)
        for name in (DISTILLED, CONTROL, PSEUDO, CODISTILLED)
    ]
    for stop in ("distill control, seed 0", "distill codistilled, seed 1"):
        with pytest.raises(_KilledError):
            run_chain(tmp_path / "killed", settings, stop)
    resumed, said = run_chain(tmp_path / "killed", settings)
    assert started(said) == ["distill codistilled, seed 1", "distill figures"]
    assert whole.training is not None
    assert resumed.training is not None
    assert [a.weights.sha256 for a in resumed.training.arms] == [
        a.weights.sha256 for a in whole.training.arms
    ]
    assert resumed.digest == whole.digest
    more = settings.model_copy(update={"seeds": (0, 1, 2)})
    grown, said = run_chain(tmp_path / "killed", more)
    assert [line for line in started(said) if "seed" in line] == [
        f"distill {name}, seed 2" for name in (DISTILLED, CONTROL, PSEUDO, CODISTILLED)
    ]
    assert grown.training is not None
    assert [a.seed for a in grown.training.arms] == [0] * 4 + [1] * 4 + [2] * 4
    assert "better in " in grown.training.reason
    seen_alike = list((tmp_path / "killed").glob("soft_targets/*/*.npy"))
    assert len(seen_alike) == 1  # the teacher was asked once for all seeds


def test_figures_stand_beside_every_arm_and_the_teacher(tmp_path: Path) -> None:
    network, _ = run_chain(tmp_path, QUICK)
    training = network.training
    assert training is not None
    assert training.teacher is not None
    assert not training.teacher.trained_here
    assert training.teacher.figures.agreement is None
    for arm in training.arms:
        assert arm.figures is not None
        assert arm.figures.nll is not None
        assert 0 <= arm.figures.membership_low <= arm.figures.membership_auc <= 1
    python = distill(small, knowing(), noisy_task(pool=32), QUICK)
    assert [a.figures for a in python.arms] == [a.figures for a in training.arms]
    assert python.teacher == training.teacher
    assert python.reason == training.reason


def test_python_calibrates_the_teacher_as_a_run_does() -> None:
    class Boasting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 40 * x[:, :CLASSES]

    raw = QUICK.model_copy(update={"calibrate_teacher": False})
    one, other = (distill(small, Boasting(), noisy_task(), s).teacher for s in (QUICK, raw))
    assert one is not None and one.figures.nll is not None
    assert other is not None and other.figures.nll is not None
    assert one.figures.nll < other.figures.nll / 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_has_all_arms_and_figures(kind: Kind) -> None:
    settings = QUICK.model_copy(update={"epochs": 12, "batch_size": 32, "peers": True})
    given = task_of(kind, unlabelled=64)
    made = distill(lambda: network_of(kind, 32), knowing_kind(kind), given, settings)
    assert [arm.name for arm in made.arms] == [DISTILLED, CONTROL, PSEUDO, CODISTILLED]
    assert made.teacher is not None
    with_classes = kind not in ("regression", "embedding")
    for arm in made.arms:
        assert arm.figures is not None
        assert (arm.figures.nll is not None) == with_classes
        assert (arm.figures.calibration_error is not None) == with_classes
        assert arm.figures.agreement is not None
        assert arm.figures.agreement > 0.8
        assert 0.3 < arm.figures.membership_auc < 0.8
    assert made.reason.startswith("distillation ")
