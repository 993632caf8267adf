"""Static int8: weights and activations in 8 bits, with ranges found on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgecompress.quantization import Calibration
from edgecompress.quantizing.calibration import Reader
from edgecompress.quantizing.prepared import (
    PRODUCTS,
    SMALLEST_PRODUCT,
    quantizer,
    read_in_branches,
    require_weights,
    small_products,
    stacked_products,
    weights_by_node,
)
from edgecompress.quantizing.ranges import least_error_ranges
from edgecompress.quantizing.rewriting import in_order_
from edgecompress.tasks.task import Arrays

Overrides = Mapping[str, Sequence[Mapping[str, Any]]]

# Softmax, normalisations and the like stay float: 8 bits cost them accuracy, not time.
OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"),
    *("Add", "Mul", "Relu", "LeakyRelu", "Clip", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Resize"),
    *("Concat", "Split", "Slice", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
)
_WEIGHTY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"}
_FUSED = {"Relu", "Clip"}  # with the convolution before them
_FEW = 8  # input channels
_TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
    "mse": CalibrationMethod.MinMax,  # of what our own ranges leave open
}


@dataclass(frozen=True)
class StaticForm:
    """Say in which 8-bit numbers a model computes, and how the ranges of activations are found.

    `reduce_range` leaves the top bit of weights unused, so that no sum of products saturates.
    """

    activations: Literal["u8", "s8"] = "u8"
    weights: Literal["u8", "s8"] = "s8"
    per_channel: bool = True
    reduce_range: bool = False
    calibration: Calibration = "minmax"


def static_int8(
    prepared: Path,
    calibration: Arrays,
    form: StaticForm,
    keep_float: Collection[str] = (),
    overrides: Overrides | None = None,
) -> ModelProto:
    """Return the prepared model with QDQ pairs around its operators, fused when a session loads it.

    `keep_float` names nodes that stay float. `overrides` hands over what is known of a tensor
    (its `scale` and `zero_point`, say), by name, in the quantizer's form. Raise NothingToDoError
    for a model that has nothing to gain, or that the quantizer fails on.
    """
    source = onnx.load(prepared)
    stacked = stacked_products(source) if form.per_channel else []
    keep_float = [*keep_float, *stacked, *read_in_branches(source)]
    require_weights(source, set(OPERATORS) & _WEIGHTY, "static", keep_float)
    result = prepared.with_name("static.onnx")
    with quantizer():
        known = {**_ranges(prepared, calibration, form), **(overrides or {})}
        quantize_static(
            prepared,
            result,
            Reader(calibration, source),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=form.per_channel,
            reduce_range=form.reduce_range,
            activation_type=_TYPES[form.activations],
            weight_type=_TYPES[form.weights],
            nodes_to_exclude=[*small_products(source), *keep_float],
            calibrate_method=_METHODS[form.calibration],
            extra_options={
                "CalibStridedMinMax": 1,  # one batch at a time: bounded memory
                # Kernels take one zero point for all channels: unsigned weights have 128.
                "WeightSymmetric": True,
                "TensorQuantOverrides": {
                    name: [dict(one) for one in each] for name, each in known.items()
                },
            },
        )
    model = onnx.load(result)
    in_order_(model)
    return model


def _ranges(prepared: Path, calibration: Arrays, form: StaticForm) -> Overrides:
    """Return the ranges that we find ourselves, in the quantizer's form; none for its methods."""
    if form.calibration != "mse":
        return {}
    return {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in least_error_ranges(prepared, calibration, OPERATORS).items()
    }


def ends(model: ModelProto) -> tuple[str, ...]:
    """Return the names of the nodes at a prepared model's ends that may gain by staying float.

    A convolution of few input channels gathers its inputs a byte at a time, and took 4 times as
    long as the float one; the last product's answer is converted back at once.
    """
    nodes, counts = list(model.graph.node), weights_by_node(model)
    kernels = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    first = next((node for node in nodes if node.op_type == "Conv"), None)
    last = next((i for i in range(len(nodes) - 1, -1, -1) if counts[i]), None)
    names: list[str] = []
    if first is not None and kernels.get(first.input[1], (0, _FEW))[1] < _FEW:
        names += [
            first.name,
            *(n.name for n in nodes if n.op_type in _FUSED and first.output[0] in n.input),
        ]
    if last is not None and nodes[last].op_type in PRODUCTS and counts[last] >= SMALLEST_PRODUCT:
        names.append(nodes[last].name)
    return tuple(names)
