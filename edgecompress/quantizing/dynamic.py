"""Dynamic int8: matrix products with 8-bit weights, whose inputs' ranges are found at run time."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgecompress.quantizing.prepared import (
    quantizer,
    require_weights,
    small_products,
    stacked_products,
)
from edgecompress.quantizing.rewriting import in_order_

# Not Conv: ONNX Runtime's ConvInteger took 7 times as long as its float convolution.
_OPERATORS = ("MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")


def dynamic_int8(prepared: Path, per_channel: bool, reduce_range: bool) -> ModelProto:
    """Return the model with int8 weights in its matrix products, lookups and recurrent layers.

    Raise NothingToDoError for a model that has nothing to gain, or that the quantizer fails on.
    """
    source = onnx.load(prepared)
    stacked = stacked_products(source) if per_channel else []
    require_weights(source, set(_OPERATORS), "dynamic", stacked)
    result = prepared.with_name("dynamic.onnx")
    with quantizer():
        quantize_dynamic(
            prepared,
            result,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*small_products(source), *stacked],
        )
    model = onnx.load(result)
    in_order_(model)
    return model
