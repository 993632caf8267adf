"""Half precision: weights and arithmetic in 16-bit floats, inputs and outputs in 32 bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from edgecompress.quantizing.prepared import NothingToDoError, one_line, quiet, weights_by_node
from edgecompress.quantizing.rewriting import in_order_

_LARGEST = 65504.0


def half(prepared: Path) -> ModelProto:
    """Return the model in float16, between casts at its inputs and outputs.

    Raise NothingToDoError for a model without weights, and where a weight does not fit.
    """
    source = onnx.load(prepared)
    if not any(weights_by_node(source)):
        raise NothingToDoError("fp16 has nothing to gain: no weights in 32-bit floats")
    for tensor in source.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and _beyond(tensor):
            raise NothingToDoError(
                f"fp16 cannot hold the constant {tensor.name}: its largest number is {_LARGEST:g}"
            )
    try:
        with quiet():
            return _convert(source)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise NothingToDoError(f"ONNX Runtime's converter failed: {one_line(error)}") from error


def _beyond(tensor: TensorProto) -> bool:
    """Return whether finite numbers of the constant are too large for half precision.

    A single number is not: it is what a mask puts in place, and the largest serves as well.
    """
    values = onnx.numpy_helper.to_array(tensor)
    return values.size > 1 and bool((np.isfinite(values) & (abs(values) > _LARGEST)).any())


def _convert(source: ModelProto) -> ModelProto:
    path = list(sys.path)
    from onnxruntime.transformers.float16 import convert_float_to_float16

    sys.path[:] = path  # that package adds its own folder
    model: ModelProto = convert_float_to_float16(source, keep_io_types=True)
    in_order_(model)  # its casts stand at the end
    return model
