"""A killed training goes on from its checkpoint, in the middle of an epoch, to the same bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lessons import CLASSES, blobs, dense
from torch import Tensor, nn

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.augmentations import Noise
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.loop import Bench
from edgecompress.recipe import DistillSettings
from edgecompress.records import Mode
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import as_teacher

QUICK = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "precision": "fp32"}


class KilledError(Exception):
    """Stand for a kill: nothing that was in memory is there afterwards."""


def killing(word: str, at: int) -> Bench:
    def tick(text: str, done: int, total: int) -> None:
        if text.startswith(word) and done >= at:
            raise KilledError

    return Bench(tick=tick)


def trained(
    task: Task, settings: DistillSettings, student: nn.Module, bench: Bench
) -> tuple[str, list[float]]:
    teacher = as_teacher(dense(7, 32), task.class_names)
    arm = train_arm("distilled", student, task, settings, bench, teacher)
    return weights_digest(arm.module), [point.loss for point in arm.curve]


@pytest.mark.parametrize(
    "keys",
    [
        {"views": 2, "mixing": "mixup"},
        {"mixing": "mixup", "soft_targets": "fp16"},  # a fresh view each epoch
        {"views": 3, "mixing": "munge", "soft_targets": "top-1", "optimizer": "sgd"},
        {"views": 2, "accumulate": 2, "lr_scaling": "sqrt"},
    ],
)
def test_a_training_killed_again_and_again_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object]
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    task = replace(blobs(pool=40), augment=Noise("x", 0.3))
    settings, student = DistillSettings.model_validate({**QUICK, **keys}), dense(1, 8, dropout=0.3)
    whole = trained(task, settings, student, Bench())
    steps = (96 + 40) // (16 * settings.accumulate)
    places = {"checkpoint": tmp_path / "c.safetensors", "soft_folder": tmp_path / "soft"}
    # While the teacher is asked; inside the first epoch, the second, and between two.
    for word, at in (("soft", 96), ("epoch", 2), ("epoch", steps), ("epoch", steps + 3)):
        with pytest.raises(KilledError):
            trained(task, settings, student, replace(killing(word, at), **places))
    assert trained(task, settings, student, Bench(**places)) == whole


def test_moments_come_back_in_the_layout_of_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(64, 2, 6, 6)).astype(np.float32)
    split = Split({"image": image}, np.arange(64) % CLASSES)
    task = replace(blobs(), train=split, validation=split.take(slice(0, 16)))
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(20, CLASSES)
    )
    settings = DistillSettings.model_validate(QUICK)
    bench = Bench(mode=Mode(channels_last=True))
    whole = train_arm("control", student, task, settings, bench)
    kept = replace(bench, checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(KilledError):
        train_arm("control", student, task, settings, replace(kept, tick=killing("epoch", 5).tick))
    resumed = train_arm("control", student, task, settings, kept)
    assert weights_digest(resumed.module) == weights_digest(whole.module)
    plain = train_arm("control", student, task, settings)  # and the layout changes no result
    for one, other in zip(plain.module.parameters(), whole.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_going_back_after_a_broken_step_takes_weights_and_moments_back() -> None:
    class Breaking(nn.Module):
        """Answer with NaN at its tenth training step, in the second epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = dense(1, 8), 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen += self.training
            return self.net(x) * (float("nan") if self.seen == 10 else 1.0)

    settings = DistillSettings.model_validate({**QUICK, "epochs": 2, "optimizer": "sgd"})
    broken = train_arm("control", Breaking(), blobs(), settings)
    assert len(broken.curve) == 2
    assert all(bool(torch.isfinite(p).all()) for p in broken.module.parameters())
    unbroken = train_arm("control", dense(1, 8), blobs(), settings)
    assert broken.curve[0].loss == unbroken.curve[0].loss
