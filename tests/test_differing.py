"""A parity that fails names the first layer that differs: in torch, or between float and int8."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from test_exporting import conv_net, images, reference
from torch import nn

from edgecompress.exporting.differing import first_value, located
from edgecompress.exporting.layers import first_layer
from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import INT8, check_parity
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import OnnxModel
from edgecompress.store import artifact


class Odd(nn.Module):
    """Compute something else while it is exported, as a mistake in a network would."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.5 if torch.compiler.is_exporting() else x


class WithOdd(nn.Module):
    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.body = nn.ModuleDict({"gain": Odd() if odd else nn.Identity(), "act": nn.ReLU()})
        self.head = nn.Linear(4, 3)
        self.act = nn.ReLU()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = self.act(self.body["act"](self.body["gain"](x)) + self.shortcut(x))
        return self.head(self.act(x).mean((2, 3)))


def test_the_layer_that_broke_in_export_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = WithOdd(odd=True).eval()
    inputs = images(20)
    model = export(network, inputs, tmp_path / "m.onnx")
    parity = check_parity(reference(network, inputs), model, inputs, "torch")
    assert not parity.passed
    told = located(parity, lambda: first_layer(network, inputs)).reason
    assert told.startswith(parity.reason)
    assert told.endswith("; the first layer that differs is body.gain (Odd), relative error 0.5")


def test_a_sound_export_differs_nowhere_before_it_is_optimised() -> None:
    said = first_layer(conv_net(), images(3))
    assert said == "no layer differs in what the exporter wrote: it is the graph's optimisation"


def test_what_passed_stays_and_a_failed_search_hides_nothing(tmp_path: Path) -> None:
    network, inputs = conv_net(), images(20)
    model = export(network, inputs, tmp_path / "m.onnx")
    right = reference(network, inputs)
    passed = check_parity(right, model, inputs, "torch")
    assert located(passed, lambda: pytest.fail("not asked")) is passed
    failed = check_parity(right + 1, model, inputs, "torch")
    assert located(failed, lambda: 1 / 0) is failed  # type: ignore[arg-type,return-value]


def spoilt(model: OnnxModel, path: Path) -> OnnxModel:
    """Write the int8 model with the scale of one convolution's weights three times as large."""
    graph: ModelProto = onnx.load(model.path)
    made = {node.output[0]: node for node in graph.graph.node}
    second = [node for node in graph.graph.node if node.op_type == "Conv"][1]
    name = made[second.input[1]].input[1]
    scale = next(t for t in graph.graph.initializer if t.name == name)
    scale.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(scale), name))
    path.write_bytes(graph.SerializeToString())
    return artifact(path, OnnxModel)


def test_the_layer_that_broke_in_int8_is_named(tmp_path: Path) -> None:
    network, inputs = conv_net(), images(64)
    whole = export(network, inputs, tmp_path / "m.onnx")
    (made,) = quantize(whole, inputs, tmp_path, QuantizeSettings(schemes=("static",)))
    assert made.model is not None
    sound = first_value(whole, made.model, inputs)
    assert sound.startswith("the layer that differs most is ")
    broken = spoilt(made.model, tmp_path / "broken.onnx")
    right = reference(network, inputs)
    parity = check_parity(right, broken, inputs, "float", INT8)
    told = first_value(whole, broken, inputs)
    assert told.startswith("the first layer that differs by more than a tenth is conv2 (Conv)")
    if not parity.passed:
        assert located(parity, lambda: told).reason.endswith(told)
