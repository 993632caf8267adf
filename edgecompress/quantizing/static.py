"""Static int8: weights and activations in 8 bits, with ranges found on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgecompress.quantizing.calibration import Reader
from edgecompress.quantizing.prepared import (
    NothingToDoError,
    one_line,
    quiet,
    require_weights,
    small_products,
)
from edgecompress.tasks.task import Arrays

# Softmax, normalisations and the like stay float: 8 bits cost them accuracy, not time.
OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"),
    *("Add", "Mul", "Relu", "LeakyRelu", "Clip", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Resize"),
    *("Concat", "Split", "Slice", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
)
_WEIGHTY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"}
_TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
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
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"


def static_int8(
    prepared: Path,
    calibration: Arrays,
    form: StaticForm,
    keep_float: Collection[str] = (),
    overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> ModelProto:
    """Return the prepared model with QDQ pairs around its operators, fused when a session loads it.

    `keep_float` names nodes that stay float. `overrides` hands over what is known of a tensor
    (its `scale` and `zero_point`, say), by name, in the quantizer's form. Raise NothingToDoError
    for a model that has nothing to gain, or that the quantizer fails on.
    """
    source = onnx.load(prepared)
    require_weights(source, set(OPERATORS) & _WEIGHTY, "static")
    result = prepared.with_name("static.onnx")
    try:
        with quiet():
            quantize_static(
                prepared,
                result,
                Reader(calibration),
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
                    "TensorQuantOverrides": {
                        name: [dict(one) for one in known]
                        for name, known in (overrides or {}).items()
                    },
                },
            )
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise NothingToDoError(f"ONNX Runtime's quantizer failed: {one_line(error)}") from error
    return onnx.load(result)
