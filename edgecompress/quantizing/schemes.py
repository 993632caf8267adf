"""Smaller models from float ones: this room alone calls ONNX Runtime's quantizer.

Static int8 stores weights and computes activations in 8 bits, with ranges found on calibration
data (unsigned activations, signed weights, unless its name says otherwise). Dynamic int8 finds the
ranges of matrix products at run time and needs no data. fp16 halves every float; weight-only
schemes store the weights of products in 8 or 4 bits and compute in floats. None is taken for
better: the caller measures them and looks at their accuracy.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from edgecompress.errors import ModelError
from edgecompress.graphs import labels_of, tidy
from edgecompress.quantization import QuantizeSettings, Scheme
from edgecompress.quantizing.blocks import weight_only
from edgecompress.quantizing.calibration import calibration_sample
from edgecompress.quantizing.dynamic import dynamic_int8
from edgecompress.quantizing.fitting import schemes_for
from edgecompress.quantizing.half import half
from edgecompress.quantizing.prepared import NothingToDoError, prepare, refuse_quantized
from edgecompress.quantizing.static import StaticForm, ends, static_int8
from edgecompress.records import OnnxModel
from edgecompress.runtime import run, session
from edgecompress.store import artifact, sweep_killed, write_atomic
from edgecompress.tasks.task import Arrays


@dataclass(frozen=True)
class QuantizedModel:
    """Hold one smaller candidate, or None and the reason why there is none."""

    scheme: str
    model: OnnxModel | None
    reason: str = ""


def quantize(
    model: OnnxModel,
    calibration: Arrays,
    folder: Path | str,
    settings: QuantizeSettings | None = None,
) -> tuple[QuantizedModel, ...]:
    """Write a file for each of `settings.schemes` into `folder`, such as `int8-static.onnx`.

    `calibration` holds training inputs, named as the model's; `calibration_samples` of them,
    evenly spaced, are used. Takes any float ONNX file and keeps its free dimensions and labels.
    What is "auto" is settled by the caller, who knows the device; here `schemes` follow from the
    model alone, and `reduce_range` is 8 bits. Raise DataError for calibration data that cannot
    show the activations' ranges, ModelError for a model that is already quantized.
    """
    settings, folder = settings or QuantizeSettings(), Path(folder)
    source = onnx.load(model.path)
    refuse_quantized(source, model.path)
    schemes = schemes_for(model.path) if settings.schemes == "auto" else settings.schemes
    if any(scheme.startswith("static") for scheme in schemes):
        calibration = calibration_sample(calibration, source, settings.calibration_samples)
    folder.mkdir(parents=True, exist_ok=True)
    sweep_killed(folder, "int8")
    made = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.", suffix=".partial") as scratch:
        prepared = prepare(model.path, Path(scratch))
        for scheme in schemes:
            label = label_of(scheme)
            try:
                smaller = _made(scheme, prepared, calibration, settings)
            except NothingToDoError as reason:
                made.append(QuantizedModel(label, None, str(reason)))
                continue
            data = tidy(smaller, labels_of(source)).SerializeToString(deterministic=True)
            if refusal := _refusal(data, calibration, Path(scratch)):
                made.append(QuantizedModel(label, None, refusal))
                continue
            path = folder.absolute() / f"{label}.onnx"
            write_atomic(path, data)
            made.append(QuantizedModel(label, artifact(path, OnnxModel)))
    return tuple(made)


def _refusal(data: bytes, samples: Arrays, scratch: Path) -> str:
    """Return why a made model is of no use; empty where it answers the first of the samples."""
    path = scratch / "made.onnx"
    path.write_bytes(data)
    try:
        onnx.checker.check_model(str(path))
        names = [each.name for each in session(path).get_inputs()]
        if samples.keys() >= set(names):
            run(artifact(path, OnnxModel), {name: samples[name][:1] for name in names})
    except (onnx.checker.ValidationError, ModelError) as error:
        said = " ".join(str(error).replace(f"{path}: ", "").split())
        return f"ONNX Runtime cannot use what its quantizer made: {said[:300]}"
    return ""


def label_of(scheme: Scheme) -> str:
    """Return what files and candidates of a scheme are called.

    >>> label_of("static"), label_of("static-u8u8"), label_of("fp16")
    ('int8-static', 'int8-static-u8u8', 'fp16')
    """
    return f"int8-{scheme}" if scheme.startswith(("static", "dynamic")) else scheme


def _made(
    scheme: Scheme, prepared: Path, calibration: Arrays, settings: QuantizeSettings
) -> ModelProto:
    """Return the model of one scheme. Raise NothingToDoError where it has nothing to gain."""
    seven = settings.reduce_range is True
    match scheme:
        case "dynamic":
            return dynamic_int8(prepared, settings.per_channel, seven)
        case "fp16":
            return half(prepared)
        case "int8-weights":
            return weight_only(prepared, 8)
        case "int4-weights":
            return weight_only(prepared, 4)
    keep_float = ends(onnx.load(prepared)) if scheme == "static-float-ends" else ()
    if scheme == "static-float-ends" and not keep_float:
        raise NothingToDoError(
            "neither a first convolution of few channels nor a last product to leave float"
        )
    return static_int8(prepared, calibration, form_of(scheme, settings), keep_float)


def form_of(scheme: Scheme, settings: QuantizeSettings) -> StaticForm:
    """Return the numbers that a static scheme computes in; unsigned weights never saturate."""
    unsigned = scheme == "static-u8u8"
    return StaticForm(
        activations="s8" if scheme == "static-s8s8" else "u8",
        weights="u8" if unsigned else "s8",
        per_channel=settings.per_channel and scheme != "static-per-tensor",
        reduce_range=settings.reduce_range is True and not unsigned,
        calibration=settings.calibration,
    )
