"""The built-in digits task: its data, its networks, its augmentation."""

import numpy as np
import pytest
import torch

from edgecompress.builtin import digits_task, student, teacher, wobble


@pytest.fixture(scope="module")
def task():
    return digits_task()


def splits(task):
    return {"train": task.train, "validation": task.validation, "test": task.test}


def test_splits_are_whole_and_balanced(task):
    sizes = {name: len(split) for name, split in splits(task).items()}
    assert sizes == {"train": 1000, "validation": 257, "test": 540}
    for name, split in splits(task).items():
        counts = np.bincount(split.labels, minlength=10)
        assert counts.max() - counts.min() <= 5, name
        assert split.labels.dtype == np.int64
    assert task.class_names == tuple("0123456789")


def test_no_image_is_in_two_splits(task):
    images = [image.tobytes() for s in splits(task).values() for image in s.inputs["image"]]
    assert len(set(images)) == len(images) == 1797


def test_the_split_is_fixed(task):
    again = digits_task()
    for name, split in splits(task).items():
        assert np.array_equal(split.inputs["image"], splits(again)[name].inputs["image"])
    assert task.test.labels[:12].tolist() == [0, 1, 4, 5, 8, 5, 6, 5, 9, 9, 1, 3]


def test_pixels_are_normalised_as_declared(task):
    images = task.train.inputs["image"]
    assert images.shape[1:] == (1, 8, 8)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    raw = images / task.normalization["image"].scale
    assert np.array_equal(raw, raw.round())
    assert raw.max() == 16


@pytest.mark.parametrize("make", [teacher, student])
def test_networks_return_logits(make, task):
    net = make().eval()
    assert net(torch.from_numpy(task.example_inputs(3)["image"])).shape == (3, 10)


def test_sizes_are_as_promised():
    sizes = [sum(p.numel() for p in make().parameters()) for make in (teacher, student)]
    assert sizes == [126_010, 38_890]


def test_augmentation_follows_its_generator(task):
    batch = {"image": torch.from_numpy(task.train.inputs["image"][:50])}
    before = batch["image"].clone()
    first, same, other = (wobble(batch, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first["image"], same["image"])
    assert not torch.equal(first["image"], other["image"])
    assert torch.equal(batch["image"], before)
    assert first["image"].shape == before.shape
    assert first["image"].min() >= 0
    assert first["image"].max() <= 1


def test_augmentation_keeps_the_digit_in_sight(task):
    batch = {"image": torch.from_numpy(task.train.inputs["image"])}
    ink = wobble(batch, torch.Generator().manual_seed(0))["image"].sum((1, 2, 3))
    share = ink / batch["image"].sum((1, 2, 3))
    assert share.min() > 0.5
    assert share.mean() == pytest.approx(1, abs=0.1)


def test_without_change_augmentation_is_the_identity(task, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, 0.5))
    batch = {"image": torch.from_numpy(task.train.inputs["image"][:5])}
    torch.testing.assert_close(wobble(batch, torch.Generator())["image"], batch["image"])
