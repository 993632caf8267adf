"""Export: a torch network becomes one ONNX file for any batch size; the only exporter call."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edgecompress.errors import TaskError
from edgecompress.exporting.folding import folded, folding_of
from edgecompress.exporting.parity import FLOAT
from edgecompress.exports import OPSET, ExportSettings
from edgecompress.graphs import About, tidy
from edgecompress.records import OnnxModel
from edgecompress.runtime import run
from edgecompress.store import artifact, write_atomic
from edgecompress.tasks.task import Arrays

BATCH, LENGTH = "batch", "length"
_MAX_BYTES = 2 * 10**9  # beyond it an ONNX file needs a second one beside it
_HARMLESS_WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*_check_is_size will be removed",
    r".*The axis name: (batch|length) will not be used, since it shares the same shape",
    r".*were assigned during export",  # an LSTM's flat weights: no state of ours
)


class _Positional(nn.Module):
    """Take the inputs positionally, whatever the network calls them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(*inputs)
        return outputs


def export(
    model: nn.Module,
    example_inputs: Arrays,
    path: Path | str,
    settings: ExportSettings | None = None,
    labels: Sequence[str] = (),
    lengths: Sequence[str] = (),
) -> OnnxModel:
    """Write `model` as one ONNX file at `path` and return its record.

    The network is called positionally, in the order of `example_inputs`, whose first axis is the
    batch: free in the file. So is the second axis of the inputs that `lengths` names (token ids),
    up to that of the example, where the network allows it: a file of another answer at half the
    length is written with the example's length. The output is `logits`, or what `settings` fold
    in. The file is float32, holds no word about its makers but our version and the `labels`, and
    has the same bytes wherever it is made; `model` stays as it was. Raise TaskError, naming the
    cause, for a network that cannot be exported.
    """
    about = About(labels=tuple(labels))
    return export_described(
        model, example_inputs, path, settings or ExportSettings(), about, lengths
    )


def export_described(
    model: nn.Module,
    example_inputs: Arrays,
    path: Path | str,
    settings: ExportSettings,
    about: About,
    lengths: Sequence[str] = (),
) -> OnnxModel:
    """Do what `export` does, with all of `about` said in the file."""
    folding = folding_of(settings, example_inputs)
    network = positional(model)
    inputs = {name: _example(array) for name, array in example_inputs.items()}
    _try_forward(network, inputs)
    exported = tidy(_exported(network, inputs, settings.wanted_opset, lengths), about=about)
    if folding:
        exported = folded(exported, folding)
    target = Path(path).absolute()
    write_atomic(target, exported.SerializeToString(deterministic=True))
    return artifact(target, OnnxModel)


def positional(model: nn.Module) -> nn.Module:
    """Return a copy as it is exported: float32, on the CPU, called positionally."""
    network = _Positional(copy.deepcopy(model)).eval().requires_grad_(False)
    # Weights left in channels-last order by training would export as other bytes.
    return network.to("cpu", torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def _exported(
    network: nn.Module, inputs: dict[str, torch.Tensor], opset: int, wanted: Sequence[str]
) -> onnx.ModelProto:
    """Return the network as a tidy graph, of any length where that holds."""
    lengths = [name for name in wanted if name in inputs and inputs[name].ndim > 1]
    if lengths:
        with contextlib.suppress(TaskError):
            free = tidy(_translate(network, inputs, opset, lengths))
            _check(free)
            if _holds_at_half(network, inputs, free, lengths):
                return free
    exported = tidy(_translate(network, inputs, opset))
    _check(exported)
    return exported


def _holds_at_half(
    network: nn.Module,
    inputs: dict[str, torch.Tensor],
    exported: onnx.ModelProto,
    lengths: Sequence[str],
) -> bool:
    """Return whether the file takes inputs of half the length, and answers as the network does."""
    half = {
        name: tensor[:, : max(1, tensor.shape[1] // 2)].contiguous() if name in lengths else tensor
        for name, tensor in inputs.items()
    }
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as scratch, torch.no_grad():
        path = Path(scratch, "free.onnx")
        path.write_bytes(exported.SerializeToString())
        try:
            expected = network(*half.values()).numpy()
            arrays = {name: tensor.numpy() for name, tensor in half.items()}
            answer = run(artifact(path, OnnxModel), arrays)
        except Exception:  # the network or the runtime wants the one length
            return False
    if expected.shape != answer.shape or FLOAT.max_rel_error is None:
        return False
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    return bool(np.abs(expected - answer).max() <= FLOAT.max_rel_error * scale)


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
    network: nn.Module,
    inputs: dict[str, torch.Tensor],
    opset: int,
    lengths: Sequence[str] = (),
) -> onnx.ModelProto:
    program = program_of(network, inputs, opset, lengths)
    if program.model_proto.ByteSize() > _MAX_BYTES:
        raise TaskError("export: the network is over 2 GB, too large for one ONNX file")
    return program.model_proto


def program_of(
    network: nn.Module,
    inputs: dict[str, torch.Tensor],
    opset: int = OPSET,
    lengths: Sequence[str] = (),
    optimize: bool = True,
) -> torch.onnx.ONNXProgram:
    """Return what the exporter makes of a network; raise TaskError where it makes nothing."""
    batch = torch.export.Dim(BATCH)
    free: list[dict[int, Any]] = [{0: batch} for _ in inputs]
    if lengths:
        longest = min(inputs[name].shape[1] for name in lengths)
        length = torch.export.Dim(LENGTH, max=longest)
        free = [{0: batch, 1: length} if name in lengths else {0: batch} for name in inputs]
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=(tuple(free),),
                opset_version=opset,
                optimize=optimize,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever torch.export raised
        raise TaskError(f"export: the network cannot become ONNX: {_cause(error)}") from error
    if program is None:
        raise TaskError("export: torch.onnx.export returned no program")
    return program


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
