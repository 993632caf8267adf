"""What the recipe says of a lesson: its losses, schedules, accumulation, and a user's own loss."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lessons import blobs, dense
from torch import Tensor, nn

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.choice import CONTROL, DISTILLED
from edgecompress.distilling.distill import distill
from edgecompress.distilling.lesson import value_at
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.losses import UNLABELLED, distillation_loss
from edgecompress.errors import RecipeError, TrainingError
from edgecompress.lessons import DistillSettings, TemperatureSchedule, WeightSchedule
from edgecompress.recipe import load_recipe
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import as_teacher

QUICK = DistillSettings(epochs=3, batch_size=16, learning_rate=1e-2, precision="fp32")
FALLING = TemperatureSchedule(start=5.0, end=1.0, schedule="exponential")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _taught(settings: DistillSettings, task: Task | None = None, bench: Bench = Bench()) -> str:
    """Return the digest of the distilled arm's weights."""
    task = task or blobs()
    teacher = as_teacher(dense(7, 32), task.class_names)
    return weights_digest(train_arm(DISTILLED, dense(1, 8), task, settings, bench, teacher).module)


# --- what the recipe may say ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("distill.temperature={start=5.0,end=1.0,schedule='cosine'}", "start=5.0 end=1.0"),
        ("distill.temperature=3", "3.0"),
        ("distill.loss=standardized", "2.0"),
        ("distill.loss=dist", "1.0"),
    ],
)
def test_a_temperature_is_a_number_a_schedule_or_the_papers(override: str, wanted: str) -> None:
    recipe = load_recipe(None, [override])
    assert recipe.distill is not None
    assert wanted in str(recipe.distill.temperature)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["distill.loss=dkdd"], "distill.loss: given \"dkdd\", expected 'auto', 'kd'"),
        (["distill.temperature={start=0,end=1}"], "distill.temperature.start: given 0, expected g"),
        (["distill.temperature={start=5,ende=1}"], "temperature.ende: unknown key; did you mean"),
        (["distill.temperature='hot'"], 'distill.temperature: given "hot", expected a number, wi'),
        (["distill.temperature={start=5}"], "temperature.end: missing, expected temperature at t"),
        (["distill.kd_weight={start=2,end=1}"], "kd_weight.start: given 2, expected less than or"),
        (
            ["distill.kd_weight={start=1,end=0,schedule='exponential'}"],
            'no exponential reaches 0; take schedule = "cosine"',
        ),
        (["distill.dkd_beta=2"], 'given dkd_beta with loss = "auto", which does not read it; rem'),
        (["distill.loss=mse", "distill.temperature=2"], 'given temperature with loss = "mse"'),
        (["distill.loss=multi", "distill.temperatures=[]"], "distill.temperatures: given []"),
        (["distill.features.layers=[['a']]"], 'layers[0][1]: given ["a"], expected one entry more'),
        (["distill.features.layers=[]"], "distill.features.layers: given []"),
        (["distill.features.loss=hint"], "features.layers: missing, expected pairs of module pa"),
        (["distill.accumulation=2"], "unknown key; did you mean 'accumulate'?"),
    ],
)
def test_a_wrong_lesson_is_refused_in_one_line(overrides: list[str], wanted: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(None, overrides)
    assert wanted in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_survive_being_written_and_read() -> None:
    settings = DistillSettings(loss="dist", temperature=FALLING, dist_gamma=2.0)
    assert DistillSettings.model_validate_json(settings.model_dump_json(), strict=True) == settings


# --- losses ---------------------------------------------------------------------------------


def test_every_loss_of_the_recipe_teaches_in_its_own_way() -> None:
    losses = ("kd", "dkd", "dist", "standardized", "mse", "multi")
    digests = {_taught(QUICK.model_copy(update={"loss": loss})) for loss in losses}
    assert len(digests) == len(losses)


@pytest.mark.parametrize("loss", ["dkd", "dist", "standardized", "mse", "multi"])
def test_the_control_learns_alike_whatever_the_loss(loss: str) -> None:
    settings = QUICK.model_copy(update={"loss": loss})
    arms = [train_arm(CONTROL, dense(1, 8), blobs(), s) for s in (QUICK, settings)]
    assert weights_digest(arms[0].module) == weights_digest(arms[1].module)


def test_decoupled_losses_of_an_unlabelled_pool_are_refused_before_the_teacher_is_asked() -> None:
    settings = QUICK.model_copy(update={"loss": "dkd"})
    with pytest.raises(TrainingError, match="'dkd' needs the label of every sample"):
        _taught(settings, blobs(pool=32))


def test_a_loss_of_ones_own_takes_the_recipes_place() -> None:
    def mine(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        assert student.shape == teacher.shape == (16, 3)
        return distillation_loss(student, teacher, labels, 4.0, 0.9)

    assert _taught(QUICK, bench=Bench(loss=mine)) == _taught(QUICK)
    task = blobs()
    result = distill(
        dense(1, 8), dense(7, 32), task, QUICK, loss=lambda s, t, y: (s - t).abs().mean()
    )
    assert weights_digest(result.arms[0].module) != _taught(QUICK)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda s, t, y: (s - t).abs(), r"returned shape \(16, 3\); expected one number"),
        (lambda s, t, y: 1.0, "returned float; expected one number as a tensor"),
        (lambda s, t, y: t.mean(), "made from the student's logits"),
    ],
)
def test_a_loss_of_ones_own_must_be_one_number(loss, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        _taught(QUICK, bench=Bench(loss=loss))


# --- schedules ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "half"), [("linear", 3.0), ("cosine", 3.0), ("exponential", 5**0.5)]
)
def test_a_schedule_goes_from_start_to_end(schedule: str, half: float) -> None:
    way = FALLING.model_copy(update={"schedule": schedule})
    values = [value_at(way, done) for done in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert (values[0], values[2], values[-1]) == pytest.approx((5.0, half, 1.0))
    assert values == sorted(values, reverse=True)


def test_a_schedule_that_stands_still_is_the_number() -> None:
    still = TemperatureSchedule(start=4.0, end=4.0)
    assert _taught(QUICK.model_copy(update={"temperature": still})) == _taught(QUICK)


def test_a_schedule_changes_what_is_learned() -> None:
    weight = WeightSchedule(start=1.0, end=0.0, schedule="cosine")
    digests = {
        _taught(QUICK.model_copy(update=update))
        for update in ({}, {"temperature": FALLING}, {"kd_weight": weight})
    }
    assert len(digests) == 3


def test_the_first_step_has_the_start_and_the_last_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spy(given: object, done: float) -> float:
        seen.append(done)
        return 1.0

    monkeypatch.setattr("edgecompress.distilling.lesson.value_at", spy)
    _taught(QUICK)
    assert (seen[0], seen[-1], len(seen)) == (0.0, 1.0, 2 * 3 * 6)
    assert seen == sorted(seen)


class _KilledError(Exception):
    pass


def test_a_killed_training_with_schedules_and_parts_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    weight = WeightSchedule(start=0.9, end=0.5)
    settings = QUICK.model_copy(
        update={"temperature": FALLING, "kd_weight": weight, "accumulate": 2, "lr_scaling": "sqrt"}
    )

    def kill(text: str, done: int, total: int) -> None:
        if text.startswith("epoch") and done == 5:
            raise _KilledError

    path = tmp_path / "c.safetensors"
    with pytest.raises(_KilledError):
        _taught(settings, bench=Bench(checkpoint=path, tick=kill))
    assert _taught(settings, bench=Bench(checkpoint=path)) == _taught(settings)


# --- accumulation ---------------------------------------------------------------------------


def _smooth(seed: int) -> nn.Module:
    """Return a network in float64 without batch norm, whose statistics are those of each part."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()


@pytest.mark.parametrize("pool", [0, 50])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("scaling", "growth"), [("none", 1.0), ("linear", 3.0), ("sqrt", 3**0.5)])
def test_accumulated_batches_make_the_steps_of_the_large_batch(
    scaling: str, growth: float, optimizer: str, pool: int
) -> None:
    task = blobs(np.float64, pool)
    parts = QUICK.model_copy(
        update={"accumulate": 3, "lr_scaling": scaling, "optimizer": optimizer}
    )
    large = QUICK.model_copy(
        update={"batch_size": 48, "learning_rate": 1e-2 * growth, "optimizer": optimizer}
    )
    teacher = as_teacher(_smooth(7), task.class_names)
    ends = [
        train_arm(DISTILLED, _smooth(1), task, settings, Bench(), teacher).module
        for settings in (parts, large)
    ]
    assert weights_digest(ends[0]) != weights_digest(_smooth(1))
    for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_batch_as_large_as_the_data_scales_by_what_it_holds() -> None:
    whole = QUICK.model_copy(update={"batch_size": 96, "learning_rate": 6e-2})
    parts = QUICK.model_copy(update={"accumulate": 100, "lr_scaling": "linear"})
    task = blobs(np.float64)
    ends = [train_arm(CONTROL, _smooth(1), task, s).module for s in (whole, parts)]
    for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_unlabelled_is_the_label_of_the_pool() -> None:
    seen: list[int] = []

    def mine(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        seen.extend(labels.tolist())
        return distillation_loss(student, teacher, labels, 4.0, 0.9)

    _taught(QUICK, blobs(pool=32), Bench(loss=mine))
    assert seen.count(UNLABELLED) == 3 * 32
