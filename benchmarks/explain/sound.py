"""Ten sound models: the project's own students, as it exports and quantizes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgecompress import export, onnx_model, quantize
from edgecompress.students.image import ResidualNet, ds_cnn, mobilenet_v1, resnet8
from edgecompress.students.sequence import sensor_net
from edgecompress.students.tabular import tabular_net
from edgecompress.students.text import hashed_bag, text_encoder

Inputs = dict[str, np.ndarray]


def floats(*shape: int) -> Inputs:
    generator = np.random.default_rng(0)
    return {"x": generator.standard_normal((32, *shape)).astype(np.float32)}


def tokens(vocabulary: int, length: int = 64) -> Inputs:
    return {"tokens": np.random.default_rng(0).integers(1, vocabulary, (32, length))}


def rows() -> Inputs:
    codes = np.random.default_rng(0).integers(0, 8, (32, 4))
    return {"numeric": floats(12)["x"], "codes": codes}


def exported(make: Callable[[], nn.Module], inputs: Inputs, folder: Path) -> Path:
    """Export the network that `make` returns, with the same weights every time."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    return export(make(), inputs, folder / "float.onnx").path


def int8(source: Path, inputs: Inputs, scheme: str = "int8-static") -> Path:
    """Quantize as edgecompress does."""
    made = quantize(onnx_model(source), inputs, source.parent)
    model = next(m.model for m in made if m.scheme == scheme)
    assert model is not None, [m.reason for m in made]
    return model.path


def mlp(*widths: int) -> nn.Module:
    layers = [
        part for left, right in pairwise(widths) for part in (nn.Linear(left, right), nn.ReLU())
    ]
    return nn.Sequential(*layers[:-1])


def residual() -> nn.Module:
    return ResidualNet(3, 10, widths=(32, 64, 128), blocks=(1, 1, 1))


IMAGE = floats(3, 32, 32)
SOUND: Mapping[str, Callable[[Path], Path]] = {
    "resnet8": lambda folder: exported(resnet8, IMAGE, folder),
    "resnet8, int8": lambda folder: int8(exported(resnet8, IMAGE, folder), IMAGE),
    "residual net, int8": lambda folder: int8(exported(residual, IMAGE, folder), IMAGE),
    "ds_cnn": lambda folder: exported(ds_cnn, floats(1, 49, 10), folder),
    "mobilenet_v1": lambda folder: exported(mobilenet_v1, floats(3, 96, 96), folder),
    "sensor_net": lambda folder: exported(lambda: sensor_net(6, 5), floats(6, 128), folder),
    "tabular_net": lambda folder: exported(lambda: tabular_net(12, [8] * 4, 3), rows(), folder),
    "text_encoder": lambda folder: exported(lambda: text_encoder(500, 4), tokens(500), folder),
    "hashed_bag": lambda folder: exported(lambda: hashed_bag(4), tokens(4096), folder),
    "mlp, int8": lambda folder: int8(
        exported(lambda: mlp(64, 256, 256, 10), floats(64), folder), floats(64)
    ),
}
# Not among the ten: int8 where nobody promised that it pays. What is said of them is shown.
OTHERS: Mapping[str, Callable[[Path], Path]] = {
    "ds_cnn, int8": lambda folder: int8(
        exported(ds_cnn, floats(1, 49, 10), folder), floats(1, 49, 10)
    ),
    "mobilenet_v1, int8": lambda folder: int8(
        exported(mobilenet_v1, floats(3, 96, 96), folder), floats(3, 96, 96)
    ),
    "sensor_net, int8": lambda folder: int8(
        exported(lambda: sensor_net(6, 5), floats(6, 128), folder), floats(6, 128)
    ),
    "text_encoder, int8 dynamic": lambda folder: int8(
        exported(lambda: text_encoder(500, 4), tokens(500), folder), tokens(500), "int8-dynamic"
    ),
    "text_encoder, int8": lambda folder: int8(
        exported(lambda: text_encoder(500, 4), tokens(500), folder), tokens(500)
    ),
    "mlp": lambda folder: exported(lambda: mlp(64, 256, 256, 10), floats(64), folder),
}
