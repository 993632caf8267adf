"""The gates of the whole chain: what would train in silence and mislead stops before it does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import blobs
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgecompress.errors import (
    DataError,
    EdgecompressError,
    TaskError,
    TeacherError,
    TrainingError,
)
from edgecompress.measuring.host import describe_host
from edgecompress.pipeline.candidates import export_network
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.quantized import int8_notes, quantize_candidate
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import Network
from edgecompress.profiles import load_profile
from edgecompress.recipe import DistillSettings, QuantizeSettings, Recipe
from edgecompress.students.image import ResidualNet
from edgecompress.tasks.scores import R2
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.stored import save_soft_targets

RECIPE = Recipe(task="digits", distill=DistillSettings(epochs=1, batch_size=32, precision="fp32"))


class Corners(nn.Module):
    """Know the blobs without training: the mean of each corner is its class's logit."""

    def forward(self, image: Tensor) -> Tensor:
        corners = ((0, 0), (0, 5), (5, 0))
        means = [image[:, 0, t : t + 3, x : x + 3].mean((1, 2)) for t, x in corners]
        return 5 * torch.stack(means, dim=1)


class Turned(Corners):
    """Know the classes in another order."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[:, [1, 2, 0]]


class Single(Corners):
    """Say one thing only."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[:, :1]


class Broken(Corners):
    """Say NaN, once, on the eighteenth training sample."""

    def forward(self, image: Tensor) -> Tensor:
        logits = super().forward(image)
        bad = torch.from_numpy(blobs.blobs(192, 0).inputs["image"][17])
        logits[(image == bad).flatten(1).all(1), 1] = float("nan")
        return logits


def task(**changes: object) -> Task:
    known = replace(blobs.task(), teacher=Corners, augment=None)
    return replace(known, **changes)  # type: ignore[arg-type]


def labelled(change: Callable[[np.ndarray], np.ndarray]) -> Split:
    split = blobs.blobs(192, 0)
    assert split.labels is not None
    return replace(split, labels=change(split.labels.copy()))


def hidden(labels: np.ndarray) -> np.ndarray:
    labels[3] = -100
    return labels


def spoilt() -> Split:
    image = blobs.blobs(192, 0).inputs["image"].copy()
    image[5, 0, 0, 0] = np.nan
    return Split({"image": image}, blobs.blobs(192, 0).labels)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train": labelled(hidden)}, DataError, "train: label -100 of sample 3"),
        ({"train": labelled(lambda y: y + 1)}, DataError, "expected 0..2, .* need `labels - 1`"),
        ({"train": spoilt()}, DataError, "sample 5 holds a value that is not finite"),
        ({"test": blobs.blobs(192, 0)}, DataError, "train and test share 192 samples"),
        ({"validation": blobs.blobs(96, 2)}, DataError, "validation and test share 96 samples"),
        ({"unlabelled": blobs.blobs(96, 2)}, DataError, "unlabelled and test share 96 samples"),
        ({"kind": "tokens"}, TaskError, "metric 'accuracy' is not for kind 'tokens'; give metric"),
        (
            {"kind": "regression", "metric": R2, "class_names": ()},
            TeacherError,
            r"returned shape \(96, 3\) for 96 samples; expected \(96, 1\), one number for each",
        ),
        ({"teacher": Turned}, TeacherError, "column 0 means 1 'right', 1 means 2 'below'"),
        ({"teacher": Single}, TeacherError, r"returned shape \(96, 1\) for 96 samples"),
        ({"teacher": Single, "class_names": ()}, TeacherError, r"returned shape \(96, 1\)"),
        (
            {"teacher": lambda: nn.Sequential(Corners(), nn.Softmax(1))},
            TeacherError,
            "its outputs are probabilities",
        ),
        (
            {"student": lambda: ResidualNet(1, 4, widths=(8,), blocks=(1,))},
            TaskError,
            r"student: output shape \(8, 4\) for 8 samples; expected \(8, 3\)",
        ),
        (
            {"student": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3))},
            TrainingError,
            r"network: 1\.weight of Sequential is lazy and has no numbers yet; run a batch through",
        ),
    ],
)
def test_what_would_mislead_trains_nothing(
    changes: dict[str, object], error: type[EdgecompressError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as caught:
        compress(RECIPE, load_profile("cpu-1core"), tmp_path / "out", RunOptions(), task(**changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_soft_targets_that_leave_a_split_out_train_nothing(tmp_path: Path) -> None:
    path, whole = tmp_path / "soft.npz", task()
    splits = [whole.train.inputs, whole.validation.inputs]
    images = torch.from_numpy(np.concatenate([part["image"] for part in splits]))
    save_soft_targets(path, splits, logits=Corners()(images).numpy())
    stored = task(teacher=lambda: path)
    with pytest.raises(TeacherError, match=r"soft\.npz: has no soft targets for 96 of 96 samples"):
        compress(RECIPE, load_profile("cpu-1core"), tmp_path / "out", RunOptions(), stored)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("asked", "isa", "most", "note"),
    [
        (
            "auto",
            ("avx2",),
            64,
            "int8 weights use 7 bits: the fleet of cpu-1core has an x86 without",
        ),
        ("auto", ("avx2", "avx-vnni"), 127, None),
        (
            False,
            ("avx2",),
            127,
            "int8 models may score lower on part of the fleet of cpu-1core: it has",
        ),
        (True, ("neon",), 64, None),
    ],
)
def test_weights_keep_to_seven_bits_where_eight_saturate(
    asked: Literal["auto", True, False],
    isa: tuple[str, ...],
    most: int,
    note: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = replace(describe_host(), isa=isa)
    for room in ("measuring.host", "pipeline.quantized"):
        monkeypatch.setattr(f"edgecompress.{room}.describe_host", lambda: here)
    settings = QuantizeSettings(schemes=("static",), reduce_range=asked, calibration_samples=64)
    recipe = RECIPE.model_copy(update={"quantize": settings})
    profile = load_profile("cpu-1core")
    torch.manual_seed(0)
    with open_run(recipe, tmp_path, RunOptions(), task()) as run:
        student = Network("student", blobs.student().eval(), "as drawn")
        whole = export_network(run, student, "student-fp32")
        (int8,) = quantize_candidate(run, profile, whole)
        notes = int8_notes(run, profile)
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(int8.model.path).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert max(int(np.abs(w).max()) for w in weights) == most
    assert [n.startswith(note or "") for n in notes] == [True] * (note is not None)


def test_one_nan_of_the_teacher_reaches_no_student(tmp_path: Path) -> None:
    bad = task(teacher=Broken)
    with pytest.raises(TeacherError, match="its logits for sample 17 are not finite"):
        compress(RECIPE, load_profile("cpu-1core"), tmp_path / "out", RunOptions(), bad)
    assert not list(tmp_path.rglob("*.safetensors"))
