"""The examples run as they stand, on made-up data of the same form."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import sys
import wave
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from edgecompress.errors import DataError
from edgecompress.pipeline.compress import compress
from edgecompress.profiles import load_profile
from edgecompress.recipe import load_recipe
from edgecompress.records import Report
from edgecompress.store import row_digests
from edgecompress.tasks.checks import check_task
from edgecompress.tasks.load import load_task
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import as_teacher, predict_logits

EXAMPLES = Path(__file__).parents[1] / "examples"
FASHION = EXAMPLES / "fashion_mnist"
BRIEF = ("distill.epochs=1", "measure.processes=[5]", "measure.seconds_per_process=0.05")
QUICK = (
    "teacher.epochs=6",
    "teacher.batch_size=20",
    "teacher.learning_rate=0.02",
    "distill.views=1",
    *BRIEF,
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
    report = runs("fashion_mnist", tmp_path / "run", f"data={npz}", *QUICK)
    assert report.task == "fashion-mnist"


def runs(folder: str, out: Path, *changes: str) -> Report:
    """Run an example's recipe with some changes and return its report, a model in it."""
    recipe = load_recipe(EXAMPLES / folder / "recipe.toml", changes)
    report = compress(recipe, load_profile("cpu-1core"), out)
    assert report.best is not None
    assert report.best.model.path.is_file()
    return report


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return a function that imports a file of an example, its neighbours importable."""

    def imported(file: str) -> ModuleType:
        path = EXAMPLES / file
        monkeypatch.syspath_prepend(path.parent)
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return imported


# --- low_data_sine --------------------------------------------------------------------------


def test_soft_targets_lower_the_variance_of_a_fit_to_noisy_labels(example, tmp_path) -> None:
    sine = example("low_data_sine/low_data_sine.py")
    outcomes = [sine.experiment(points) for points in (15, 45)]
    for outcome in outcomes:
        assert (outcome.train["hard"] <= outcome.train["soft"] + 1e-6).all()
        assert outcome.test["soft"].mean() < outcome.test["hard"].mean()
        assert outcome.variance["soft"] < outcome.variance["hard"]
    assert "15 of 15" in sine.table(outcomes)
    sine.plot(outcomes, tmp_path / "sine.png")
    assert (tmp_path / "sine.png").stat().st_size > 10_000


def test_each_fit_is_where_its_gradient_is_zero(example) -> None:
    sine = example("low_data_sine/low_data_sine.py")
    x, labels = sine.sample(3, 20, torch.Generator().manual_seed(0))
    weights = sine.fitted(sine.cubic(x), lambda z: bce(z, labels.reshape(-1, 1)), 0.1)
    weights.requires_grad_()
    penalty = 0.1 / 2 * weights.square().sum()
    sums = [bce(f @ w, y, reduction="sum") for f, w, y in zip(sine.cubic(x), weights, labels)]  # noqa: B905
    (sum(sums) + penalty).backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-5


# --- forest_to_mlp --------------------------------------------------------------------------


def test_forest_teaches_rows_that_it_did_not_see(example) -> None:
    module = example("forest_to_mlp/forest_to_mlp.py")
    task = module.task()
    assert check_task(task) == ()
    assert [len(s) for s in (task.train, task.validation, task.test)] == [1258, 270, 269]
    assert sum(p.numel() for p in module.student().parameters()) == 64 * 32 + 32 + 32 * 10 + 10
    given = module.forest().get_params()
    assert (given["n_estimators"], given["max_depth"]) == (200, 20)
    assert task.teacher().folds == 5
    distill = load_recipe(EXAMPLES / "forest_to_mlp" / "recipe.toml").distill
    assert distill is not None
    assert (distill.temperature, distill.kd_weight) == (4.0, 0.7)


@pytest.mark.slow
def test_forest_to_mlp_recipe_runs(tmp_path) -> None:
    report = runs("forest_to_mlp", tmp_path / "run", *BRIEF)
    assert any("calibrated with temperature" in note for note in report.notes)


@pytest.mark.slow
def test_forest_to_mlp_walk_runs(example, monkeypatch, capsys) -> None:
    walk = example("forest_to_mlp/walk.py")
    monkeypatch.setattr(walk, "forest", lambda: RandomForestClassifier(5, random_state=0))
    monkeypatch.setattr("sys.argv", ["walk.py", "--seeds", "2", "--epochs", "2"])
    walk.main()
    said = capsys.readouterr().out
    assert said.count("      2  ") == len(walk.ARMS), "each way's second epoch"
    for words in (*walk.ARMS.values(), "the student in ONNX Runtime", "DistilledClassifier"):
        assert words in said


# --- temperature_schedule -------------------------------------------------------------------


def test_temperature_schedule_compares_all_ways(example, capsys) -> None:
    module = example("temperature_schedule/temperature_schedule.py")
    recipe = load_recipe(EXAMPLES / "temperature_schedule" / "recipe.toml")
    assert recipe.distill is not None
    assert recipe.distill.temperature == module.WAYS[module.FALLING]
    digits = module.task()
    digits = replace(digits, train=digits.train.take(slice(0, 64)))
    asked = as_teacher(module.student(), digits.class_names)
    settings = recipe.distill.model_copy(update={"epochs": 2})
    outcomes = [module.taught(seed, digits, asked, settings) for seed in (0, 1)]
    assert len({outcome.tobytes() for outcome in outcomes[0].values()}) == len(module.WAYS)
    module.report(digits, outcomes, predict_logits(asked, digits.test.inputs))
    said = capsys.readouterr().out
    assert said.count("T from 5 to 1 is better by") == len(module.WAYS) - 1


@pytest.mark.slow
def test_temperature_schedule_recipe_runs(tmp_path) -> None:
    runs("temperature_schedule", tmp_path / "run", *BRIEF, "teacher.epochs=2")


# --- spoken_digits --------------------------------------------------------------------------


def beeps() -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Return clips of three voices whose pitch tells the digit, with labels, takes, speakers."""
    digits, takes = np.repeat(np.arange(10), 20), np.tile(np.arange(20), 10)
    rng = np.random.default_rng(0)
    clips = []
    for digit in digits:
        time = np.arange(rng.integers(2000, 9000)) / 8000
        loud = 8000 * np.sin(2 * np.pi * (300 + 300 * digit + rng.normal(0, 20)) * time)
        clips.append((loud + rng.normal(0, 50, len(time))).astype(np.int16))
    return clips, digits, takes, takes % 3


NAMES = np.array(["jackson", "lucas", "theo"])


@pytest.fixture
def speech(tmp_path) -> Path:
    clips, digits, takes, speakers = beeps()
    offsets = np.cumsum([0, *map(len, clips)])
    path = tmp_path / "speech.npz"
    np.savez(
        path, samples=np.concatenate(clips), offsets=offsets, label=digits.astype(np.uint8),
        take=takes.astype(np.uint8), speaker=speakers, speaker_names=NAMES,
    )  # fmt: skip
    return path


def test_spoken_digits_reads_npz_and_wav_files_alike(example, speech, tmp_path) -> None:
    module = example("spoken_digits/spoken_digits.py")
    folder = tmp_path / "recordings"
    folder.mkdir()
    clips, digits, takes, speakers = beeps()
    for clip, digit, take, who in zip(clips, digits, takes, NAMES[speakers], strict=True):
        with wave.open(str(folder / f"{digit}_{who}_{take}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, len(clip), "NONE", ""))
            sound.writeframes(clip.tobytes())
    for make in (module.task, module.unseen_speaker):
        from_npz, from_wav = make(speech), make(folder)
        assert check_task(from_npz) == ()
        for one, other in ((from_npz.train, from_wav.train), (from_npz.test, from_wav.test)):
            assert len(one) == len(other)
            assert sorted(row_digests(one.inputs)) == sorted(row_digests(other.inputs))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "fsdd.npz").write_bytes(speech.read_bytes())
    assert len(module.task(tmp_path / "packed").train) == len(module.task(speech).train)
    with wave.open(str(folder / "0_theo_0.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
    with pytest.raises(DataError, match=r"0_theo_0\.wav: expected 8 kHz, one channel, 16 bit"):
        module.task(folder)
    with pytest.raises(DataError, match=r"holds no files such as 7_jackson_32\.wav"):
        module.task(tmp_path)
    np.savez(tmp_path / "other.npz", samples=clips[0])
    with pytest.raises(DataError, match=r"other\.npz: has no array 'offsets'; expected samples, "):
        module.task(tmp_path / "other.npz")


def test_spoken_digits_features_show_where_the_tone_is(example) -> None:
    module = example("spoken_digits/spoken_digits.py")
    assert (module.log_mel(np.zeros(500, np.float32)) == 0).all()
    seconds = np.arange(4000) / 8000
    places = []
    for hertz in (300, 1000, 3000):
        features = module.log_mel(np.sin(2 * np.pi * hertz * seconds).astype(np.float32))[0]
        assert features.shape == (61, 32)
        assert (features[[0, -1]] == 0).all(), "silence around the middle half second"
        places.append(int(features.sum(axis=0).argmax()))
    assert places == sorted(set(places))


def test_spoken_digits_views_are_disturbed_alike_by_one_seed(example) -> None:
    module = example("spoken_digits/spoken_digits.py")
    clips = torch.rand(50, 1, 61, 32, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        module.disturbed({"log_mel": clips}, torch.Generator().manual_seed(s))["log_mel"]
        for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool(torch.isfinite(first).all())
    for axis, most in ((2, 12), (3, 2)):
        moved = module.shifted(clips, axis, most, torch.rand(50, 1, 1, 1))
        middle = clips.narrow(axis, most, clips.shape[axis] - 2 * most)
        for clip, seen in zip(middle, moved, strict=True):
            places = range(2 * most + 1)
            parts = [seen.narrow(axis - 1, place, clip.shape[axis - 1]) for place in places]
            assert any(torch.equal(clip, part) for part in parts)


@pytest.mark.slow
def test_spoken_digits_recipe_runs(speech, tmp_path) -> None:
    report = runs("spoken_digits", tmp_path / "run", *QUICK, f"data={speech}")
    assert report.task == "spoken-digits"
