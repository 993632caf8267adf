"""Int8 models from float ones, by ONNX Runtime's quantizer: the only place that calls it.

Static int8 stores weights and computes activations in 8 bits, with ranges found on calibration
data (unsigned activations, signed weights: signed activations ran slower than float on x86).
Dynamic int8 finds the ranges of matrix products at run time and needs no data. Neither is taken
for better: the caller measures them and looks at their accuracy.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgecompress.errors import DataError, ModelError
from edgecompress.graphs import graphs, labels_of, tidy
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import OnnxModel
from edgecompress.store import artifact, write_atomic
from edgecompress.tasks.task import Arrays

# Softmax, normalisations and the like stay float: 8 bits cost them accuracy, not time.
_STATIC_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"),
    *("Add", "Mul", "Relu", "LeakyRelu", "Clip", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Resize"),
    *("Concat", "Split", "Slice", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
)
# Not Conv: ONNX Runtime's ConvInteger took 7 times as long as its float convolution.
_DYNAMIC_OPERATORS = ("MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
_WEIGHTY = {*_DYNAMIC_OPERATORS, "Conv", "ConvTranspose"}
_PRODUCTS = {"MatMul", "Gemm"}
# Below this many weights the conversions around a product cost more time and bytes than it saves.
_SMALLEST_PRODUCT = 1024
_MIN_SAMPLES = 16
_MIN_VARYING_CHANNELS = 0.99
_MIN_VARYING_FEATURES = 0.5  # of a feature vector, where some columns may rightly never change
_BATCH = 64
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True)
class QuantizedModel:
    """Hold one int8 candidate, or None and the reason why there is none."""

    scheme: str
    model: OnnxModel | None
    reason: str = ""


def quantize(
    model: OnnxModel,
    calibration: Arrays,
    folder: Path | str,
    settings: QuantizeSettings | None = None,
) -> tuple[QuantizedModel, ...]:
    """Write `int8-static.onnx` and `int8-dynamic.onnx` into `folder`, as `settings.schemes` says.

    `calibration` holds training inputs, named as the model's; `calibration_samples` of them,
    evenly spaced, are used. Takes any float ONNX file and keeps its free dimensions and labels.
    `reduce_range = "auto"` is settled by the caller, who knows the device; here it is 8 bits.
    Raise DataError for calibration data that cannot show the activations' ranges, ModelError for
    a model that is already quantized.
    """
    settings, folder = settings or QuantizeSettings(), Path(folder)
    source = onnx.load(model.path)
    _refuse_quantized(source, model.path)
    if "static" in settings.schemes:
        calibration = _calibration_sample(calibration, source, settings.calibration_samples)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.", suffix=".partial") as scratch:
        prepared = _prepare(model.path, Path(scratch))
        for scheme in settings.schemes:
            label = f"int8-{scheme}"
            try:
                with _quiet():
                    if scheme == "static":
                        int8 = _static(prepared, calibration, settings)
                    else:
                        int8 = _dynamic(prepared, settings)
            except _NothingToDoError as reason:
                made.append(QuantizedModel(label, None, str(reason)))
                continue
            path = folder.absolute() / f"{label}.onnx"
            data = tidy(int8, labels_of(source)).SerializeToString(deterministic=True)
            write_atomic(path, data)
            made.append(QuantizedModel(label, artifact(path, OnnxModel)))
    return tuple(made)


class _NothingToDoError(Exception):
    """Say why a scheme makes no model."""


def _prepare(path: Path, scratch: Path) -> Path:
    """Return a copy with constants folded, batch norms fused, stale shapes gone and nodes named."""
    optimised, prepared = scratch / "optimised.onnx", scratch / "prepared.onnx"
    try:
        with _quiet():
            quant_pre_process(path, optimised, skip_symbolic_shape=True)
    except (OSError, MemoryError):  # the machine's fault, and another time it may work
        raise
    except Exception as error:  # the quantizer raises bare exceptions of many kinds
        raise ModelError(f"{path}: cannot be prepared for int8: {_one_line(error)}") from error
    model = tidy(onnx.load(optimised))
    _unshare_products_(model)
    prepared.write_bytes(model.SerializeToString())
    return prepared


def _unshare_products_(model: ModelProto) -> None:
    """Give every Gemm weights of its own: the quantizer transposes them in place, shared or not."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for g in graphs(model.graph) for node in g.node for name in node.input)
    for node in model.graph.node:
        if node.op_type == "Gemm" and uses[node.input[1]] > 1 and node.input[1] in constants:
            own = model.graph.initializer.add()
            own.CopyFrom(constants[node.input[1]])
            node.input[1] = own.name = f"{own.name}@{node.name}"


def _static(prepared: Path, calibration: Arrays, settings: QuantizeSettings) -> ModelProto:
    """Return the model with QDQ pairs around its operators, fused when a session loads it."""
    source = onnx.load(prepared)
    _require_weights(source, set(_STATIC_OPERATORS), "static")
    result = prepared.with_name("static.onnx")
    try:
        quantize_static(
            prepared,
            result,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_STATIC_OPERATORS),
            per_channel=settings.per_channel,
            reduce_range=settings.reduce_range is True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_small_products(source),
            calibrate_method=_METHODS[settings.calibration],
            extra_options={"CalibStridedMinMax": 1},  # one batch at a time: bounded memory
        )
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise _NothingToDoError(f"ONNX Runtime's quantizer failed: {_one_line(error)}") from error
    return onnx.load(result)


def _dynamic(prepared: Path, settings: QuantizeSettings) -> ModelProto:
    """Return the model with int8 weights in its matrix products, lookups and recurrent layers."""
    source = onnx.load(prepared)
    _require_weights(source, set(_DYNAMIC_OPERATORS), "dynamic")
    result = prepared.with_name("dynamic.onnx")
    try:
        quantize_dynamic(
            prepared,
            result,
            op_types_to_quantize=list(_DYNAMIC_OPERATORS),
            per_channel=settings.per_channel,
            reduce_range=settings.reduce_range is True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_small_products(source),
        )
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise _NothingToDoError(f"ONNX Runtime's quantizer failed: {_one_line(error)}") from error
    return onnx.load(result)


def _require_weights(model: ModelProto, operators: set[str], scheme: str) -> None:
    """Raise unless some operator that the scheme quantizes carries enough weights to gain."""
    counts = _weights_by_node(model)
    if not any(
        counts[i] > 0 and (node.op_type not in _PRODUCTS or counts[i] >= _SMALLEST_PRODUCT)
        for i, node in enumerate(model.graph.node)
        if node.op_type in operators & _WEIGHTY
    ):
        raise _NothingToDoError(
            f"{scheme} int8 has nothing to gain: no {', '.join(sorted(operators & _WEIGHTY))} "
            f"with weights (matrix products: at least {_SMALLEST_PRODUCT})"
        )


def _small_products(model: ModelProto) -> list[str]:
    """Return the names of matrix products with so few weights that they stay float.

    Each name twice: the dynamic quantizer turns Gemm into a MatMul of another name first.
    """
    counts = _weights_by_node(model)
    return [
        node.name + suffix
        for i, node in enumerate(model.graph.node)
        if node.op_type in _PRODUCTS and 0 < counts[i] < _SMALLEST_PRODUCT
        for suffix in ("", "_MatMul")
    ]


def _weights_by_node(model: ModelProto) -> list[int]:
    """Return for each node the size of its largest floating-point constant, 0 without one."""
    sizes = {
        tensor.name: math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    return [max((sizes.get(name, 0) for name in n.input), default=0) for n in model.graph.node]


def _refuse_quantized(model: ModelProto, path: Path) -> None:
    def is_int8(node: NodeProto) -> bool:
        return node.op_type.endswith(("QuantizeLinear", "Integer")) or "QLinear" in node.op_type

    if found := next((node for node in model.graph.node if is_int8(node)), None):
        raise ModelError(
            f"{path}: already quantized (it has {found.op_type}); give the float model instead"
        )


def _calibration_sample(calibration: Arrays, model: ModelProto, count: int) -> Arrays:
    """Return `count` evenly spaced samples of each input; raise DataError if they cannot serve."""
    constants = {tensor.name for tensor in model.graph.initializer}
    wanted = [value.name for value in model.graph.input if value.name not in constants]
    if missing := [name for name in wanted if name not in calibration]:
        raise DataError(
            f"quantize: no calibration data for the model's input {missing[0]!r}; "
            f"given: {', '.join(calibration) or 'none'}"
        )
    total = min(len(calibration[name]) for name in wanted)
    rows = np.linspace(0, total - 1, min(count, total)).astype(np.intp)
    if len(rows) < _MIN_SAMPLES:
        raise DataError(
            f"quantize: {len(rows)} calibration samples, at least {_MIN_SAMPLES} needed; give more "
            "training data, raise quantize.calibration_samples, or set quantize.schemes to dynamic"
        )
    sample = {name: np.ascontiguousarray(calibration[name][rows]) for name in wanted}
    for name, array in sample.items():
        _check_variety(name, array)
    return sample


def _check_variety(name: str, array: NDArray[np.generic]) -> None:
    """Raise DataError when calibration data are not finite or hardly vary between samples.

    A channel is a position of axis 1, and varies if any of its values differs between samples.
    Integers (categories, tokens) only have to differ somewhere.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"quantize: calibration input {name!r} holds values that are not finite")
    differs = (array != array[:1]).any(axis=0)
    channels = differs.reshape(differs.shape[0], -1).any(axis=1) if differs.ndim else differs
    share = float(channels.mean())
    if array.dtype.kind != "f":
        needed = 1.0 / max(channels.size, 1)
    else:
        needed = _MIN_VARYING_CHANNELS if array.ndim > 2 else _MIN_VARYING_FEATURES
    if share < needed:
        raise DataError(
            f"quantize: only {share:.0%} of the channels of calibration input {name!r} vary over "
            f"{len(array)} samples, expected at least {needed:.0%}; give real, varied training data"
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Hand calibration data to the quantizer, one batch a range, in its calling convention."""

    def __init__(self, inputs: Arrays) -> None:
        self._inputs = inputs
        self._samples = len(next(iter(inputs.values())))
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return -(-self._samples // _BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Point at the batches from `start_index` up to before `end_index`."""
        self._batches = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the next batch, or None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        rows = slice(batch * _BATCH, (batch + 1) * _BATCH)
        return {name: array[rows] for name, array in self._inputs.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's prints and advice off the terminal; exceptions pass."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
