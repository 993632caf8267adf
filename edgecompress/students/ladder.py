"""Students by name: which families suit an input, a ladder of sizes, and the network of each.

A student is data, a `StudentSpec`; with the `Problem` that it is for, it makes its network again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecompress.errors import TaskError
from edgecompress.records import Family, StudentSpec
from edgecompress.students.image import ds_cnn, mobilenet_v1, resnet8
from edgecompress.students.sequence import audio_net, sensor_net
from edgecompress.students.tabular import tabular_net
from edgecompress.students.text import hashed_bag, text_encoder

Modality = Literal["image", "signal", "table", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "signal", "table", "text")
MOST = 50
"""Students on a ladder, unless another number is asked for."""
_LONG_SIGNAL = 256  # from so many samples on, a stem that steps by 16 leaves something to see

_DEPTHS = (1.0, 2.0, 3.0)
_LADDERS: Mapping[Family, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "resnet8": ((0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0), _DEPTHS),
    "ds_cnn": ((0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0), (0.5, 1.0, 2.0)),
    "mobilenet_v1": ((0.125, 0.25, 0.5, 0.75, 1.0), (0.5, 1.0)),
    "sensor_net": ((0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), _DEPTHS),
    "audio_net": ((0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0), _DEPTHS),
    "tabular_net": ((0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0), (0.5, 1.0, 2.0, 3.0)),
    "hashed_bag": ((0.25, 0.5, 1.0, 2.0, 4.0), (1.0, 2.0)),
    "text_encoder": ((0.5, 1.0, 1.5, 2.0, 3.0, 4.0), (0.5, 1.0, 2.0)),
    "cut_teacher": ((0.25, 0.375, 0.5, 0.625, 0.75), (1.0,)),
}
"""Multipliers of width and of depth that each family is offered with."""


@dataclass(frozen=True)
class Problem:
    """Say what one sample looks like and how many numbers answer it.

    `shapes` are those of the inputs by name, in order, without the batch. `vocabularies` are the
    codes of each categorical column of a table (0 included), or the token ids of a text; where a
    text's are not known, only families that take ids of any size are offered.
    """

    modality: Modality
    shapes: Mapping[str, tuple[int, ...]]
    outputs: int
    vocabularies: tuple[int, ...] = ()

    def example(self, samples: int, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Return made-up inputs (samples, ...): what a network costs depends on no more."""
        rng = np.random.default_rng(seed)
        return {
            name: self._codes(rng, (samples, *shape))
            if self._holds_codes(place)
            else rng.standard_normal((samples, *shape), np.float32)
            for place, (name, shape) in enumerate(self.shapes.items())
        }

    def _holds_codes(self, place: int) -> bool:
        first = 1 if self.numeric else 0
        return self.modality == "text" or (self.modality == "table" and place >= first)

    @property
    def numeric(self) -> int:
        """Return the number of a table's columns that are no codes."""
        widths = [shape[0] for shape in self.shapes.values()]
        return sum(widths) - len(self.vocabularies)

    def _codes(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return rng.integers(0, self.vocabularies or 1000, shape)


def problem_of(
    inputs: Mapping[str, NDArray[Any]],
    outputs: int,
    vocabularies: Sequence[int] = (),
    modality: Modality | None = None,
) -> Problem:
    """Return the problem that inputs (samples, ...) pose; raise TaskError where no family suits.

    One float32 input of three axes (channels, height, width) is an image, of two (channels, time)
    a signal, of one a table; whole numbers (length,) are a text; float columns and then whole
    numbers are a table with codes.

    >>> problem_of({"x": np.zeros((9, 1, 28, 28), np.float32)}, 10).modality
    'image'
    """
    shapes = {name: tuple(array.shape[1:]) for name, array in inputs.items()}
    kinds = "".join(array.dtype.kind for array in inputs.values())
    axes = tuple(len(shape) for shape in shapes.values())
    found = modality or _modality(kinds, axes)
    if found is None or not _is_possible(found, kinds, axes):
        given = ", ".join(f"{n} {a.dtype}{list(a.shape[1:])}" for n, a in inputs.items())
        raise TaskError(
            f"no student family takes {given or 'no input'}{f' as {modality}' if modality else ''};"
            " expected one float32 image (channels, height, width), signal (channels, time) or row"
            " of columns, whole numbers (length,) as a text, or float columns and then codes"
        )
    problem = Problem(found, shapes, outputs, tuple(vocabularies))
    _check_vocabularies(problem, kinds)
    return problem


def families_for(problem: Problem) -> tuple[Family, ...]:
    """Return the families that take such inputs."""
    match problem.modality:
        case "image":
            return ("resnet8", "ds_cnn", "mobilenet_v1")
        case "signal":
            (_, time), *_ = problem.shapes.values()
            return ("sensor_net", "audio_net") if time >= _LONG_SIGNAL else ("sensor_net",)
        case "table":
            return ("tabular_net",)
        case "text":
            return ("hashed_bag", "text_encoder") if problem.vocabularies else ("hashed_bag",)


def ladder(
    problem: Problem, families: Collection[Family] = (), most: int = MOST
) -> tuple[StudentSpec, ...]:
    """Return students of different sizes, by parameters; of `families`, or of all that suit.

    Of multipliers that round to the same network only the first counts, and of more than `most`
    students those remain that are spread evenly over the sizes.
    """
    sizes: dict[object, tuple[int, StudentSpec]] = {}
    for spec in grid(families or families_for(problem)):
        network = shell(spec, problem)
        tensors = tuple((n, tuple(t.shape)) for n, t in network.state_dict().items())
        sizes.setdefault((spec.family, tensors), (parameter_count(network), spec))
    found = [spec for _, spec in sorted(sizes.values(), key=lambda pair: pair[0])]
    rows = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return tuple(found[row] for row in rows)


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def shell(spec: StudentSpec, problem: Problem) -> nn.Module:
    """Return the network without memory for its weights, to look at its sizes only."""
    with torch.device("meta"):
        return build(spec, problem)


def build(spec: StudentSpec, problem: Problem) -> nn.Module:
    """Return the fresh network of a student, its weights drawn by torch's generator."""
    first = next(iter(problem.shapes.values()))
    channels, classes, sizes = first[0], problem.outputs, (spec.width, spec.depth)
    match spec.family:
        case "tabular_net":
            return tabular_net(problem.numeric, problem.vocabularies, classes, *sizes)
        case "hashed_bag":
            return hashed_bag(classes, width=spec.width, depth=spec.depth)
        case "text_encoder":
            (vocabulary,) = problem.vocabularies
            return text_encoder(vocabulary, classes, *sizes, max_length=channels)
        case "sensor_net" | "audio_net":
            sequence = sensor_net if spec.family == "sensor_net" else audio_net
            return sequence(channels, classes, *sizes)
        case "cut_teacher":
            raise TaskError(f"student {spec.label}: is cut out of a teacher, and none is at hand")
    image = {"resnet8": resnet8, "ds_cnn": ds_cnn, "mobilenet_v1": mobilenet_v1}[spec.family]
    return image(channels, classes, *sizes)


def grid(families: Collection[Family]) -> Iterator[StudentSpec]:
    """Yield all students of these families, the plain ones first: of equal ones they name it."""
    for family in families:
        widths, depths = _LADDERS[family]
        pairs = sorted(product(depths, widths), key=lambda pair: pair[0] != 1.0)
        yield from (StudentSpec(family, width, depth) for depth, width in pairs)


def _modality(kinds: str, axes: tuple[int, ...]) -> Modality | None:
    match kinds, axes:
        case "f", (3,):
            return "image"
        case "f", (2,):
            return "signal"
        case ("f", (1,)) | ("fi", (1, 1)):
            return "table"
        case "i", (1,):
            return "text"
    return None


def _is_possible(modality: Modality, kinds: str, axes: tuple[int, ...]) -> bool:
    """Return whether inputs of these types and numbers of axes can be of that modality."""
    if modality == "table":
        return set(axes) == {1} and kinds in ("f", "fi", "i")
    return _modality(kinds, axes) == modality


def _check_vocabularies(problem: Problem, kinds: str) -> None:
    """Refuse vocabularies that do not go with the inputs."""
    given, shapes = len(problem.vocabularies), tuple(problem.shapes.values())
    codes = sum(shape[0] for shape, kind in zip(shapes, kinds, strict=True) if kind == "i")
    match problem.modality:
        case "table" if given != codes:
            words = f"one for each of the {codes} columns of codes"
        case "text" if given > 1:
            words = "one, the number of token ids"
        case "image" | "signal" if given:
            words = f"none for {problem.modality} inputs"
        case _:
            return
    raise TaskError(f"{given} vocabularies given, expected {words}")
