"""Every kind of teacher teaches every kind of task: one small real run each, and agreement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kind_tasks
import numpy as np
import onnx
import pytest
import torch
from kind_tasks import KINDS, knowing, split
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC
from torch import nn

from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.distill import distill
from edgecompress.distilling.kinds import form_of
from edgecompress.distilling.scoring import forward
from edgecompress.errors import TeacherError
from edgecompress.recipe import DistillSettings
from edgecompress.records import Kind
from edgecompress.tasks.inspection import agreement
from edgecompress.teachers.adapters import as_teacher, predict_logits
from edgecompress.teachers.forms import Form
from edgecompress.teachers.mixtures import ClassSubsets, Ensemble
from edgecompress.teachers.out_of_fold import OutOfFold
from edgecompress.teachers.stored import StoredTargets, save_soft_targets

SETTINGS = DistillSettings(
    epochs=10, batch_size=16, learning_rate=1e-2, kd_weight=1.0, precision="fp32"
)
LEAST: dict[Kind, float] = {
    "binary": 0.9, "multilabel": 0.85, "regression": 0.9, "embedding": 0.85, "tokens": 0.85,
}  # fmt: skip


def rows(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    train = split(kind, 256, 0)
    assert train.labels is not None
    return train.inputs["x"], train.labels


def fitted(kind: Kind, estimator: Any) -> Any:
    x, y = rows(kind)
    return estimator.fit(x, y)


class Hard:
    """Answer with 0 and 1 alone, whatever the inner estimator could say."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.inner.predict(x)


class Booster:
    """Answer as boosters do: how likely the second of two classes is."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.inner.predict_proba(x)[:, 1]


class TwoLogits(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = knowing("binary")(x)
        return torch.cat([1 - margin / 2, 1 + margin / 2], dim=1)


class Flat(nn.Module):
    """Answer one number a sample, without an axis of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[:, 0]


class ClassesLast(nn.Module):
    """Answer for tokens as transformers does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return knowing("tokens")(x).transpose(1, 2)


def file(kind: Kind, folder: Path, end: str = "Identity") -> Path:
    """Write the rule as an ONNX file that ends in the operator `end`."""
    wide, sides = kind_tasks.OUTPUTS[kind], [onnx.TensorProto.FLOAT, ["n", None, None]]
    numbers = {
        "rule": kind_tasks.scale(kind) * kind_tasks.RULE[:, :wide],
        "scale": np.array([200.0 if kind == "regression" else 1.0]),
        "shift": np.array([1000.0 if kind == "regression" else 0.0]),
    }
    nodes = [("MatMul", ["x", "rule"], ["a"]), ("Mul", ["a", "scale"], ["b"])]
    nodes += [("Add", ["b", "shift"], ["c"])]
    made = [onnx.helper.make_node(*node) for node in nodes]
    if kind == "tokens":
        made.append(onnx.helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 1]))
    last = "d" if kind == "tokens" else "c"
    axis = {"axis": 1} if end == "Softmax" else {}
    made.append(onnx.helper.make_node(end, [last], ["y"], **axis))
    sides[1] = sides[1] if kind == "tokens" else ["n", None]
    graph = onnx.helper.make_graph(
        made,
        "rule",
        [onnx.helper.make_tensor_value_info("x", *sides)],
        [onnx.helper.make_tensor_value_info("y", *sides)],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in numbers.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "teacher.onnx"
    )
    return folder / "teacher.onnx"


def stored(kind: Kind, folder: Path, squash: Callable[[np.ndarray], np.ndarray] | None) -> Path:
    path = folder / "soft.npz"
    parts = [split(kind, size, seed).inputs for size, seed in ((256, 0), (96, 1), (96, 2))]
    inputs = np.concatenate([part["x"] for part in parts])
    logits = forward(knowing(kind), {"x": inputs})
    if squash is None:
        save_soft_targets(path, parts, logits=logits, kind=kind)
    else:
        save_soft_targets(path, parts, probabilities=squash(logits), kind=kind)
    return path


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def out_of_fold(kind: Kind, estimator: Any) -> OutOfFold:
    x, y = rows(kind)
    return OutOfFold(estimator, {"x": x}, y, folds=2)


def boosted(kind: Kind, name: str) -> Any:
    xgboost = pytest.importorskip("xgboost")
    trees = getattr(xgboost, name)(n_estimators=100, max_depth=2, n_jobs=1)
    # Of few rows trees learn corners that no student here could follow.
    many = split(kind, 4096, 3)
    return trees.fit(many.inputs["x"], many.labels)


Source = Callable[[Path], object]
COMMON: dict[Kind, dict[str, Source]] = {
    kind: {
        "module": lambda folder, kind=kind: knowing(kind),
        "onnx": lambda folder, kind=kind: file(kind, folder),
        "stored": lambda folder, kind=kind: stored(kind, folder, None),
        "ensemble": lambda folder, kind=kind: Ensemble([knowing(kind), knowing(kind)], (2, 1)),
    }
    for kind in KINDS
}
FOREST = RandomForestClassifier(30, random_state=0)
TREES = RandomForestRegressor(30, random_state=0)
OWN: dict[Kind, dict[str, Source]] = {
    "binary": {
        "two logits": lambda folder: TwoLogits(),
        "no axis": lambda folder: Flat(knowing("binary")),
        "sigmoid in onnx": lambda folder: file("binary", folder, "Sigmoid"),
        "probabilities": lambda folder: fitted("binary", FOREST),
        "margins": lambda folder: fitted("binary", LinearSVC()),
        "classes": lambda folder: Hard(fitted("binary", LogisticRegression())),
        "share": lambda folder: Booster(fitted("binary", LogisticRegression())),
        "stored shares": lambda folder: stored("binary", folder, lambda z: sigmoid(z)[:, 0]),
        "out of fold": lambda folder: out_of_fold("binary", LogisticRegression()),
        "boosted": lambda folder: boosted("binary", "XGBClassifier"),
    },
    "multilabel": {
        "sigmoid in onnx": lambda folder: file("multilabel", folder, "Sigmoid"),
        "forest": lambda folder: fitted("multilabel", FOREST),
        "one a label": lambda folder: fitted("multilabel", OneVsRestClassifier(LinearSVC())),
        "outputs": lambda folder: fitted("multilabel", MultiOutputClassifier(LogisticRegression())),
        "network": lambda folder: fitted(
            "multilabel", MLPClassifier((), solver="lbfgs", max_iter=4000, random_state=0)
        ),
        "classes": lambda folder: Hard(fitted("multilabel", FOREST)),
        "boosted": lambda folder: boosted("multilabel", "XGBClassifier"),
        "stored shares": lambda folder: stored("multilabel", folder, sigmoid),
    },
    "regression": {
        "regressor": lambda folder: fitted("regression", LinearRegression()),
        "forest": lambda folder: fitted("regression", TREES),
        "out of fold": lambda folder: out_of_fold("regression", Ridge()),
        "boosted": lambda folder: boosted("regression", "XGBRegressor"),
        "members": lambda folder: Ensemble([fitted("regression", Ridge()), knowing("regression")]),
    },
    "embedding": {"regressor": lambda folder: fitted("embedding", Ridge())},
    "tokens": {
        "classes last": lambda folder: ClassesLast(),
        "softmax in onnx": lambda folder: file("tokens", folder, "Softmax"),
        "stored shares": lambda folder: stored("tokens", folder, softmax),
    },
}
CASES = [(kind, name) for kind in KINDS for name in (*COMMON[kind], *OWN[kind])]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_student_agrees_with_its_teacher(kind: Kind, name: str, tmp_path: Path) -> None:
    task = kind_tasks.task(kind)
    teacher = as_teacher((COMMON[kind] | OWN[kind])[name](tmp_path), form_of(task))
    torch.manual_seed(0)
    arms = distill(task.student(), teacher, task, SETTINGS).arms
    taught = next(arm for arm in arms if arm.name == DISTILLED)
    said = predict_logits(teacher, task.validation.inputs)
    answers = forward(taught.module, task.validation.inputs)
    assert agreement(kind, answers, said, task.validation.labels) >= LEAST[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_sources_of_one_rule_say_the_same(kind: Kind, tmp_path: Path) -> None:
    task = kind_tasks.task(kind)
    inputs, form = task.validation.inputs, form_of(task)
    expected = forward(knowing(kind), inputs)
    names = [*COMMON[kind], *(n for n in OWN[kind] if "onnx" in n or "stored" in n)]
    names += [n for n in ("two logits", "no axis", "classes last") if n in OWN[kind]]
    for name in names:
        source = (COMMON[kind] | OWN[kind])[name](tmp_path)
        said = predict_logits(as_teacher(source, form), inputs)
        squashed = "stored shares" in name or "in onnx" in name
        if kind == "tokens":
            said, wanted = softmax(said), softmax(expected)
        elif squashed:
            said, wanted = sigmoid(said), sigmoid(expected)
        else:
            wanted = expected
        np.testing.assert_allclose(said, wanted, rtol=2e-4, atol=2e-4, err_msg=name)


def test_labels_are_mixed_side_by_side_and_numbers_are_averaged() -> None:
    class Says:
        def __init__(self, *row: float) -> None:
            self.row = torch.tensor([row])

        def logits(self, inputs: Any) -> torch.Tensor:
            return self.row.expand(len(inputs["x"]), -1)

    batch = {"x": torch.zeros(2, 4)}
    members = (Says(0.0, 2.0), Says(3.0, 200.0))
    mixed = as_teacher(Ensemble(members, (3, 1)), Form("multilabel")).logits(batch).sigmoid()
    wanted = 0.75 * torch.tensor([0.0, 2.0]).sigmoid() + 0.25 * torch.tensor([3.0, 200.0]).sigmoid()
    torch.testing.assert_close(mixed, wanted.expand(2, -1))
    averaged = as_teacher(Ensemble(members, (3, 1)), Form("regression")).logits(batch)
    torch.testing.assert_close(averaged[0], torch.tensor([0.75, 51.5]))


def test_embeddings_may_come_from_an_estimator_that_transforms() -> None:
    x, _ = rows("embedding")
    said = as_teacher(PCA(3).fit(x), Form("embedding", (), (3,))).logits({"x": torch.tensor(x[:5])})
    np.testing.assert_allclose(said, PCA(3).fit(x).transform(x[:5]), atol=1e-5)


def test_a_token_classifier_of_transformers_has_its_classes_last_whatever_the_length() -> None:
    class TinyForTokenClassification(ClassesLast):
        """Answer for as many tokens as there are classes: the shape alone does not tell."""

    x = rows("tokens")[0][:4, :3]
    said = as_teacher(TinyForTokenClassification(), Form("tokens", (), (3, 3)))
    assert torch.equal(
        said.logits({"x": torch.tensor(x)}), torch.tensor(forward(knowing("tokens"), {"x": x}))
    )


def test_a_label_that_a_forest_never_saw_true_is_never_likely() -> None:
    x, y = rows("multilabel")
    forest = RandomForestClassifier(5, random_state=0).fit(x, y * [1, 1, 0])
    said = as_teacher(forest, Form("multilabel", (), (3,))).logits({"x": torch.tensor(x[:5])})
    assert bool((said[:, 2] < -20).all())


def test_columns_of_two_classes_stand_in_the_order_of_their_names() -> None:
    x, y = rows("binary")
    names = np.array(["yes", "no"])[y]  # sorted, "no" comes first: the estimator turns them round
    said = as_teacher(LogisticRegression().fit(x, names), Form("binary", ("yes", "no"), (1,)))
    plain = as_teacher(LogisticRegression().fit(x, y), Form("binary", (), (1,)))
    batch = {"x": torch.tensor(x[:20])}
    torch.testing.assert_close(said.logits(batch), plain.logits(batch), atol=1e-3, rtol=1e-3)


def unstored(kind: Kind, **arrays: np.ndarray) -> Source:
    def make(folder: Path) -> StoredTargets:
        np.savez(folder / "soft.npz", **arrays)
        return StoredTargets(folder / "soft.npz", [{"x": rows(kind)[0][:4]}])

    return make


class Never:
    """Be a class without any method that could teach."""


REFUSED: dict[str, tuple[Kind, Source, str]] = {
    "three logits for a yes": (
        "binary", lambda folder: nn.Linear(6, 3),
        "returned shape (4, 3) for 4 samples; expected (4, 1), one logit, that of label 1, or one",
    ),
    "a softmax of two": (
        "binary", lambda folder: nn.Sequential(TwoLogits(), nn.Softmax(dim=1)),
        "its outputs are probabilities (every pair sums to 1); expected logits: take its softmax",
    ),
    "names that are no labels": (
        "binary", lambda folder: LogisticRegression().fit(rows("binary")[0], ["a", "b"] * 128),
        "LogisticRegression was fitted on 2 classes (a, b); expected the 2 class names (0, 1)",
    ),
    "two of three labels": (
        "multilabel", lambda folder: nn.Linear(6, 2), "expected (4, 3), one logit for each label",
    ),
    "numbers for labels": (
        "multilabel", lambda folder: Hard(fitted("regression", Ridge())),
        "Hard.predict answered beyond 0..1; expected for each label how likely it is",
    ),
    "classes for numbers": (
        "regression", lambda folder: LogisticRegression().fit(*rows("binary")),
        "LogisticRegression predicts classes, not numbers; expected a regressor",
    ),
    "one number of two": (
        "regression", lambda folder: Flat(knowing("regression")),
        "returned shape (4,) for 4 samples; expected (4, 2), one number for each value",
    ),
    "another width": (
        "embedding", lambda folder: nn.Linear(6, 9), "(4, 8), a vector as wide as the labels",
    ),
    "one answer for all tokens": (
        "tokens", lambda folder: fitted("binary", FOREST),
        "answers once for a whole sample, but a task of kind 'tokens' asks for every token",
    ),
    "classes in the middle of nowhere": (
        "tokens", lambda folder: nn.Linear(6, 4),
        "(4, 3, 5), one logit for each class, on the second axis or on the last",
    ),
    "experts of labels": (
        "multilabel", lambda folder: ClassSubsets([]),
        "ClassSubsets unites experts of single-label classes, but the task is of kind 'multilabel'",
    ),
    "nothing that answers": (
        "regression", lambda folder: Never(), "its type is Never; expected a torch module, an",
    ),
    "stored shares of numbers": (
        "regression", unstored("regression", probabilities=np.full((4, 2), 0.5)),
        "holds probabilities, but the task asks for numbers; name them logits if they are those",
    ),
    "stored shares beyond one": (
        "multilabel", unstored("multilabel", probabilities=np.full((4, 3), 1.5)),
        "probabilities are numbers beyond 0..1; if they are logits, name them so",
    ),
    "stored shares called logits": (
        "binary", unstored("binary", logits=np.full(4, 0.5)),
        "logits are numbers that all lie in 0..1, as probabilities do; if they are probabilities,",
    ),
    "stored answers without tokens": (
        "tokens", unstored("tokens", logits=np.zeros((4, 3))),
        "logits are float64 of shape (4, 3); expected floats of shape (samples, classes, tokens)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_teach_this_kind_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind, source, words = REFUSED[name]
    with pytest.raises(TeacherError) as refusal:
        teacher = as_teacher(source(tmp_path), form_of(kind_tasks.task(kind)))
        teacher.logits({"x": torch.tensor(rows(kind)[0][:4])})
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
