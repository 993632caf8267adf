"""Int8 that was trained for: a network that rounds as its int8 model will, from start to file.

`begin` sets the places of rounding, `fake_quantized` makes the network that learns there, and
`finish` hands what it learned to the quantizer. Training itself is the caller's.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper

from edgecompress.graphs import about_of, tidy
from edgecompress.quantizing.calibration import calibration_sample
from edgecompress.quantizing.fake import FakeQuantized
from edgecompress.quantizing.operators import UnlikeError
from edgecompress.quantizing.places import places_of
from edgecompress.quantizing.prepared import NothingToDoError, one_line, prepare, refuse_quantized
from edgecompress.quantizing.static import StaticForm, static_int8
from edgecompress.records import Artifact, OnnxModel
from edgecompress.runtime import run
from edgecompress.store import artifact, write_atomic
from edgecompress.tasks.task import Arrays

_PROBES = 64
_LIKE = 0.9  # R2 of the fake-quantized network's first answers against ONNX Runtime's


@dataclass(frozen=True)
class Beginning:
    """Hold a float model ready to be trained in 8 bits and its first int8 form, or why not."""

    source: Artifact | None
    int8: OnnxModel | None
    reason: str = ""


def begin(model: OnnxModel, calibration: Arrays, form: StaticForm, folder: Path) -> Beginning:
    """Write `source.onnx` and `places.onnx` into `folder`; a reason where no training can follow.

    The network that would learn must answer as ONNX Runtime does from the start. Raise ModelError
    and DataError as `quantize` does.
    """
    loaded = onnx.load(model.path)
    refuse_quantized(loaded, model.path)
    calibration = calibration_sample(calibration, loaded, len(next(iter(calibration.values()))))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".aware.", suffix=".partial") as scratch:
        prepared = prepare(model.path, Path(scratch))
        source = _own_biases(onnx.load(prepared))
        prepared.write_bytes(source.SerializeToString())
        try:
            places = static_int8(prepared, calibration, form)
        except NothingToDoError as nothing:
            return Beginning(None, None, str(nothing))
    write_atomic(folder / "source.onnx", source.SerializeToString(deterministic=True))
    write_atomic(folder / "places.onnx", places.SerializeToString(deterministic=True))
    made = Beginning(
        artifact(folder / "source.onnx", Artifact), artifact(folder / "places.onnx", OnnxModel)
    )
    reason = _unlike(made, form, {name: array[:_PROBES] for name, array in calibration.items()})
    return Beginning(None, None, reason) if reason else made


def fake_quantized(beginning: Beginning, form: StaticForm) -> FakeQuantized:
    """Return the network that rounds where the int8 model rounds, ready to be trained."""
    assert beginning.source is not None
    assert beginning.int8 is not None
    places = places_of(onnx.load(beginning.source.path), onnx.load(beginning.int8.path))
    return FakeQuantized(places, 64 if form.reduce_range else 127)


def finish(
    network: FakeQuantized,
    beginning: Beginning,
    calibration: Arrays,
    form: StaticForm,
    path: Path,
    weights: str = "",
) -> OnnxModel:
    """Write the int8 model of a trained network: its weights, rounded in the ranges it learned.

    `weights` is the digest of what was trained, which the file says of itself.
    """
    assert beginning.source is not None
    source = onnx.load(beginning.source.path)
    learned = network.weights()
    for tensor in source.graph.initializer:
        if tensor.name in learned:
            tensor.CopyFrom(numpy_helper.from_array(learned[tensor.name], tensor.name))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aware.", suffix=".tmp") as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        prepared.write_bytes(source.SerializeToString())
        int8 = static_int8(prepared, calibration, form, overrides=network.overrides())
    about = replace(about_of(source), weights=weights)
    write_atomic(path.absolute(), tidy(int8, about=about).SerializeToString(deterministic=True))
    return artifact(path.absolute(), OnnxModel)


def _own_biases(model: ModelProto) -> ModelProto:
    """Give each operator a bias of its own: equal ones are one constant until they are trained."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and uses[node.input[2]] > 1:
            uses[node.input[2]] -= 1  # the last of them keeps what all had
            own = model.graph.initializer.add()
            own.CopyFrom(constants[node.input[2]])
            node.input[2] = own.name = f"{own.name}@{node.name}"
    return model


def _unlike(beginning: Beginning, form: StaticForm, inputs: Arrays) -> str:
    """Return why the fake-quantized network cannot stand for the int8 model; nothing if it can."""
    assert beginning.int8 is not None
    try:
        network = fake_quantized(beginning, form).eval()
        with torch.no_grad():
            answers = network(*(torch.from_numpy(a) for a in inputs.values())).numpy()
    except UnlikeError as error:
        return f"PyTorch has no like of its {error}"
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        return f"it cannot be computed in PyTorch: {one_line(error)}"
    expected = run(beginning.int8, inputs)
    off = float(np.square(answers - expected).mean())
    likeness = 1.0 - off / max(float(expected.var()), 1e-12)
    if likeness < _LIKE:
        return f"PyTorch computes it otherwise than ONNX Runtime here: R2 {likeness:.2f} < {_LIKE}"
    return ""
