"""What a model asks of a processor: its work by kind of operator, read from its ONNX file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from edgecompress.records import OnnxModel
from edgecompress.runtime import Arrays

_CHILD = Path(__file__).with_name("counting.py")
_MEMORY_BYTES = 4 * 10**9
_SECONDS = 60


@dataclass(frozen=True)
class Features:
    """Hold the work of one inference: millions of MACs by kind, megabytes moved, layers.

    `pointwise` is 1x1, `conv3x3` has stride and dilation 1, `grouped` has groups of fewer channels
    than a kernel fills. A `fully_connected` layer reads each weight once, `matmul` is every other
    matrix product. `elementwise_mb` counts what layers without MACs read and write at 4 bytes an
    element, `exponential_mb` the part of it under an exponential (sigmoid, softmax). `parameters_m`
    are millions of weights. `convolved_mb` is what convolutions read and write (not depthwise ones,
    whose bytes follow from their MACs); one of `conv3x3` moves each byte 5.5 times.
    `unaligned` are millions of MACs of convolutions whose channels are no multiple of four.
    """

    pointwise: float
    conv3x3: float
    conv_other: float
    depthwise: float
    grouped: float
    fully_connected: float
    matmul: float
    elementwise_mb: float
    exponential_mb: float
    layers: float
    parameters_m: float
    convolved_mb: float
    unaligned: float
    int8: bool = False

    @property
    def macs_m(self) -> float:
        """Return the millions of MACs of all kinds."""
        kinds = (self.pointwise, self.conv3x3, self.conv_other, self.depthwise, self.grouped)
        return sum(kinds) + self.fully_connected + self.matmul


def read_features(
    models: Mapping[str, OnnxModel], inputs: Mapping[str, Arrays]
) -> dict[str, Features | str]:
    """Return each model's features for inputs of these shapes, or in words why there are none.

    The files are read in one child with limits on memory and time, for they may be foreign.
    """
    if not models:
        return {}
    requests = [
        {
            "path": str(model.path),
            "shapes": {name: list(array.shape) for name, array in inputs[label].items()},
        }
        for label, model in models.items()
    ]
    memory = _MEMORY_BYTES + 10 * sum(model.size_bytes for model in models.values())
    command = [sys.executable, "-P", str(_CHILD), str(memory), str(_SECONDS)]
    text = json.dumps(requests).encode()
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, timeout=_SECONDS, check=False
        )
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return dict.fromkeys(models, "its operators could not be counted within the limits")
    return {label: _features(answer) for label, answer in zip(models, found, strict=True)}


def _features(answer: Mapping[str, Mapping[str, float]]) -> Features | str:
    if "error" in answer:
        return f"its operators could not be counted: {answer['error']}"
    counts = dict(answer["counts"])
    int8 = bool(counts.pop("int8"))
    return Features(
        **{f.name: counts[f.name] for f in fields(Features) if f.name != "int8"}, int8=int8
    )
