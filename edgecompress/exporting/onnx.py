"""Export: a torch network becomes one ONNX file for any batch size; the only exporter call."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edgecompress.errors import TaskError
from edgecompress.graphs import tidy
from edgecompress.recipe import ExportSettings
from edgecompress.records import OnnxModel
from edgecompress.store import artifact, write_atomic
from edgecompress.tasks.task import Arrays

BATCH = "batch"
_MAX_BYTES = 2 * 10**9  # beyond it an ONNX file needs a second one beside it
_HARMLESS_WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*_check_is_size will be removed",
    r".*The axis name: batch will not be used, since it shares the same shape",
    r".*were assigned during export",  # an LSTM's flat weights: no state of ours
)


class _Positional(nn.Module):
    """Take the inputs positionally, whatever the network calls them; fold softmax in if asked."""

    def __init__(self, network: nn.Module, softmax: bool) -> None:
        super().__init__()
        self.network = network
        self.softmax = softmax

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(*inputs)
        return torch.softmax(outputs, dim=1) if self.softmax else outputs


def export(
    model: nn.Module,
    example_inputs: Arrays,
    path: Path | str,
    settings: ExportSettings | None = None,
    labels: Sequence[str] = (),
) -> OnnxModel:
    """Write `model` as one ONNX file at `path` and return its record.

    The network is called positionally, in the order of `example_inputs`, whose first axis is the
    batch: free in the file. The output is `logits`, or `probabilities` with `settings.softmax`.
    The file is float32, holds no word about its makers but our version and the `labels`, and has
    the same bytes wherever it is made; `model` stays as it was. Raise TaskError, naming the cause,
    for a network that cannot be exported.
    """
    settings = settings or ExportSettings()
    network = _Positional(copy.deepcopy(model), settings.softmax).eval().requires_grad_(False)
    # Weights left in channels-last order by training would export as other bytes.
    network.to("cpu", torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inputs = {name: _example(array) for name, array in example_inputs.items()}
    _try_forward(network, inputs)
    output = "probabilities" if settings.softmax else "logits"
    exported = tidy(_translate(network, inputs, output, settings.opset), labels)
    _check(exported)
    target = Path(path).absolute()
    write_atomic(target, exported.SerializeToString(deterministic=True))
    return artifact(target, OnnxModel)


def _example(array: np.ndarray) -> torch.Tensor:
    """Return two samples as float32 or integers: the exporter takes a size of 1 for a constant."""
    two = np.resize(array, (2, *array.shape[1:]))
    return torch.from_numpy(two.astype(np.float32) if two.dtype.kind == "f" else two)


def _try_forward(network: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Run the network as it will be exported, so that its own mistakes are named as such."""
    given = ", ".join(f"{name} {tuple(x.shape)}" for name, x in inputs.items())
    try:
        with torch.no_grad():
            outputs = network(*inputs.values())
    except Exception as error:
        raise TaskError(
            f"export: the network fails on the task's inputs ({given}, in this order): "
            f"{_first_line(error)}"
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise TaskError(
            f"export: the network returns a {type(outputs).__name__}, expected one tensor of "
            "logits (batch, classes); wrap the network so that it returns that"
        )
    if outputs.ndim == 0 or len(outputs) != 2:
        raise TaskError(
            f"export: the network returns shape {tuple(outputs.shape)} for a batch of 2, expected "
            "the batch as the first axis"
        )


def _translate(
    network: nn.Module, inputs: dict[str, torch.Tensor], output: str, opset: int
) -> onnx.ModelProto:
    batch = torch.export.Dim(BATCH)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever torch.export raised
        raise TaskError(f"export: the network cannot become ONNX: {_cause(error)}") from error
    if program is None:
        raise TaskError("export: torch.onnx.export returned no program")
    if program.model_proto.ByteSize() > _MAX_BYTES:
        raise TaskError("export: the network is over 2 GB, too large for one ONNX file")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and known warnings off the terminal.

    Exceptions pass, and every other warning is given again once the terminal is back.
    """
    level = logging.root.manager.disable
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(record=True) as others,
    ):
        warnings.simplefilter("always")  # where the user turned them into errors, not in here
        for message in _HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def _check(model: onnx.ModelProto) -> None:
    """Raise TaskError unless the file is valid ONNX and its batch is free on every side."""
    onnx.checker.check_model(model, full_check=True)
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH:
            raise TaskError(
                f"export: the network fixes the batch size of {value.name!r}; take sizes from the "
                "input (x.shape[0] or -1), not from a number"
            )


def _cause(error: BaseException) -> str:
    """Return in one line why an export failed, from the innermost exception."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = _first_line(error)
    if "data-dependent" in line:
        return (
            "its control flow depends on the data (an `if` or `while` on a tensor's value); use "
            "torch.where or torch.cond instead"
        )
    if "No ONNX function" in line:
        operator = line.partition("op='")[2].partition("'")[0] or line
        return f"ONNX has no operator for {operator}; replace it in the network"
    return line


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
