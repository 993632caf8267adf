"""Views: what a network sees in an epoch, augmented and mixed, and the labels that go with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lessons import CLASSES, blobs, dense
from torch import Tensor

from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.distill import distill
from edgecompress.distilling.views import CHUNK, content_digest, task_views
from edgecompress.errors import RecipeError, TaskError
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.tasks.task import Split, Task

FRESH, TWO = TrainSettings(), TrainSettings(views=2)


def noise(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    x = batch["x"]
    return {"x": x + 0.3 * torch.randn(x.shape, generator=generator)}


def knowing() -> torch.nn.Module:
    linear = torch.nn.Linear(4, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.eye(CLASSES, 4))
    return linear


def task_of(inputs: dict[str, np.ndarray], labels: np.ndarray, pool: int = 0) -> Task:
    whole = Split(inputs, labels)
    rest = Split({name: array[:pool] for name, array in inputs.items()}) if pool else None
    return replace(blobs(), train=whole, unlabelled=rest)


def test_views_are_fresh_each_epoch_or_repeat() -> None:
    task = replace(blobs(), augment=noise)
    fresh, few = task_views(task, FRESH, 0, False), task_views(task, TWO, 0, False)
    assert [fresh.index(epoch) for epoch in range(4)] == [0, 1, 2, 3]
    assert [few.index(epoch) for epoch in range(4)] == [0, 1, 0, 1]
    assert [task_views(blobs(), FRESH, 0, False).index(epoch) for epoch in range(2)] == [0, 0]
    mixing = TrainSettings(mixing="mixup")
    assert [task_views(blobs(), mixing, 0, False).index(epoch) for epoch in range(2)] == [0, 1]


def test_augmenting_leaves_the_task_as_it_was() -> None:
    def in_place(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        batch["x"] += 1
        return batch

    task = replace(blobs(), augment=in_place)
    before = task.train.inputs["x"].copy()
    task_views(task, FRESH, 0, False).view(3)
    np.testing.assert_array_equal(task.train.inputs["x"], before)


@pytest.mark.parametrize("mixing", ["none", "mixup", "munge"])
def test_a_view_is_made_again_from_its_number_alone(mixing: str) -> None:
    settings = TrainSettings(mixing=mixing)
    task = replace(blobs(pool=40), augment=noise)
    one = task_views(task, settings, 0, True)
    first, other = one.view(0), one.view(1)
    again = task_views(task, settings, 0, True)
    again.view(5)
    assert content_digest(again.view(0).inputs) == content_digest(first.inputs)
    assert torch.equal(again.view(0).labels, first.labels)
    assert content_digest(first.inputs) != content_digest(other.inputs)


def test_the_labelled_samples_of_a_view_are_the_same_with_and_without_a_pool() -> None:
    settings = TrainSettings(mixing="mixup")
    task = replace(blobs(pool=700), augment=noise)
    alone, pooled = (task_views(task, settings, 0, pool).view(2) for pool in (False, True))
    np.testing.assert_array_equal(alone.inputs["x"], pooled.inputs["x"][:96])
    assert torch.equal(alone.labels, pooled.labels[:96])
    assert not pooled.labels[96:].any()  # a row of zeros: unlabelled


def test_chunks_cover_every_row_once_and_part_labelled_from_unlabelled() -> None:
    views = task_views(blobs(pool=CHUNK + 3), FRESH, 0, True)
    chunks = list(views.chunks())
    assert [row for c in chunks for row in range(c.start, c.stop)] == list(range(len(views)))
    assert [(c.start, c.stop) for c in chunks] == [(0, 96), (96, 596), (596, 599)]


def test_mixup_mixes_inputs_and_labels_in_the_same_share() -> None:
    labels = np.arange(60) % CLASSES
    x = np.eye(CLASSES, 4, dtype=np.float32)[labels]
    task = task_of({"x": x}, labels)
    view = task_views(task, TrainSettings(mixing="mixup", mixing_strength=1.0), 0, False).view(0)
    np.testing.assert_allclose(view.labels.numpy(), view.inputs["x"][:, :CLASSES], atol=1e-6)
    assert (view.labels.amax(dim=1) < 0.999).any()


def test_cutmix_pastes_a_box_and_shares_the_label_by_its_area() -> None:
    labels = np.arange(80) % CLASSES
    image = np.broadcast_to(labels[:, None, None, None], (80, 2, 6, 5)).astype(np.float32)
    task = task_of({"image": image}, labels)
    view = task_views(task, TrainSettings(mixing="cutmix"), 0, False).view(0)
    for picture, shares in zip(view.inputs["image"], view.labels, strict=True):
        area = [(picture == label).mean() for label in range(CLASSES)]
        np.testing.assert_allclose(area, shares.numpy(), atol=1e-6)
        np.testing.assert_array_equal(picture[0], picture[1])
    assert (view.labels.amax(dim=1) < 0.999).any()


def test_munge_takes_values_of_the_nearest_neighbour_and_leaves_the_labels() -> None:
    pairs = np.arange(40) // 2  # rows 2i and 2i + 1 are neighbours
    numbers = (pairs[:, None] + 0.1 * (np.arange(40) % 2)[:, None]).astype(np.float32)
    codes = np.stack([pairs, np.arange(40)], axis=1)
    labels = np.arange(40) % CLASSES
    task = task_of({"numeric": numbers, "categorical": codes}, labels)
    settings = TrainSettings(mixing="munge", mixing_strength=1.0, munge_spread=1e6)
    view = task_views(task, settings, 0, False).view(0)
    neighbour = np.arange(40) ^ 1
    np.testing.assert_array_equal(view.inputs["categorical"], codes[neighbour])
    np.testing.assert_allclose(view.inputs["numeric"], numbers[neighbour], atol=1e-4)
    assert view.labels.tolist() == labels.tolist()
    some = task_views(task, TrainSettings(mixing="munge", mixing_strength=0.3), 0, False)
    taken = (some.view(0).inputs["categorical"] != codes)[:, 1].mean()
    assert 0.1 < taken < 0.6
    assert some.view(1).inputs["numeric"].tolist() != some.view(0).inputs["numeric"].tolist()


def test_neighbours_are_sought_among_samples_with_a_label_alone() -> None:
    labels = np.arange(30) % CLASSES
    x = np.arange(30, dtype=np.float32)[:, None]
    task = task_of({"x": x}, labels, pool=30)  # the pool holds each sample again, at distance 0
    settings = TrainSettings(mixing="munge", mixing_strength=1.0, munge_spread=1e6)
    view = task_views(task, settings, 0, True).view(0)
    assert (np.abs(view.inputs["x"][:30] - x) > 0.5).all()


@pytest.mark.parametrize(
    ("mixing", "inputs", "words"),
    [
        ("mixup", {"ids": np.zeros((9, 4), np.int64)}, 'mixing = "mixup" averages numbers, but'),
        ("cutmix", {"x": np.zeros((9, 4), np.float32)}, r'"cutmix" cuts a box .* are x \(4,\)'),
        (
            "cutmix",
            {"a": np.zeros((9, 1, 4, 4), np.float32), "b": np.zeros((9, 1, 2, 4), np.float32)},
            r"of one size, but the inputs are a \(1, 4, 4\), b \(1, 2, 4\)",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    mixing: str, inputs: dict[str, np.ndarray], words: str
) -> None:
    task = task_of(inputs, np.arange(9) % CLASSES)
    with pytest.raises(RecipeError, match=words):
        task_views(task, TrainSettings(mixing=mixing), 0, False)


def test_an_augmentation_that_changes_shapes_is_refused() -> None:
    task = replace(blobs(), augment=lambda batch, generator: {"x": batch["x"][:, :2]})
    with pytest.raises(TaskError, match=r"augment returned .*\(96, 2\).* expected the same names"):
        task_views(task, FRESH, 0, False).view(0)


def test_an_augmentation_whose_numbers_would_be_cut_off_is_refused() -> None:
    images = {"x": np.full((9, 4), 200, np.uint8)}
    brighter = replace(
        task_of(images, np.arange(9) % CLASSES),
        augment=lambda batch, generator: {"x": batch["x"] * 1.5},
    )
    with pytest.raises(
        TaskError, match=r"augment returned torch\.float32 for input 'x' of torch\.u"
    ):
        task_views(brighter, FRESH, 0, False).view(0)


@pytest.mark.parametrize("pool", [0, 10])
def test_arrays_mapped_from_files_stay_there(tmp_path: Path, pool: int) -> None:
    task = blobs()
    np.save(tmp_path / "x.npy", task.train.inputs["x"])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    there = task_of({"x": mapped}, task.train.labels, pool)
    here = task_of({"x": task.train.inputs["x"]}, task.train.labels, pool)
    for augment in (None, noise):
        ours, theirs = (
            task_views(replace(t, augment=augment), FRESH, 0, True).view(0) for t in (there, here)
        )
        assert isinstance(ours.inputs["x"], np.memmap)
        rows = torch.tensor([3, 0, 95])
        for one, two in zip(ours.take(rows), theirs.take(rows), strict=True):
            assert str(one) == str(two)
    if not pool:
        assert task_views(there, FRESH, 0, True).view(0).inputs["x"] is mapped


def test_a_distillation_reads_files_that_must_not_be_written(tmp_path: Path) -> None:
    def mapped(name: str, split: Split) -> Split:
        np.save(tmp_path / f"{name}.npy", split.inputs["x"])
        return replace(split, inputs={"x": np.load(tmp_path / f"{name}.npy", mmap_mode="r")})

    task = blobs(pool=20)
    parts = {n: mapped(n, getattr(task, n)) for n in ("train", "validation", "test", "unlabelled")}
    there = replace(task, **parts)
    settings = DistillSettings(epochs=2, batch_size=16, precision="fp32")
    ours, theirs = (distill(dense(1, 8), knowing(), of, settings) for of in (task, there))
    for one, other in zip(ours.arms, theirs.arms, strict=True):
        assert weights_digest(one.module) == weights_digest(other.module)
