"""Models made slow on purpose, each beside the model that the same work could be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np
import surgery
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from sound import exported, floats, int8
from torch import nn

from edgecompress.students.image import DepthwiseNet, ResidualNet

IMAGE = (3, 32, 32)
TABLE = (64, 256)
SIGNED = {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8}
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Slow:
    """Name a way to make a model slow; both makers write an ONNX file into a folder."""

    name: str
    cause: str
    slow: Make
    sound: Make


class _Reader(CalibrationDataReader):
    """Yield samples one at a time."""

    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        count = len(next(iter(inputs.values())))
        self._left = iter([{k: v[i : i + 1] for k, v in inputs.items()} for i in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def net(make: Callable[[], nn.Module], *shape: int) -> Make:
    return lambda folder: exported(make, floats(*shape), folder)


def images(*widths: int) -> Make:
    """Make a residual network of one block for each width."""
    return net(lambda: ResidualNet(3, 10, widths=widths, blocks=(1,) * len(widths)), *IMAGE)


def quantized(source: Make, *shape: int) -> Make:
    """Quantize as edgecompress does."""
    return lambda folder: int8(source(folder), floats(*shape))


def prepared(source: Path) -> Path:
    made = source.with_name("prepared.onnx")
    quant_pre_process(source, made, skip_symbolic_shape=True)
    return made


def by_hand(source: Make, *shape: int, **options: object) -> Make:
    """Quantize as ONNX Runtime's own example does, with `options` on top."""

    def make(folder: Path) -> Path:
        made = folder / "int8.onnx"
        settings = {
            "quant_format": QuantFormat.QDQ,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "per_channel": True,
        }
        start = prepared(source(folder))
        quantize_static(start, made, _Reader(floats(*shape)), **(settings | options))
        return made

    return make


def dynamic(source: Make) -> Make:
    def make(folder: Path) -> Path:
        made = folder / "dynamic.onnx"
        quantize_dynamic(prepared(source(folder)), made)
        return made

    return make


def edited(source: Make, edit: Callable[[Path], Path]) -> Make:
    return lambda folder: edit(source(folder))


EVEN, ODD, PRUNED = images(32, 64, 128), images(31, 63, 127), images(27, 51, 109)
EVEN_INT8 = quantized(EVEN, *IMAGE)
SOFTPLUS, RELU = (net(lambda a=a: networks.Pointwise(a), *IMAGE) for a in (nn.Softplus, nn.ReLU))
UP, RESIZED = (net(lambda t=t: networks.Upsampling(t), *IMAGE) for t in (True, False))
ROWS = net(networks.Rows, *TABLE)
ROWS_INT8 = quantized(ROWS, *TABLE)
GROUPED = net(lambda: networks.Grouped(16), *IMAGE)
SEPARABLE = net(lambda: DepthwiseNet(3, 10, widths=(32, 64, 128), blocks=(2, 2, 2)), *IMAGE)
UINT16 = {"activation_type": QuantType.QUInt16, "extra_options": {"UseQDQContribOps": True}}

SLOW = (
    Slow("one-sided pairs", "unfused-pairs", edited(EVEN_INT8, surgery.one_sided), EVEN_INT8),
    Slow("two types", "unfused-pairs", edited(EVEN_INT8, surgery.mixed_types), EVEN_INT8),
    Slow("16-bit activations", "unfused-pairs", by_hand(EVEN, *IMAGE, **UINT16), EVEN_INT8),
    Slow("weights only", "weights-dequantized", edited(EVEN_INT8, surgery.weights_only), EVEN),
    Slow("softplus, int8", "no-int8-kernel", by_hand(SOFTPLUS, *IMAGE), quantized(RELU, *IMAGE)),
    Slow("upsampling, int8", "no-int8-kernel", by_hand(UP, *IMAGE), quantized(RESIZED, *IMAGE)),
    Slow("63 channels", "channel-width", ODD, EVEN),
    Slow("63 channels, int8", "channel-width", quantized(ODD, *IMAGE), EVEN_INT8),
    Slow("pruned to 51 channels", "channel-width", PRUNED, EVEN),
    Slow("signed pairs", "signed-activations", edited(EVEN_INT8, surgery.signed), EVEN_INT8),
    Slow("signed convolutions", "signed-activations", by_hand(EVEN, *IMAGE, **SIGNED), EVEN_INT8),
    Slow("signed products", "signed-activations", by_hand(ROWS, *TABLE, **SIGNED), ROWS_INT8),
    Slow("dynamic convolutions", "dynamic-int8", dynamic(EVEN), EVEN_INT8),
    Slow("grouped, int8", "slow-kernel", by_hand(GROUPED, *IMAGE), GROUPED),
    Slow("upsampling", "slow-kernel", UP, RESIZED),
    Slow("float16", "half-precision", edited(SEPARABLE, surgery.in_half), SEPARABLE),
    Slow(
        "channels last",
        "layout",
        net(lambda: networks.Mixing(True), *IMAGE),
        net(lambda: networks.Mixing(False), *IMAGE),
    ),
    Slow(
        "many passes",
        "memory-bound",
        net(lambda: networks.Passes(8), 3, 256, 256),
        net(lambda: networks.Passes(0), 3, 256, 256),
    ),
    Slow(
        "unrolled",
        "overhead",
        net(lambda: networks.Unrolled(100, 16), 100, 16),
        lambda folder: surgery.recurrent(folder, 100, 16),
    ),
)  # fmt: skip
