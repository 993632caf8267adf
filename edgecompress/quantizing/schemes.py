"""Int8 models from float ones, by ONNX Runtime's quantizer: this room alone calls it.

Static int8 stores weights and computes activations in 8 bits, with ranges found on calibration
data (unsigned activations, signed weights: signed activations ran slower than float on x86).
Dynamic int8 finds the ranges of matrix products at run time and needs no data. Neither is taken
for better: the caller measures them and looks at their accuracy.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgecompress.graphs import labels_of, tidy
from edgecompress.quantizing.calibration import calibration_sample
from edgecompress.quantizing.dynamic import dynamic_int8
from edgecompress.quantizing.prepared import NothingToDoError, prepare, refuse_quantized
from edgecompress.quantizing.static import StaticForm, static_int8
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import OnnxModel
from edgecompress.store import artifact, write_atomic
from edgecompress.tasks.task import Arrays


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
    refuse_quantized(source, model.path)
    if "static" in settings.schemes:
        calibration = calibration_sample(calibration, source, settings.calibration_samples)
    folder.mkdir(parents=True, exist_ok=True)
    seven = settings.reduce_range is True
    form = StaticForm(
        per_channel=settings.per_channel, reduce_range=seven, calibration=settings.calibration
    )
    made = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.", suffix=".partial") as scratch:
        prepared = prepare(model.path, Path(scratch))
        for scheme in settings.schemes:
            label = f"int8-{scheme}"
            try:
                if scheme == "static":
                    int8 = static_int8(prepared, calibration, form)
                else:
                    int8 = dynamic_int8(prepared, settings.per_channel, seven)
            except NothingToDoError as reason:
                made.append(QuantizedModel(label, None, str(reason)))
                continue
            path = folder.absolute() / f"{label}.onnx"
            data = tidy(int8, labels_of(source)).SerializeToString(deterministic=True)
            write_atomic(path, data)
            made.append(QuantizedModel(label, artifact(path, OnnxModel)))
    return tuple(made)
