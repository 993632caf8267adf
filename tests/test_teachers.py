"""Teachers of every kind give finite logits in the order of the class names, or one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecompress.errors import TeacherError
from edgecompress.teachers.adapters import as_teacher, predict_logits
from edgecompress.teachers.weights import load_weights_

NAMES = ("cat", "dog", "owl")
DRAWS = np.random.default_rng(0)
ROWS = DRAWS.normal(size=(90, 2, 3)).astype(np.float32)
LABELS = np.arange(90) % 3
ROWS[:, 0, 0] += 3 * LABELS
INPUTS = {"x": ROWS}
FLAT = ROWS.reshape(90, 6)


def tensors(rows: int = 90) -> dict[str, Tensor]:
    return {"x": torch.from_numpy(ROWS[:rows])}


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(x.flatten(1))))


class Wrapped(nn.Module):
    """Answer as transformers' models do: with an object, or a dict, that holds the logits."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.net, self.as_dict = Net(), as_dict

    def forward(self, x: Tensor) -> object:
        logits = self.net(x)
        return {"logits": logits} if self.as_dict else type("Output", (), {"logits": logits})()


def test_module_answers_in_eval_mode_and_stays_as_it_was() -> None:
    net = Net().train()
    net.drop.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    teacher = as_teacher(net, NAMES)
    first, second = teacher.logits(tensors()), teacher.logits(tensors())
    assert torch.equal(first, second)
    assert first.shape == (90, 3)
    assert not first.requires_grad
    assert net.training
    assert net.norm.training
    assert not net.drop.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_module_is_put_back_when_it_fails() -> None:
    net = Net().train()
    with pytest.raises(TeacherError) as refusal:
        as_teacher(net, NAMES).logits({"x": torch.zeros(4, 5)})
    assert "teacher: failed on x (4, 5) float32: RuntimeError:" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert net.training


@pytest.mark.parametrize("as_dict", [True, False])
def test_module_that_wraps_its_logits(as_dict: bool) -> None:
    module = Wrapped(as_dict)
    expected = as_teacher(module.net, NAMES).logits(tensors())
    assert torch.equal(as_teacher(module, NAMES).logits(tensors()), expected)


def onnx_file(path: Path, batch: int | str, name: str = "x", softmax: bool = False) -> Path:
    """Write a linear model; with `softmax`, one as classifiers come: label, then probabilities."""
    weight = DRAWS.normal(size=(6, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", [name], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [batch])
    kind = "probabilities" if softmax else "logits"
    answer = helper.make_tensor_value_info(kind, TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(
        nodes if softmax else nodes[:2],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2, 3])],
        [label, answer] if softmax else [answer],
        [helper.make_tensor("w", TensorProto.FLOAT, [6, 3], weight.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_onnx_file_teaches_whatever_its_batch(tmp_path: Path, batch: int | str) -> None:
    path = onnx_file(tmp_path / "m.onnx", batch)
    logits = as_teacher(path, NAMES).logits(tensors())
    weight = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    np.testing.assert_allclose(logits.numpy(), FLAT @ weight, rtol=1e-4, atol=1e-5)


def test_onnx_file_that_ends_in_a_softmax_teaches_its_logarithm(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", "n", softmax=True)
    logits = as_teacher(path, NAMES).logits(tensors())
    weight = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    expected = torch.softmax(torch.from_numpy(FLAT @ weight), 1)
    np.testing.assert_allclose(torch.softmax(logits, 1), expected, atol=1e-5)


def test_row_of_logits_that_happens_to_sum_to_one_stays(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", "n")
    weight = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float64)
    row = np.linalg.pinv(weight.T) @ np.array([0.2, 0.3, 0.5])
    batch = {"x": torch.from_numpy(row.reshape(1, 2, 3).astype(np.float32))}
    logits = as_teacher(path, NAMES).logits(batch)
    np.testing.assert_allclose(logits[0], [0.2, 0.3, 0.5], atol=1e-5)


def test_onnx_file_with_other_input_names_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", "n", "picture")
    with pytest.raises(TeacherError) as refusal:
        as_teacher(str(path), NAMES).logits(tensors())
    assert str(refusal.value) == (
        f"teacher {path}: takes the inputs picture; the task has x; give them the same names"
    )


def test_onnx_file_with_other_shapes_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", "n")
    with pytest.raises(TeacherError, match=r"failed on x \(4, 7\) float32"):
        as_teacher(path, NAMES).logits({"x": torch.zeros(4, 7)})


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_broken_onnx_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TeacherError) as refusal:
        as_teacher(path, NAMES)
    assert str(refusal.value).startswith(f"teacher {path}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            None,
            "teacher: its type is NoneType; expected a torch module, an estimator with predict",
        ),
        (Path("a.joblib"), "teacher a.joblib: expected the path of an .onnx file, or of soft ta"),
        ("a.pt", "teacher a.pt: a pickled module runs its author's code when opened; return the"),
    ],
)
def test_what_cannot_teach_is_refused(source: object, words: str) -> None:
    with pytest.raises(TeacherError) as refusal:
        as_teacher(source, NAMES)
    assert words in str(refusal.value)


class Says:
    """Answer with what it was given, whatever is asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def logits(self, inputs: Mapping[str, Tensor]) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros((2, 3)), "teacher: returned type ndarray; expected a tensor of logits"),
        (torch.zeros(2, 1), "teacher: returned shape (2, 1) for 2 samples; expected (2, 3), one"),
        (torch.zeros(1, 3), "teacher: returned shape (1, 3) for 2 samples"),
        (torch.zeros(2, 3, 1), "teacher: returned shape (2, 3, 1) for 2 samples"),
        (
            torch.tensor([[0.0, 0, 0], [0, float("nan"), 0]]),
            "teacher: its logits for sample 1 are not finite; check that sample and the teacher's",
        ),
        (torch.full((2, 3), float("inf")), "its logits for sample 0 are not finite"),
    ],
)
def test_bad_answers_are_refused(answer: object, words: str) -> None:
    with pytest.raises(TeacherError) as refusal:
        as_teacher(Says(answer), NAMES).logits(tensors(2))
    assert words in str(refusal.value)


def test_own_teacher_is_any_object_with_logits() -> None:
    teacher = as_teacher(Says(torch.ones(2, 3, dtype=torch.float64)), NAMES)
    assert teacher.logits(tensors(2)).dtype == torch.float32
    assert as_teacher(teacher, NAMES) is teacher


def test_predicting_in_batches_names_the_sample_of_the_whole() -> None:
    net = Net()
    teacher = as_teacher(net, NAMES)
    whole = predict_logits(teacher, INPUTS, batch=90)
    np.testing.assert_allclose(predict_logits(teacher, INPUTS, batch=7), whole, atol=1e-5)
    broken = ROWS.copy()
    broken[52] = np.nan
    with pytest.raises(TeacherError, match="logits for sample 52 are not finite"):
        predict_logits(teacher, {"x": broken}, batch=7)


def test_pickled_module_opens_only_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(Net(), path)
    with pytest.raises(TeacherError, match="or pass --trust-code"):
        as_teacher(path, NAMES)
    assert as_teacher(path, NAMES, trust_code=True).logits(tensors()).shape == (90, 3)
    torch.save(Net().state_dict(), path)
    with pytest.raises(TeacherError, match="holds type OrderedDict; expected a module; build"):
        as_teacher(path, NAMES, trust_code=True)
    path.write_bytes(b"torn")
    with pytest.raises(TeacherError, match="cannot be opened"):
        as_teacher(path, NAMES, trust_code=True)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "nested.pt"])
def test_weights_come_back(tmp_path: Path, suffix: str) -> None:
    net, path = Net(), tmp_path / f"w.{suffix}"
    state = net.state_dict()
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if "nested" in suffix else state, path)
    loaded = load_weights_(Net(), path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = Net().state_dict()

    def refusal() -> str:
        with pytest.raises(TeacherError) as refused:
            load_weights_(Net(), path)
        return str(refused.value).removeprefix(f"weights {path}: ")

    assert refusal() == "no such file"
    save_file({k: v for k, v in state.items() if k != "fc.bias"}, path)
    assert refusal() == "lacks 1 of the module's weights, the first 'fc.bias'"
    save_file({**state, "extra": torch.zeros(1)}, path)
    assert refusal() == "holds 1 unknown to it, the first 'extra'"
    save_file({k.replace("fc.bias", "fc.biass"): v for k, v in state.items()}, path)
    assert refusal() == (
        "lacks 1 of the module's weights, the first 'fc.bias' and holds 1 unknown to it, "
        "the first 'fc.biass'; did you mean 'fc.bias'?"
    )
    save_file({**state, "fc.bias": torch.zeros(7)}, path)
    assert refusal().startswith("fc.bias has shape (7,); the module has (3,); build the module")
    path.write_bytes(b"torn")
    assert refusal().startswith("is neither a safetensors file nor one that torch.save(")


def test_pickle_that_is_no_state_dict_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(Net(), path)
    with pytest.raises(TeacherError, match="neither a safetensors file nor one that"):
        load_weights_(Net(), path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(TeacherError, match="holds no state dict; expected what module"):
        load_weights_(Net(), path)


def test_function_named_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\ndef build():\n    return nn.Flatten()\ndef torn():\n    1 / 0\n"
    (tmp_path / "my_teachers.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    teacher = as_teacher("my_teachers:build", tuple("abcdef"))
    assert teacher.logits(tensors()).shape == (90, 6)
    for spec, words in {
        "my_teachers:missing": "AttributeError: module 'my_teachers' has no attribute 'missing'",
        "no_such_package.models:build": "ModuleNotFoundError: No module named 'no_such_package'",
        "my_teachers:torn": "ZeroDivisionError",
    }.items():
        with pytest.raises(TeacherError, match=f"teacher {spec}: {words}.*; expected module:func"):
            as_teacher(spec, NAMES)


def test_transformer_teaches_by_the_names_of_its_inputs() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(
        vocab_size=50, num_hidden_layers=1, max_position_embeddings=12, **sizes
    )
    config.id2label = {0: "owl", 1: "cat", 2: "dog"}
    config.label2id = {"owl": 0, "cat": 1, "dog": 2}
    model = transformers.BertForSequenceClassification(config)
    tokens = torch.randint(0, 50, (7, 12))
    mask = (torch.arange(12) < 9).long().expand(7, 12)
    # In this order, and given by place, the mask would be read as the tokens.
    batch = {"attention_mask": mask, "input_ids": tokens}
    with torch.no_grad():
        expected = model.eval()(input_ids=tokens, attention_mask=mask).logits
    as_named = as_teacher(model, ("owl", "cat", "dog")).logits(batch)
    assert torch.equal(as_named, expected)
    assert torch.equal(as_teacher(model, NAMES).logits(batch), expected[:, [1, 2, 0]])
    assert torch.equal(as_teacher(model, ("a", "b", "c")).logits(batch), expected)
    with pytest.raises(TeacherError, match=r"failed on tokens \(7, 12\) int64: (Type|Value)Error"):
        as_teacher(model, NAMES).logits({"tokens": tokens})
