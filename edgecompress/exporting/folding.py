"""What an app would do before and after the network, folded into the file by graph surgery.

Before: undo the camera's layout, bytes to floats, `(raw * scale - mean) / std`. After: temperature,
softmax. It is done once, at the end, on what could ship: networks and quantizers never see it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecompress.errors import RecipeError
from edgecompress.exports import ExportSettings
from edgecompress.graphs import about_of, graphs, tidy
from edgecompress.tasks.task import Arrays, Normalization

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
_MOST_ROUNDED = (
    0.01  # of the range of raw values: as much may bytes differ from what was trained on
)


@dataclass(frozen=True)
class Entrance:
    """Say how one input's raw values become what the network takes."""

    normalization: Normalization
    layout: Literal["nchw", "nhwc"] = "nchw"
    type: Literal["float32", "uint8"] = "float32"

    def network_values(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the network takes, of what the file takes."""
        values = raw.transpose(_TO_CHANNELS_FIRST) if self.layout == "nhwc" else raw
        factor, offset = self.line(values.ndim)
        return np.asarray(values.astype(np.float32) * factor + offset)

    def raw_values(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Return what the file takes, of what the network takes; bytes are rounded.

        Raise RecipeError where the values are no bytes that were normalized so.
        """
        factor, offset = self.line(values.ndim)
        raw = (values.astype(np.float64) - offset) / factor
        if self.type == "uint8":
            raw = _bytes(name, raw)
        raw = raw.transpose(_TO_CHANNELS_LAST) if self.layout == "nhwc" else raw
        return np.ascontiguousarray(raw.astype(self.type))

    def line(self, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return factor and offset of `raw * factor + offset`, shaped to go over the channels."""
        mean, std = (
            np.array(v, np.float64) for v in (self.normalization.mean, self.normalization.std)
        )
        shape = (-1,) + (1,) * max(rank - 2, 0)
        factor, offset = self.normalization.scale / std, -mean / std
        return tuple(v.astype(np.float32).reshape(shape) for v in (factor, offset))  # type: ignore[return-value]


def _bytes(name: str, raw: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded = np.rint(raw)
    low, high = float(raw.min(initial=0.0)), float(raw.max(initial=0.0))
    off = float(np.abs(raw - rounded).max(initial=0.0))
    if low < -0.5 or high > 255.5 or off > _MOST_ROUNDED * max(high - low, 1.0):
        raise RecipeError(
            f"recipe: export.input_type = 'uint8': input {name!r} was no bytes: with normalization "
            f"undone it runs from {low:.3g} to {high:.3g} and lies up to {off:.2g} off whole "
            "numbers; correct export.mean, std and scale (or the task's normalization), or leave "
            "input_type out"
        )
    return np.clip(rounded, 0, 255)


@dataclass(frozen=True)
class Folding:
    """Hold what is folded into a file: entrances by input, and what becomes of the answer."""

    entrances: Mapping[str, Entrance] = field(default_factory=dict)
    temperature: float = 1.0
    softmax: bool = False

    def __bool__(self) -> bool:
        """Return whether there is anything to fold."""
        return bool(self.entrances) or self.softmax or self.temperature != 1.0

    def raw(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return what the file takes, of what the network takes."""
        return {
            name: self.entrances[name].raw_values(name, array) if name in self.entrances else array
            for name, array in inputs.items()
        }

    def network_inputs(self, raw: Arrays) -> dict[str, NDArray[Any]]:
        """Return what the network takes, of what the file takes."""
        return {
            name: self.entrances[name].network_values(array) if name in self.entrances else array
            for name, array in raw.items()
        }

    def answer(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Return what the file answers where the network answers `outputs`."""
        cooled = outputs / np.float32(self.temperature)
        if not self.softmax:
            return np.asarray(cooled)
        powers = np.exp(cooled - cooled.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def logits(self, answer: NDArray[Any]) -> NDArray[Any]:
        """Return logits of what the file answers, up to a constant: metrics take them."""
        return np.log(np.maximum(answer, 1e-30)) if self.softmax else answer


def folding_of(
    settings: ExportSettings, inputs: Arrays, known: Mapping[str, Normalization] | None = None
) -> Folding:
    """Return what the settings fold in; `known` are the task's normalizations by input.

    Raise RecipeError where they name no input, or do not fit its shape.
    """
    floats = [name for name, array in inputs.items() if array.dtype.kind == "f"]
    if not settings.changes_input:
        return Folding({}, settings.temperature, settings.softmax)
    if settings.normalize:
        wanted = {name: n for name, n in (known or {}).items() if name in floats}
        if not wanted:
            raise RecipeError(
                "recipe: export.normalize: the task says no normalization of its inputs; give "
                "export.mean and export.std"
            )
    elif len(floats) != 1:
        raise RecipeError(
            "recipe: export: mean, std, layout and input_type are for the one input of floats, but "
            f"the network takes {', '.join(inputs)}; let the task say them and set export.normalize"
        )
    else:
        one = Normalization(settings.scale, settings.mean or (0.0,), settings.std or (1.0,))
        wanted = {floats[0]: one}
    entrances = {n: Entrance(w, settings.layout, settings.input_type) for n, w in wanted.items()}
    for name, entrance in entrances.items():
        _check(name, entrance, inputs[name].shape)
    return Folding(entrances, settings.temperature, settings.softmax)


def folding_in(path: Path) -> Folding:
    """Return what a file says that is folded into it; its temperature, which orders nothing, is 1.

    Nothing where it says so in no words of ours.
    """
    about = about_of(onnx.load(path, load_external_data=False))
    try:
        said = json.loads(about.raw) if about.raw else {}
        entrances = {
            name: Entrance(
                Normalization(each["scale"], tuple(each["mean"]), tuple(each["std"])),
                each["layout"],
                each["type"],
            )
            for name, each in said.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return Folding()
    return Folding(entrances, softmax=about.answer.startswith("softmax("))


def _check(name: str, entrance: Entrance, shape: tuple[int, ...]) -> None:
    if entrance.layout == "nhwc" and len(shape) != 4:
        raise RecipeError(
            f"recipe: export.layout = 'nhwc': input {name!r} has shape {shape}, expected images "
            "(batch, channels, height, width)"
        )
    channels = shape[1] if len(shape) > 1 else 1
    for key in ("mean", "std"):
        values = getattr(entrance.normalization, key)
        if len(values) not in (1, channels):
            raise RecipeError(
                f"recipe: export.{key}: given {len(values)} values, expected 1 or one for each of "
                f"the {channels} channels of {name!r}"
            )


def folded(model: ModelProto, folding: Folding) -> ModelProto:
    """Return the model with all of it inside, under the names that its inputs had."""
    whole = ModelProto()
    whole.CopyFrom(model)
    before = [node for n, e in folding.entrances.items() for node in _enter_(whole, n, e)]
    after = _leave_(whole, folding)
    nodes = [*before, *whole.graph.node, *after]
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    about = replace(about_of(model), raw=_raw_in_words(folding), answer=_answer_in_words(folding))
    tidied = tidy(whole, about=about)
    onnx.checker.check_model(tidied, full_check=True)
    return tidied


def _enter_(model: ModelProto, name: str, entrance: Entrance) -> list[NodeProto]:
    """Let the graph read `name@network`; return the nodes that make it of the raw input."""
    graph, inner = model.graph, f"{name}@network"
    for part in graphs(graph):
        for node in part.node:
            node.input[:] = [inner if i == name else i for i in node.input]
    given = next(value for value in graph.input if value.name == name)
    kind = given.type.tensor_type
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if entrance.layout == "nhwc":
        dims = [kind.shape.dim[axis] for axis in _TO_CHANNELS_LAST]
        kept = onnx.TensorShapeProto(dim=dims)
        kind.shape.CopyFrom(kept)
        steps.append(("Transpose", [], {"perm": _TO_CHANNELS_FIRST}))
    if entrance.type == "uint8":
        kind.elem_type = TensorProto.UINT8
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    for operator, values, idle in zip(
        ("Mul", "Add"), entrance.line(len(kind.shape.dim)), (1.0, 0.0), strict=True
    ):
        if (values != idle).any():
            constant = f"{name}@{operator}"
            graph.initializer.append(numpy_helper.from_array(values, constant))
            steps.append((operator, [constant], {}))
    return _chain(name, inner, steps)


def _leave_(model: ModelProto, folding: Folding) -> list[NodeProto]:
    """Let the graph make `NAME@network`; return the nodes that make the answer of it."""
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if folding.temperature != 1.0:
        constant = numpy_helper.from_array(
            np.array(folding.temperature, np.float32), "temperature@network"
        )
        model.graph.initializer.append(constant)
        steps.append(("Div", [constant.name], {}))
    if folding.softmax:
        steps.append(("Softmax", [], {"axis": 1}))
    if not steps:
        return []
    output = model.graph.output[0]
    inner, name = f"{output.name}@network", output.name
    for node in model.graph.node:
        node.output[:] = [inner if o == name else o for o in node.output]
        node.input[:] = [inner if i == name else i for i in node.input]
    output.name = "probabilities" if folding.softmax else name
    return _chain(inner, output.name, steps)


def _chain(
    first: str, last: str, steps: list[tuple[str, list[str], dict[str, Any]]]
) -> list[NodeProto]:
    """Return the steps as nodes from the value `first` to the value `last`."""
    names = [first, *(f"{last}@{i}" for i in range(1, len(steps))), last]
    if not steps:
        return [helper.make_node("Identity", [first], [last])]
    return [
        helper.make_node(operator, [names[i], *constants], [names[i + 1]], **attributes)
        for i, (operator, constants, attributes) in enumerate(steps)
    ]


def _raw_in_words(folding: Folding) -> str:
    """Return what the file does to each raw input, as JSON."""
    said = {
        name: {"type": e.type, "layout": e.layout, **asdict(e.normalization)}
        for name, e in folding.entrances.items()
    }
    return json.dumps(said, sort_keys=True) if said else ""


def _answer_in_words(folding: Folding) -> str:
    cooled = f"logits / {folding.temperature:g}" if folding.temperature != 1.0 else "logits"
    if folding.softmax:
        return f"softmax({cooled})"
    return cooled if folding.temperature != 1.0 else ""
