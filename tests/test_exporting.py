"""Export, parity and the graph's tidying: networks of several kinds, leaks, digests, refusals."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecompress import __version__
from edgecompress.errors import TaskError
from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import FLOAT, INT8, Tolerance, check_parity
from edgecompress.graphs import labels_of, tidy
from edgecompress.recipe import ExportSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run, session
from edgecompress.store import artifact


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.secret_stem = nn.Sequential(
            nn.Conv2d(1, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.body = nn.Sequential(
            nn.Conv2d(9, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.head = nn.Linear(12, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.body(self.secret_stem(image))  # a source line that must not leak
        return self.head(features.mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.a(left) + self.b(right)


class Sentence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.words(tokens))[0][:, -1])


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2, 4) * 2


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


def conv_net() -> ConvNet:
    """Return a network with batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = ConvNet().train()
    for _ in range(3):
        network(torch.rand(16, 1, 8, 8) * 3)
    return network


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).random((count, 1, 8, 8), dtype=np.float32)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    path = tmp_path_factory.mktemp("working_folder_of_user") / "model.onnx"
    return export(conv_net(), images(1), path, labels=("zero", "ünï"))


def reference(network: nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(*map(torch.from_numpy, inputs.values())).numpy()


def test_record_describes_the_file(exported: OnnxModel) -> None:
    assert exported.path.is_absolute()
    assert artifact(exported.path, OnnxModel) == exported
    assert [f.name for f in exported.path.parent.iterdir()] == ["model.onnx"]


def test_inputs_outputs_and_batch_are_named(exported: OnnxModel) -> None:
    opened = session(exported.path)
    assert [(i.name, i.shape) for i in opened.get_inputs()] == [("image", ["batch", 1, 8, 8])]
    assert [(o.name, o.shape) for o in opened.get_outputs()] == [("logits", ["batch", 10])]


def test_only_version_and_labels_are_said_about_the_origin(exported: OnnxModel) -> None:
    model = onnx.load(exported.path)
    assert (model.producer_name, model.producer_version) == ("edgecompress", __version__)
    assert labels_of(model) == ("zero", "ünï")
    assert len(model.metadata_props) == 1


def test_nothing_of_the_users_machine_leaks(exported: OnnxModel) -> None:
    data = exported.path.read_bytes()
    secrets = [
        "working_folder_of_user",
        str(Path.home()),
        str(Path(__file__).parent),
        "test_exporting",
        "ConvNet",
        "secret_stem",
        "torch",
        "must not leak",
        "nn.",
        ".py",
    ]
    assert [s for s in secrets if s.encode() in data] == []


def test_batch_norm_is_folded_and_the_file_is_small(exported: OnnxModel) -> None:
    operators = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert "BatchNormalization" not in operators
    weights = sum(p.numel() for p in conv_net().parameters())
    assert exported.size_bytes < 4 * weights + 1024


def test_two_folders_have_one_digest(exported: OnnxModel, tmp_path: Path) -> None:
    network = conv_net()
    channels_last = network.to(memory_format=torch.channels_last)
    again = export(channels_last, images(4), tmp_path / "deeper" / "x.onnx", labels=("zero", "ünï"))
    assert again.sha256 == exported.sha256


@pytest.mark.slow
def test_two_processes_have_one_digest(exported: OnnxModel, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import test_exporting as t\n"
        "made = t.export(t.conv_net(), t.images(1), Path('m.onnx'), labels=('zero', 'ünï'))\n"
        "print(made.sha256, end='')"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout == exported.sha256


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    network = conv_net().double().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export(network, images(1), tmp_path / "m.onnx")
    assert network.training
    assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())


def test_export_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        export(TwoInputs(), {"a": np.zeros((1, 4)), "b": np.zeros((1, 2))}, tmp_path / "m.onnx")
        with pytest.raises(TaskError):
            export(Branching(), {"x": np.zeros((1, 4))}, tmp_path / "b.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (TwoInputs(), {"second": (4,), "first": (2,)}),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)), {"x": (6,)}),
    ],
)
def test_every_kind_of_network_keeps_its_outputs(
    network: nn.Module, inputs: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    generator = np.random.default_rng(1)
    data = {n: generator.standard_normal((7, *s)).astype(np.float32) for n, s in inputs.items()}
    model = export(network, {n: a[:1] for n, a in data.items()}, tmp_path / "m.onnx")
    parity = check_parity(reference(network, data), model, data, "torch")
    assert parity.passed, parity.reason


def test_tokens_and_recurrence(tmp_path: Path) -> None:
    tokens = {"tokens": np.random.default_rng(0).integers(0, 11, (9, 5))}
    network = Sentence()
    model = export(network, tokens, tmp_path / "m.onnx")
    parity = check_parity(reference(network, tokens), model, tokens, "torch")
    assert parity.passed, parity.reason


def test_softmax_is_folded_in_on_request(exported: OnnxModel, tmp_path: Path) -> None:
    settings = ExportSettings(softmax=True)
    model = export(conv_net(), images(1), tmp_path / "m.onnx", settings)
    assert session(model.path).get_outputs()[0].name == "probabilities"
    probabilities, logits = run(model, images(5)), run(exported, images(5))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_opset_is_the_one_asked_for(tmp_path: Path) -> None:
    settings = ExportSettings(opset=20)
    model = export(nn.Linear(4, 3), {"x": np.zeros((1, 4))}, tmp_path / "m.onnx", settings)
    assert [entry.version for entry in onnx.load(model.path).opset_import] == [20]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Branching(), "control flow depends on the data .* use torch.where or torch.cond instead"),
        (FixedBatch(), r"fixes the batch size of 'x'; take sizes from the input"),
        (Bessel(), r"ONNX has no operator for \w+\.bessel_j0"),
        (Pair(), "returns a tuple, expected one tensor of logits"),
        (Total(), r"returns shape \(\) for a batch of 2, expected the batch as the first axis"),
        (
            nn.Linear(5, 3),
            r"fails on the task's inputs \(x \(2, 4\), in this order\): RuntimeError",
        ),
    ],
)
def test_unexportable_networks_are_refused_in_one_line(
    network: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        export(network, {"x": np.ones((1, 4), np.float32)}, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_parity_holds_for_the_export(exported: OnnxModel) -> None:
    inputs = images(40)
    parity = check_parity(reference(conv_net(), inputs), exported, inputs, "torch")
    assert parity.passed
    assert (parity.samples, parity.agreement) == (40, 1.0)
    assert parity.max_rel_error <= FLOAT.max_rel_error
    assert parity.reason == "agrees with torch"


def test_parity_names_what_differs(exported: OnnxModel) -> None:
    inputs = images(40)
    right = run(exported, inputs)
    for wrong, tolerance, reason in [
        (right + 0.01, FLOAT, "relative error"),
        (-right, INT8, "same top class on"),
        (right[:, :5], FLOAT, r"outputs (40, 10), teacher (40, 5)"),
        (
            np.where(np.arange(40)[:, None] < 2, np.nan, right),
            FLOAT,
            "teacher is not finite on 2 of 40",
        ),
    ]:
        parity = check_parity(wrong, exported, inputs, "teacher", tolerance)
        assert not parity.passed
        assert reason in parity.reason
    assert check_parity(right + 0.01, exported, inputs, "teacher", Tolerance(None, 0.9)).passed


def hand_made(path: Path, nodes: list[onnx.NodeProto], **io: list[object]) -> OnnxModel:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, io.get("x", ["n", 4]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([2, 4]), "fixed"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return artifact(path, OnnxModel)


def test_parity_catches_a_batch_baked_in(tmp_path: Path) -> None:
    x = {"x": np.ones((4, 4), np.float32)}
    inside = hand_made(tmp_path / "a.onnx", [helper.make_node("Reshape", ["x", "fixed"], ["y"])])
    parity = check_parity(x["x"], inside, x, "torch")
    assert not parity.passed
    assert "cannot run" in parity.reason
    outside = hand_made(tmp_path / "b.onnx", [helper.make_node("Relu", ["x"], ["y"])], x=[2, 4])
    parity = check_parity(x["x"], outside, x, "torch")
    assert parity.reason == "batch size fixed to 2 in input 'x'"


def test_parity_catches_outputs_that_are_not_finite(tmp_path: Path) -> None:
    x = {"x": np.ones((4, 4), np.float32)}
    model = hand_made(tmp_path / "a.onnx", [helper.make_node("Div", ["x", "zero"], ["y"])])
    parity = check_parity(x["x"], model, x, "torch", INT8)
    assert parity.reason == "the model is not finite on 4 of 4 samples"


def test_tidy_reaches_into_branches_and_functions() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["hidden"], ["/home/me/out"], "n", "class Secret")
        out = helper.make_tensor_value_info("/home/me/out", TensorProto.FLOAT, ["n", 4])
        return helper.make_graph([node], "secret graph", [], [out], doc_string="secret")

    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Twice", ["x"], ["hidden"], "secret/Twice", domain="mine"),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")
        ),
    ]
    nodes.insert(1, helper.make_node("ReduceSum", ["hidden"], ["sum"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "secret",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.array(0, np.float32), n) for n in ("zero", "unused secret")],
    )
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid(d, v) for d, v in (("", 18), ("mine", 1), ("lost", 1))],
        ir_version=10,
        doc_string="secret",
    )
    tidied = tidy(model)
    data = tidied.SerializeToString()
    assert not [s for s in (b"secret", b"Secret", b"/home", b"mine", b"lost") if s in data.lower()]
    onnx.checker.check_model(tidied, full_check=True)
    x = np.array([[-1, 2, -3, 4]], np.float32)
    before, after = (
        onnx.reference.ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (model, tidied)
    )
    np.testing.assert_array_equal(before, after)
    assert tidy(tidied).SerializeToString() == data


def test_tidy_shares_equal_constants(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "one"], ["h"]),
            helper.make_node("Mul", ["h", "uno"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.ones(1, np.float32), n) for n in ("one", "uno")],
    )
    tidied = tidy(helper.make_model(graph))
    assert [t.name for t in tidied.graph.initializer] == ["add1.1"]
    assert [list(n.input) for n in tidied.graph.node] == [["x", "add1.1"], ["add1", "add1.1"]]
