"""Bias correction: what rounding shifts on average goes back into the bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, numpy_helper

from edgecompress.quantizing.layers import named, quantized_constant, with_constants
from edgecompress.quantizing.sensitivity import LayerError, layer_errors
from edgecompress.runtime import Arrays


def corrected(source: ModelProto, int8: ModelProto, calibration: Arrays) -> ModelProto:
    """Return the int8 model whose layers have, on calibration data, the means of the float ones.

    The mean difference of each output channel, each layer quantized alone, is added to its bias
    (Nagel et al. 2019, section 4.2, from data instead of the batch norm's statistics). Layers
    without a bias stay as they are; see `unshared`.
    """
    return _with_shifts(int8, layer_errors(source, int8, calibration))


def _with_shifts(int8: ModelProto, errors: Mapping[str, LayerError]) -> ModelProto:
    nodes, new = named(int8), {}
    for name, error in errors.items():
        node = nodes[name]
        found = None
        if node.op_type in ("Conv", "Gemm"):
            found = quantized_constant(int8.graph, node, 2)
        if found is None or found[0].data_type != found[0].INT32:
            continue
        tensor, scale, _ = found
        whole = numpy_helper.to_array(tensor)
        steps = np.rint(np.asarray(error.shift) / scale)
        if whole.shape == steps.shape:
            limits = np.iinfo(np.int32)
            new[tensor.name] = np.clip(whole + steps, limits.min, limits.max).astype(np.int32)
    return with_constants(int8, new)
