"""A network that rounds as it learns, beside the int8 model that it becomes."""

from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks.pruning.architectures import ARCHITECTURES
from edgecompress.builtin import digits_task
from edgecompress.distilling.arms import TrainedArm, train_arm
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.scoring import forward
from edgecompress.errors import ModelError
from edgecompress.exporting.onnx import export
from edgecompress.quantizing import aware
from edgecompress.quantizing.aware import Beginning, begin, fake_quantized, finish
from edgecompress.quantizing.fake import FakeQuantized
from edgecompress.quantizing.static import StaticForm
from edgecompress.recipe import DistillSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run
from edgecompress.store import artifact
from edgecompress.students.image import DepthwiseNet, ResidualNet
from edgecompress.students.text import text_encoder
from edgecompress.tasks.task import Arrays, Task
from edgecompress.teachers.adapters import as_teacher

PLAIN = StaticForm()
SEVEN = StaticForm(per_channel=False, reduce_range=True)
ROWS = 128


def image(*shape: int) -> Arrays:
    return {"x": np.random.default_rng(0).normal(size=(ROWS, *shape)).astype(np.float32)}


def line() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv1d(3, 16, 5, 2, 1), nn.BatchNorm1d(16), nn.ReLU()]
    layers += [nn.Conv1d(16, 24, 3, padding=1), nn.LeakyReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 5))


def perceptron() -> nn.Module:
    hidden = (nn.Linear(20, 64), nn.Hardswish(), nn.Linear(64, 64), nn.Tanh())
    return nn.Sequential(*hidden, nn.Dropout(0.2), nn.Linear(64, 5))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Arrays]] = {
    "residual": (lambda: ResidualNet(1, 10, widths=(16, 32), blocks=(1, 1)), image(1, 8, 8)),
    "depthwise": (lambda: DepthwiseNet(2, 10, widths=(16, 32), blocks=(1, 1)), image(2, 8, 8)),
    "mobilenet_v3": (ARCHITECTURES["mobilenet_v3"].network, image(3, 16, 16)),
    "line": (line, image(3, 40)),
    "perceptron": (perceptron, image(20)),
    "text": (
        lambda: text_encoder(50, 5, depth=0.5),
        {"tokens": np.random.default_rng(0).integers(1, 50, (ROWS, 7))},
    ),
}


@dataclass(frozen=True)
class Exported:
    """Hold a network with statistics of its own, and its float model."""

    network: nn.Module
    model: OnnxModel
    inputs: Arrays


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    make, inputs = NETWORKS[request.param]
    torch.manual_seed(0)
    network = make().train()
    with torch.no_grad():
        for _ in range(20):
            network(*(torch.from_numpy(a) for a in inputs.values()))
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    return Exported(network.eval(), export(network, inputs, path), inputs)


def agreement(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())


@pytest.mark.parametrize("form", [PLAIN, SEVEN], ids=["plain", "seven bits, one scale"])
def test_the_fake_quantized_network_answers_as_the_int8_model(
    exported: Exported, tmp_path: Path, form: StaticForm
) -> None:
    before = deepcopy(exported.network.state_dict())
    beginning = begin(exported.model, exported.inputs, form, tmp_path)
    assert beginning.reason == ""
    assert beginning.int8 is not None
    network = fake_quantized(beginning, form)
    said, expected = forward(network, exported.inputs), run(beginning.int8, exported.inputs)
    whole = run(exported.model, exported.inputs)
    assert agreement(said, expected) >= 0.99
    assert np.abs(said - expected).mean() < 0.3 * np.abs(whole - expected).mean()

    made = finish(network, beginning, exported.inputs, form, tmp_path / "int8.onnx")
    assert np.abs(run(made, exported.inputs) - expected).max() < 0.02 * np.abs(expected).max()
    assert kernels(made, tmp_path) == kernels(beginning.int8, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"source.onnx", "places.onnx", "int8.onnx"}
    assert not list(tmp_path.glob(".aware*"))
    after = exported.network.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def kernels(model: OnnxModel, folder: Path) -> Counter[str]:
    """Return the operators that are left when ONNX Runtime has fused what it can."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(model.path), options, ["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)


@pytest.mark.parametrize("form", [PLAIN, SEVEN])
def test_weights_lie_on_the_grid_of_the_int8_model(tmp_path: Path, form: StaticForm) -> None:
    inputs = image(1, 8, 8)
    torch.manual_seed(0)
    net = ResidualNet(1, 10, widths=(16,), blocks=(1,)).eval()
    beginning = begin(export(net, inputs, tmp_path / "m.onnx"), inputs, form, tmp_path)
    assert beginning.int8 is not None
    network = fake_quantized(beginning, form)
    held = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(beginning.int8.path).graph.initializer
    }
    assert network.weights().keys() >= {
        name.removesuffix("_quantized") for name in held if "_q" in name
    }
    for rounded in network._rounded.values():
        whole, scale = held[f"{rounded.weight}_quantized"], held[f"{rounded.weight}_scale"]
        scale = scale if rounded.axis is None else scale.reshape(-1, *[1] * (whole.ndim - 1))
        found = network._weight(rounded).detach().numpy()
        np.testing.assert_allclose(found, whole * scale, atol=float(scale.max()) * 1e-3)
        assert np.abs(whole).max() == (64 if form.reduce_range else 127)


def test_every_range_that_was_learned_ships(exported: Exported, tmp_path: Path) -> None:
    beginning = begin(exported.model, exported.inputs, PLAIN, tmp_path)
    network = fake_quantized(beginning, PLAIN)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("log_scale") and parameter.requires_grad:
                parameter.add_(0.3)
    made = finish(network, beginning, exported.inputs, PLAIN, tmp_path / "int8.onnx")
    held = [numpy_helper.to_array(t) for t in onnx.load(made.path).graph.initializer]
    scales = {float(array) for array in held if array.ndim == 0 and array.dtype == np.float32}
    learned = {float(known["scale"]) for (known,) in network.overrides().values()}
    assert learned <= scales
    said, shipped = forward(network, exported.inputs), run(made, exported.inputs)
    assert np.abs(said - shipped).mean() < 0.01 * np.abs(said).max()


# --- training -------------------------------------------------------------------------------


SETTINGS = DistillSettings(
    epochs=2, batch_size=64, learning_rate=1e-3, precision="fp32", kd_weight=0.0
)


@pytest.fixture(scope="module")
def digits() -> Task:
    task = digits_task()
    return replace(task, augment=None, train=task.train.take(slice(0, 512)))


@pytest.fixture(scope="module")
def student(digits: Task) -> nn.Module:
    torch.manual_seed(0)
    net = DepthwiseNet(1, 10, widths=(16, 32), blocks=(1, 1))
    settings = SETTINGS.model_copy(update={"epochs": 8, "learning_rate": 2e-2})
    return train_arm("control", net, digits, settings).module


@pytest.fixture(scope="module")
def beginning(
    digits: Task, student: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Beginning:
    folder = tmp_path_factory.mktemp("digits")
    model = export(student, digits.example_inputs(2), folder / "model.onnx")
    return begin(model, digits.train.inputs, PLAIN, folder)


def trained(network: nn.Module, digits: Task, bench: Bench = Bench()) -> TrainedArm:
    torch.manual_seed(1)
    teacher = as_teacher(ResidualNet(1, 10, widths=(8,), blocks=(1,)), digits.class_names)
    return train_arm("distilled", network, digits, SETTINGS, bench, teacher)


def test_what_was_trained_is_what_ships(digits: Task, beginning: Beginning, tmp_path: Path) -> None:
    first = fake_quantized(beginning, PLAIN)
    arm = trained(first, digits)
    learned, at_first = arm.module.state_dict(), first.state_dict()
    moved = {name.rpartition(".")[2] for name in learned if not learned[name].equal(at_first[name])}
    assert "log_scale" in moved
    assert any(name.startswith("tensor/conv") for name in moved)
    assert isinstance(arm.module, FakeQuantized)
    assert beginning.int8 is not None
    model = finish(arm.module, beginning, digits.train.inputs, PLAIN, tmp_path / "int8.onnx")
    said, shipped = (
        forward(arm.module, digits.validation.inputs),
        run(model, digits.validation.inputs),
    )
    labels = np.asarray(digits.validation.labels)
    assert agreement(said, shipped) >= 0.99
    untrained = run(beginning.int8, digits.validation.inputs)
    right = float((shipped.argmax(axis=1) == labels).mean())
    assert right >= float((untrained.argmax(axis=1) == labels).mean())
    assert kernels(model, tmp_path) == kernels(beginning.int8, tmp_path)
    assert kernels(model, tmp_path)["QLinearConv"] >= 5


class KilledError(Exception):
    """Stand for a kill."""


def test_a_training_that_was_killed_ends_in_the_same_bits(
    digits: Task, beginning: Beginning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)

    def tick(text: str, done: int, total: int) -> None:
        if text.startswith("epoch") and done == 11:
            raise KilledError

    whole = weights_digest(trained(fake_quantized(beginning, PLAIN), digits).module)
    bench = Bench(checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(KilledError):
        trained(fake_quantized(beginning, PLAIN), digits, replace(bench, tick=tick))
    again = trained(fake_quantized(beginning, PLAIN), digits, bench)
    assert weights_digest(again.module) == whole


# --- what is refused ------------------------------------------------------------------------


def by_hand(path: Path, *nodes: onnx.NodeProto, **weights: NDArray[Any]) -> OnnxModel:
    """Write a float model of rows of 40, whose answer is what the last node makes."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 40])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["batch", 40])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return artifact(path, OnnxModel)


WEIGHT = np.random.default_rng(0).normal(size=(40, 40))


def test_an_operator_without_a_like_is_refused_before_training(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["h"])
    model = by_hand(tmp_path / "m.onnx", product, helper.make_node("Selu", ["h"], ["y"]), w=WEIGHT)
    found = begin(model, image(40), PLAIN, tmp_path)
    assert found == Beginning(None, None, "PyTorch has no like of its operators Selu")


def test_a_network_that_int8_does_nothing_for_is_refused(tmp_path: Path) -> None:
    model = by_hand(tmp_path / "m.onnx", helper.make_node("Relu", ["x"], ["y"]))
    found = begin(model, image(40), PLAIN, tmp_path)
    assert "static int8 has nothing to gain" in found.reason


def test_a_network_that_computes_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = by_hand(tmp_path / "m.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), w=WEIGHT)
    assert begin(model, image(40), PLAIN, tmp_path).reason == ""
    monkeypatch.setattr(aware, "run", lambda model, inputs: run(model, inputs)[::-1])
    reason = begin(model, image(40), PLAIN, tmp_path).reason
    assert reason.startswith("PyTorch computes it otherwise than ONNX Runtime here: R2 -")

    def broken(self: FakeQuantized, *inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a shape\nis wrong")

    monkeypatch.setattr(FakeQuantized, "forward", broken)
    reason = begin(model, image(40), PLAIN, tmp_path).reason
    assert reason == "it cannot be computed in PyTorch: RuntimeError: a shape is wrong"


def test_a_model_that_is_int8_already_is_an_error(beginning: Beginning, tmp_path: Path) -> None:
    assert beginning.int8 is not None
    with pytest.raises(ModelError, match="already quantized"):
        begin(beginning.int8, image(1, 8, 8), PLAIN, tmp_path)


def test_equal_biases_are_learned_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first")]
    nodes += [helper.make_node("Gemm", ["h", "v", "b"], ["y"], name="second")]
    weights = {"w": WEIGHT, "v": WEIGHT + 1, "b": np.ones(40)}
    found = begin(by_hand(tmp_path / "m.onnx", *nodes, **weights), image(40), PLAIN, tmp_path)
    assert sum(a.ndim == 1 for a in fake_quantized(found, PLAIN).weights().values()) == 2
    assert found.source is not None
    source = onnx.load(found.source.path).graph
    read = {name for node in source.node for name in node.input}
    assert {tensor.name for tensor in source.initializer} <= read
