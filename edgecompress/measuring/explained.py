"""What `--explain` knows of a model: its profile, the trials of its layers, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Literal

Form = Literal["float", "unpacked", "mixed", "unsigned", "signed", "integer"]
Cause = Literal[
    "unfused-pairs",
    "weights-dequantized",
    "no-int8-kernel",
    "dynamic-int8",
    "slower-in-int8",
    "signed-activations",
    "channel-width",
    "slow-kernel",
    "half-precision",
    "layout",
    "memory-bound",
    "overhead",
]


@dataclass(frozen=True)
class Tensor:
    """Describe a value of the optimised graph; a constant is one that the file holds."""

    dtype: str
    shape: tuple[int, ...]
    constant: bool = False


@dataclass(frozen=True, eq=False)
class Node:
    """Hold one node that ONNX Runtime runs, and its time in one call; equal only to itself.

    `domain` is empty for standard operators; `attributes` are numbers, texts and lists of whole
    numbers, the others left out.
    """

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object]
    ms: float


@dataclass(frozen=True)
class Profile:
    """Hold where one call of a model spends its time, as ONNX Runtime runs it here.

    `call_ms` is a call without the profiler; `nodes` stand in the order of running, their times
    without what the profiler itself took (`profiler_ms` a node). `node_ms` is the time of a node
    that does nothing; `float32_ms` that of a float16 model rewritten in float32, else None.
    `quantized_types` are those of the file's own activations, before ONNX Runtime changed any.
    """

    call_ms: float
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    outputs: frozenset[str]
    runs: int
    profiler_ms: float
    node_ms: float
    quantized_types: tuple[str, ...] = ()
    float32_ms: float | None = None

    @property
    def accounted(self) -> float:
        """Return the share of a call's time that the nodes account for."""
        return sum(node.ms for node in self.nodes) / self.call_ms

    @cached_property
    def total_ms(self) -> float:
        """Return what shares are taken of: the call, or all nodes where noise made them longer."""
        return max(self.call_ms, sum(node.ms for node in self.nodes))

    def share(self, ms: float) -> float:
        """Return a time as a share of the call."""
        return ms / self.total_ms

    @cached_property
    def maker(self) -> dict[str, Node]:
        """Return the node that makes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """Return the nodes that read each value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def tensor(self, node: Node, position: int) -> Tensor | None:
        """Return what is known of an input of `node`."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        return self.tensors.get(name)


@dataclass(frozen=True)
class Layer:
    """Describe one layer so that it can be built alone and timed.

    `input` and `weights` are shapes in ONNX's order, channels first. Of the forms, `unsigned` and
    `signed` are static int8 with such activations, `integer` is dynamic int8, `mixed` is float
    with its output quantized after, `unpacked` float with its weights dequantized before. A `Move`
    only copies its input.
    """

    operator: Literal["Conv", "ConvTranspose", "MatMul", "Move"]
    form: Form
    input: tuple[int, ...]
    weights: tuple[int, ...] = ()
    attributes: Mapping[str, int | list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """Ask how fast a layer would be in other ways: variants by name, `own` as it is.

    `nodes` are the places in the profile of the nodes that are this layer.
    """

    nodes: tuple[int, ...]
    variants: Mapping[str, Layer]


@dataclass(frozen=True)
class Timing:
    """Hold a layer's time in each of several turns, in ms; the variants took turns."""

    turns_ms: tuple[float, ...]

    @property
    def ms(self) -> float:
        """Return the median of the turns."""
        return median(self.turns_ms)

    def gain_over(self, other: Timing) -> float:
        """Return the share of `other` that this one saves, 0 unless every turn was faster.

        With five turns each, chance alone would order them so in 1 of 252 cases.

        >>> Timing((1.0, 1.1)).gain_over(Timing((2.1, 2.1)))
        0.5
        >>> Timing((1.0, 2.2)).gain_over(Timing((2.1, 2.1)))
        0.0
        """
        if max(self.turns_ms) >= min(other.turns_ms):
            return 0.0
        return 1 - self.ms / other.ms


@dataclass(frozen=True)
class Answer:
    """Hold a question's timings by the names of its variants; those that did not run are left."""

    nodes: tuple[int, ...]
    timings: Mapping[str, Timing]

    def gain(self, variant: str) -> float:
        """Return the share of the layer's time that `variant` saves beyond noise."""
        own, other = self.timings.get("own"), self.timings.get(variant)
        return other.gain_over(own) if own and other else 0.0


@dataclass(frozen=True)
class Finding:
    """Say why a model is slow: the cause, where, what share of the time it touches, what to do.

    `share` is what the named layers take, `saving` what a call would be shorter by, both as a
    share of the call; a saving is None where nothing was measured beside.
    """

    cause: Cause
    share: float
    saving: float | None
    layers: tuple[str, ...]
    why: str
    advice: str


@dataclass(frozen=True)
class Explanation:
    """Hold the profile of one model and what was found in it, the largest first."""

    profile: Profile
    findings: tuple[Finding, ...]
