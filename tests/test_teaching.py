"""Every kind of teacher teaches: one small real run each, and the student agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn

from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.distill import distill
from edgecompress.distilling.scoring import forward
from edgecompress.recipe import DistillSettings
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import as_teacher, predict_logits
from edgecompress.teachers.mixtures import ClassSubsets, Ensemble, Expert
from edgecompress.teachers.stored import save_soft_targets

NAMES = ("cat", "dog", "owl")
SETTINGS = DistillSettings(
    epochs=12, batch_size=16, learning_rate=2e-2, kd_weight=1.0, temperature=2, precision="fp32"
)


def split(rows: int, seed: int) -> Split:
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 3, rows)
    centres = 3 * np.eye(3, 4)
    return Split({"x": (draws.normal(size=(rows, 4)) + centres[labels]).astype(np.float32)}, labels)


TRAIN, VALIDATION, TEST = split(240, 0), split(120, 1), split(120, 2)
ROWS, LABELS = TRAIN.inputs["x"], np.array(NAMES)[TRAIN.labels]


class Hard:
    """Answer with classes alone."""

    def __init__(self) -> None:
        self.inner = LogisticRegression().fit(ROWS, LABELS)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.inner.predict(rows)


def network() -> nn.Linear:
    """Return a torch module that knows what a logistic regression learned."""
    fitted = LogisticRegression().fit(ROWS, TRAIN.labels)
    linear = nn.Linear(4, 3)
    state = {"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)}
    linear.load_state_dict(state)
    return linear


def file(folder: Path) -> Path:
    weight = network().weight.detach().numpy()
    path = folder / "teacher.onnx"
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 4], weight.ravel())],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def stored(folder: Path) -> Path:
    path = folder / "soft.npz"
    splits = [part.inputs for part in (TRAIN, VALIDATION)]
    rows = np.concatenate([part["x"] for part in splits])
    probabilities = LogisticRegression().fit(ROWS, LABELS).predict_proba(rows)
    save_soft_targets(path, splits, probabilities=probabilities, class_names=NAMES)
    return path


def boosted(folder: Path) -> object:
    xgboost = pytest.importorskip("xgboost")
    return xgboost.XGBClassifier(n_estimators=80, max_depth=1, n_jobs=1).fit(ROWS, TRAIN.labels)


def experts(folder: Path) -> ClassSubsets:
    sets = (("cat", "dog"), ("dog", "owl"), ("cat", "owl"))
    mine = [np.isin(LABELS, known) for known in sets]
    fitted = [LogisticRegression().fit(ROWS[rows], LABELS[rows]) for rows in mine]
    return ClassSubsets([Expert(f, known) for f, known in zip(fitted, sets, strict=True)])


KINDS: dict[str, Callable[[Path], object]] = {
    "module": lambda folder: network(),
    "import path": lambda folder: "test_teaching:network",
    "onnx": file,
    "probabilities": lambda folder: RandomForestClassifier(40, random_state=0).fit(ROWS, LABELS),
    "margins": lambda folder: LinearSVC().fit(ROWS, LABELS),
    "classes": lambda folder: Hard(),
    "boosted": boosted,
    "ensemble": lambda folder: Ensemble([network(), Hard()], weights=(2, 1)),
    "experts": experts,
    "stored": stored,
}


@pytest.mark.parametrize("kind", KINDS)
def test_student_agrees_with_its_teacher(kind: str, tmp_path: Path) -> None:
    teacher = as_teacher(KINDS[kind](tmp_path), NAMES)
    task = Task("points", TRAIN, VALIDATION, TEST, lambda: None, lambda: None, class_names=NAMES)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    arms = distill(student, teacher, task, SETTINGS).arms
    taught = next(arm for arm in arms if arm.name == DISTILLED)
    answers = forward(taught.module, VALIDATION.inputs).argmax(1)
    agreement = (answers == predict_logits(teacher, VALIDATION.inputs).argmax(1)).mean()
    assert agreement >= 0.9
