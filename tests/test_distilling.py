import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.checkpoint import save_weights, weights_digest
from edgecompress.distilling.choice import CONTROL, DISTILLED, PSEUDO, STUDENTS
from edgecompress.distilling.distill import distill
from edgecompress.distilling.loop import Bench, learning_rate, require_rows_for_all, sample_order
from edgecompress.distilling.modes import fastest_mode
from edgecompress.errors import DataError, OutOfTimeError, TeacherError, TrainingError
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.records import EpochPoint, Mode
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import as_teacher
from edgecompress.teachers.weights import load_weights_

CLASSES = 3
QUICK = DistillSettings(epochs=3, batch_size=16, learning_rate=1e-2, precision="fp32")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _split(rows: int, seed: int, labelled: bool = True) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    x[np.arange(rows), labels] += 2.0
    return Split({"x": x}, labels if labelled else None)


def _hidden(split: Split, label: int) -> Split:
    assert split.labels is not None
    return replace(split, labels=np.where(np.arange(len(split)) < 10, label, split.labels))


def _net(seed: int, width: int = 16, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(width, CLASSES),
    )  # fmt: skip


def _knowing() -> nn.Module:
    """Return a teacher that tells the blobs apart, with statistics that training would move."""
    linear = nn.Linear(4, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.eye(CLASSES, 4))
        linear.bias.zero_()
    return nn.Sequential(linear, nn.BatchNorm1d(CLASSES))


def _noise(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    x = batch["x"]
    return {"x": x + 0.3 * torch.randn(x.shape, generator=generator)}


def _task(**changes: object) -> Task:
    task = Task(
        "blobs", _split(96, 0), _split(64, 1), _split(64, 2),
        teacher=lambda: _net(7, 64), student=lambda: _net(1), class_names=("a", "b", "c"),
    )  # fmt: skip
    return replace(task, **changes)  # type: ignore[arg-type]


# --- the loop -------------------------------------------------------------------------------


def test_each_epoch_can_be_watched() -> None:
    seen = []

    def watch(point: EpochPoint, module: nn.Module) -> None:
        assert not module.training
        seen.append((point, weights_digest(module)))

    arm = train_arm(CONTROL, _net(1), _task(), QUICK, Bench(watch=watch))
    assert tuple(point for point, _ in seen) == arm.curve
    assert len({digest for _, digest in seen}) == QUICK.epochs
    assert seen[-1][1] == weights_digest(arm.module)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    settings = TrainSettings(learning_rate=0.1, warmup_ratio=0.1)
    rates = [learning_rate(settings, step, 50) for step in range(50)]
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.02)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own() -> None:
    first, second = sample_order(50, 50, 0, 0), sample_order(50, 50, 0, 1)
    assert sorted(first.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() == sample_order(50, 50, 0, 0).tolist()


def test_distillation_trains_both_arms_and_leaves_its_inputs_alone() -> None:
    task, teacher, student = _task(), _knowing(), _net(1)
    before = weights_digest(teacher), weights_digest(student)
    teacher.train()
    result = distill(student, teacher, task, QUICK)
    assert (weights_digest(teacher), weights_digest(student)) == before
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert [arm.name for arm in result.arms] == [DISTILLED, CONTROL]
    assert [len(arm.curve) for arm in result.arms] == [3, 3]
    assert f"the {STUDENTS[result.shipped]} goes on" in result.reason
    assert result.module is next(a.module for a in result.arms if a.name == result.shipped)


def test_the_control_learns_the_task_and_the_same_seed_gives_the_same_bits() -> None:
    task, settings = _task(), QUICK.model_copy(update={"epochs": 10})
    one, two = (train_arm(CONTROL, _net(1, dropout=0.2), task, settings) for _ in range(2))
    assert one.evaluation.metric.value > 0.8
    assert weights_digest(one.module) == weights_digest(two.module)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_killed_training_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    task = _task(augment=_noise)
    settings = QUICK.model_copy(update={"optimizer": optimizer, "views": 2})
    teacher, student = as_teacher(_net(7, 64), task.class_names), _net(1, dropout=0.3)
    whole = train_arm(DISTILLED, student, task, settings, Bench(), teacher)

    for step in (4, 9):  # inside the first epoch, inside the second

        def kill(text: str, done: int, total: int, step: int = step) -> None:
            if text.startswith("epoch") and done == step:
                raise _KilledError

        bench = Bench(checkpoint=tmp_path / "c.safetensors", tick=kill)
        with pytest.raises(_KilledError):
            train_arm(DISTILLED, student, task, settings, bench, teacher)
    resumed = train_arm(
        DISTILLED, student, task, settings, Bench(checkpoint=tmp_path / "c.safetensors"), teacher
    )
    assert weights_digest(resumed.module) == weights_digest(whole.module)
    assert [p.loss for p in resumed.curve] == [p.loss for p in whole.curve]


def test_a_torn_checkpoint_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0torn")
    resumed = train_arm(CONTROL, _net(1), _task(), QUICK, Bench(checkpoint=path))
    assert weights_digest(resumed.module) == weights_digest(
        train_arm(CONTROL, _net(1), _task(), QUICK).module
    )


def test_tick_may_stop_a_training() -> None:
    def stop(text: str, done: int, total: int) -> None:
        raise OutOfTimeError("--max-time is used up")

    with pytest.raises(OutOfTimeError):
        train_arm(CONTROL, _net(1), _task(), QUICK, Bench(tick=stop))


class _Exploding(nn.Module):
    """Answer with infinity whenever its weight has left a small range."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        far = (self.layer.weight.abs() > 10).any()
        return self.layer(x) * torch.where(far, torch.tensor(float("inf")), torch.tensor(1.0))


def test_a_training_that_breaks_goes_back_and_tries_slower() -> None:
    settings = TrainSettings(epochs=2, batch_size=16, learning_rate=8.0, weight_decay=0.0)
    result = train_arm(CONTROL, _Exploding(), _task(), settings)
    assert all(bool(torch.isfinite(p).all()) for p in result.module.parameters())


def test_a_training_that_keeps_breaking_stops_with_the_cause() -> None:
    settings = TrainSettings(epochs=2, batch_size=16, learning_rate=1e6)
    told = (
        "training: the loss is not finite in epoch 1, also with the learning rate lowered 3 times"
    )
    with pytest.raises(TrainingError) as found:
        train_arm(CONTROL, _Exploding(), _task(), settings)
    assert str(found.value) == f"{told}; give a lower learning_rate"
    half = Bench(mode=Mode(precision="bf16"), section="redistill")
    with pytest.raises(TrainingError) as found:
        train_arm(CONTROL, _Exploding(), _task(), settings, half)
    assert str(found.value).endswith(
        'give a lower redistill.learning_rate, or redistill.precision = "fp32"'
    )


def test_a_frozen_student_is_refused() -> None:
    student = _net(1).requires_grad_(False)
    with pytest.raises(TrainingError, match="all of its parameters are frozen"):
        train_arm(CONTROL, student, _task(), QUICK)


def test_a_batch_that_leaves_a_process_without_samples_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"a batch of 3 samples for 4 processes; .*larger batch"
    ):
        require_rows_for_all(3, 4)
    require_rows_for_all(4, 4)


# --- views and soft targets -----------------------------------------------------------------


def test_every_step_pairs_a_sample_with_the_teachers_word_on_that_view_of_it() -> None:
    teacher = _knowing()[0]  # a student that is its teacher has nothing to learn, at any step
    settings = QUICK.model_copy(update={"views": 2, "kd_weight": 1.0, "learning_rate": 1e-9})
    task = _task(augment=_noise)
    arm = train_arm(
        DISTILLED, teacher, task, settings, Bench(), as_teacher(teacher, ("a", "b", "c"))
    )
    assert max(abs(point.loss) for point in arm.curve) < 1e-5


def test_a_teacher_that_is_not_finite_stops_before_any_step() -> None:
    class Broken:
        def logits(self, inputs: dict[str, Tensor]) -> Tensor:
            answer = inputs["x"][:, :CLASSES].clone()
            answer[5, 1] = float("nan")
            return answer

    with pytest.raises(TeacherError, match=r"sample 5 .*not finite"):
        distill(_net(1), Broken(), _task(), QUICK)


@pytest.mark.parametrize(
    ("teacher", "changes", "error", "words"),
    [
        (nn.Linear(4, 1), {"class_names": ()}, TeacherError, r"teacher: returned shape \(64, 1\)"),
        (_net(7), {"validation": _split(96, 0)}, DataError, "train and validation share 96"),
        (_net(7), {"train": _hidden(_split(96, 0), -1)}, DataError, "label -1 of sample 0"),
        (_net(7), {"train": _hidden(_split(96, 0), -100)}, DataError, "label -100 of sample 0"),
    ],
)
def test_what_would_mislead_is_refused_before_training(
    teacher: nn.Module, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        distill(_net(1), teacher, _task(**changes), QUICK)


def test_a_pool_teaches_all_arms_but_the_control() -> None:
    task = _task(unlabelled=_split(160, 5, labelled=False))
    result = distill(_net(1), _knowing(), task, QUICK)
    assert [arm.name for arm in result.arms] == [DISTILLED, CONTROL, PSEUDO]
    plain = train_arm(CONTROL, _net(1), _task(), QUICK)
    control = next(arm for arm in result.arms if arm.name == CONTROL)
    assert weights_digest(control.module) != weights_digest(plain.module)  # more steps, same labels


def test_a_recorded_mode_is_one_that_was_tried() -> None:
    mode = fastest_mode(_net(1), _task(), TrainSettings(precision="fp32"))
    assert (mode.precision, mode.channels_last) == ("fp32", False)


def test_weights_survive_the_disk(tmp_path: Path) -> None:
    net = _net(3)
    save_weights(net, tmp_path / "w.safetensors")
    other = load_weights_(copy.deepcopy(_net(4)), tmp_path / "w.safetensors")
    assert weights_digest(other) == weights_digest(net)
