"""The examples run as they stand, on made-up data of the same form."""

from __future__ import annotations

import gzip
import struct
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecompress.errors import DataError
from edgecompress.pipeline.compress import compress
from edgecompress.profiles import load_profile
from edgecompress.recipe import load_recipe
from edgecompress.tasks.checks import check_task
from edgecompress.tasks.load import load_task
from edgecompress.tasks.task import Task

EXAMPLES = Path(__file__).parents[1] / "examples"
FASHION = EXAMPLES / "fashion_mnist"
QUICK = (
    "teacher.epochs=6",
    "teacher.batch_size=20",
    "teacher.learning_rate=0.02",
    "distill.epochs=1",
    "distill.views=1",
    "measure.processes=[5]",
    "measure.seconds_per_process=0.05",
)


def clothes(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images with one bright block, whose place tells the class."""
    labels = (np.arange(rows) % 10).astype(np.uint8)
    images = np.random.default_rng(seed).integers(0, 40, (rows, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 + 12 * (label // 5), 2 + 5 * (label % 5)
        image[top : top + 9, left : left + 4] = 250
    return images, labels


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    (x, y), (x_test, y_test) = clothes(240, 1), clothes(60, 2)
    path = tmp_path / "clothes.npz"
    np.savez_compressed(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


def fashion(data: Path) -> Task:
    return load_task("fashion_mnist.py:task", FASHION, data)


def test_fashion_mnist_reads_npz_and_official_files_alike(npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "official"
    folder.mkdir()
    for part, (images, labels) in (("train", clothes(240, 1)), ("t10k", clothes(60, 2))):
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    from_npz, from_idx = fashion(npz), fashion(folder)
    assert check_task(from_npz) == ()
    assert (len(from_npz.train), len(from_npz.validation), len(from_npz.test)) == (220, 20, 60)
    for one, other in ((from_npz.train, from_idx.train), (from_npz.test, from_idx.test)):
        np.testing.assert_array_equal(one.inputs["image"], other.inputs["image"])
        np.testing.assert_array_equal(one.labels, other.labels)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: no such file"):
        fashion(folder)


def test_fashion_mnist_views_are_shifted_and_mirrored_images(npz: Path) -> None:
    task = fashion(npz)
    assert task.augment is not None
    images = torch.from_numpy(task.train.inputs["image"][:50])
    seen = task.augment({"image": images.clone()}, torch.Generator().manual_seed(0))["image"]
    again = task.augment({"image": images.clone()}, torch.Generator().manual_seed(0))["image"]
    assert torch.equal(seen, again)
    assert seen.shape == images.shape
    inner = images[:, 0, 4:-4, 4:-4]
    for image, view in zip(inner, seen[:, 0], strict=True):
        places = [view[r : r + 20, c : c + 20] for r in range(9) for c in range(9)]
        assert any(torch.equal(image, p) or torch.equal(image.flip(1), p) for p in places)


def test_digits_recipe_is_the_built_in_one() -> None:
    """When this fails, copy edgecompress/digits.toml over the example's recipe."""
    built_in = files("edgecompress").joinpath("digits.toml").read_text(encoding="utf-8")
    assert (EXAMPLES / "digits" / "recipe.toml").read_text(encoding="utf-8") == built_in


def test_built_in_task_works_as_a_users_own_file(tmp_path: Path) -> None:
    source = files("edgecompress").joinpath("builtin.py").read_text(encoding="utf-8")
    (tmp_path / "my_digits.py").write_text(source, encoding="utf-8")
    task = load_task("my_digits.py:digits_task", tmp_path)
    assert check_task(task) == ()
    assert len(task.test) >= 500


@pytest.mark.slow
def test_fashion_mnist_recipe_runs(npz: Path, tmp_path: Path) -> None:
    recipe = load_recipe(FASHION / "recipe.toml", (f"data={npz}", *QUICK))
    report = compress(recipe, load_profile("cpu-1core"), tmp_path / "run")
    assert report.task == "fashion-mnist"
    assert report.best is not None
    assert report.best.model.path.is_file()
