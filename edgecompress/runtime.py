"""ONNX Runtime on this machine: sessions, batched inference, inputs, and the door for strangers.

The only place that makes a session in this process (the measuring and admission children make
their own). A file that we did not write comes in through `admit`, which opens it in a child first.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgecompress.errors import DataError, ModelError, UsageError
from edgecompress.records import Artifact, OnnxModel
from edgecompress.settings import near_file
from edgecompress.store import artifact

Arrays = Mapping[str, NDArray[Any]]

_ADMISSION = Path(__file__).with_name("admission.py")
_MEMORY_BYTES = 3 * 10**9  # address space, of which the libraries themselves take about 1 GB
_MAX_BYTES = 2 * 2**30  # protobuf's own limit
_SECONDS = 60

# What numpy lets through of its own, of zipfile and of zlib, for bytes that are no npz file.
_UNREADABLE = (
    *(OSError, ValueError, AttributeError, EOFError, TypeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


_PLACE_IN_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .+?\) (?:const )?(?=[A-Z])")
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class TensorFacts:
    """Describe an input or output; a free dimension is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        shape = "x".join("?" if d is None else str(d) for d in self.shape) or "scalar"
        return f"{self.name}: {self.dtype} {shape}"


@dataclass(frozen=True)
class ModelFacts:
    """Hold what an admitted model declares; `operators` counts its nodes by type."""

    model: OnnxModel
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    opset: int
    parameters: int
    operators: Mapping[str, int]


def onnx_model(path: Path | str) -> OnnxModel:
    """Return the ONNX file at `path` with its digest and size; raise ModelError if it is none."""
    path = Path(path).absolute()
    if path.is_dir():
        raise ModelError(f"{path}: is a folder, expected an ONNX file; give the file inside it")
    if not path.is_file():
        raise ModelError(f"{path}: no such file{near_file(path)}")
    try:
        return artifact(path, OnnxModel)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a model on the CPU: sequential, `threads` threads that never spin.

    Raise ModelError if ONNX Runtime refuses it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what is wrong comes as an exception
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no useful common class
        raise ModelError(f"{path}: ONNX Runtime refuses it: {_one_line(error)}") from error


def main_output(opened: onnxruntime.InferenceSession) -> Any:
    """Return what is known of the output that holds the answer: the first of floats, or of tensors.

    Classifiers converted from other libraries give the label first and then the scores.
    """
    outputs = opened.get_outputs()
    tensors = [o for o in outputs if o.type.startswith("tensor(")]
    return next((o for o in tensors if o.type in _FLOATS), (tensors or outputs)[0])


def run(model: OnnxModel, inputs: Arrays, batch: int = 256, threads: int = 1) -> NDArray[Any]:
    """Return the model's main output for all samples, shape (samples, ...), computed in batches.

    A model whose first dimension is fixed is fed that many samples at a time, the last ones filled
    up with repeats. Raise ModelError when it refuses the inputs.
    """
    opened = session(model.path, threads)
    samples = len(next(iter(inputs.values())))
    declared = opened.get_inputs()[0].shape[:1]
    fixed = declared[0] if declared and isinstance(declared[0], int) else 0
    output = [_tensor_output(model.path, opened)]
    parts = []
    for start in range(0, samples, fixed or batch):
        rows = np.arange(start, start + (fixed or min(batch, samples - start)))
        rows = np.minimum(rows, samples - 1)
        feed = {name: array[rows] for name, array in inputs.items()}
        try:
            parts.append(np.asarray(opened.run(output, feed)[0]))
        except Exception as error:
            raise ModelError(f"{model.path}: cannot run: {_one_line(error)}") from error
        if parts[-1].ndim == 0:
            raise ModelError(
                f"{model.path}: output {output[0]!r} is one number for a whole batch, expected an "
                "answer for each sample"
            )
    return np.concatenate(parts)[:samples]


def _tensor_output(path: Path, opened: onnxruntime.InferenceSession) -> str:
    output = main_output(opened)
    if not output.type.startswith("tensor("):
        raise ModelError(
            f"{path}: output {output.name!r} is a {output.type}, expected a tensor of answers"
        )
    return str(output.name)


def takes_any_batch(facts: ModelFacts) -> bool:
    """Return whether the first axis of every input is free."""
    return all(tensor.shape and tensor.shape[0] is None for tensor in facts.inputs)


def describe_inputs(facts: ModelFacts) -> str:
    """Return the model's inputs in words, a free dimension as `?`."""
    return "; ".join(map(str, facts.inputs)) or "no inputs"


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read the value of `--shape`.

    >>> parse_shape("image:1x3x224x224")
    ('image', (1, 3, 224, 224))
    """
    name, _, dims = text.rpartition(":")
    sizes = dims.lower().split("x")
    if not name or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UsageError(f"--shape {text}: expected NAME:1x3x224x224 with positive sizes")
    return name, tuple(map(int, sizes))


def make_inputs(
    facts: ModelFacts,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs_file: Path | None = None,
    seed: int = 0,
    others: Collection[str] | None = (),
) -> dict[str, NDArray[Any]]:
    """Return one array an input: from `inputs_file` (npz), else made up, the same every time.

    Made-up inputs take their shape from `shapes` or the model, where a free dimension is 1;
    integers are 0 (a valid index everywhere), texts empty, floats normal, drawn from `seed`. Names
    in `others` may be given too: models beside this one take them (None: whatever the name).
    """
    shapes = shapes or {}
    given = read_npz(inputs_file, "--inputs") if inputs_file else {}
    names = {tensor.name for tensor in facts.inputs}
    if twice := sorted(shapes.keys() & given.keys()):
        raise UsageError(f"--shape and --inputs both give {twice[0]!r}; give it once")
    for option, values in (("--shape", shapes), (f"--inputs {inputs_file}", given)):
        unknown = [] if others is None else sorted(set(values) - names - set(others))
        if unknown:
            raise UsageError(
                f"{option}: the model has no input {unknown[0]!r}; it has {describe_inputs(facts)}"
            )
    generator = np.random.default_rng(seed)
    return {
        tensor.name: check_array(given[tensor.name], tensor, f"--inputs {inputs_file}")
        if tensor.name in given
        else _made_up(tensor, shapes.get(tensor.name), generator)
        for tensor in facts.inputs
    }


def read_npz(path: Path, option: str) -> dict[str, NDArray[Any]]:
    """Return the named arrays of the npz file that `option` gave. Raise DataError if it is none."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except _UNREADABLE as error:
        raise DataError(f"{option} {path}: not a readable npz file: {_one_line(error)}") from error
    except MemoryError as error:
        raise DataError(f"{option} {path}: holds more than fits into memory; give less") from error


def check_array(array: NDArray[Any], tensor: TensorFacts, option: str) -> NDArray[Any]:
    """Return `array`, which must have the type and shape of the model's input."""
    fits = len(array.shape) == len(tensor.shape) and all(
        want in (None, have) for want, have in zip(tensor.shape, array.shape, strict=True)
    )
    dtype = "str" if array.dtype.kind == "U" else str(array.dtype)
    if dtype != tensor.dtype or not fits:
        have = TensorFacts(tensor.name, dtype, array.shape)
        raise DataError(f"{option}: got {have}; the model expects {tensor}")
    return array


def admit(path: Path) -> ModelFacts:
    """Return the facts of a foreign ONNX file, after a child with limits has checked and loaded it.

    Raise ModelError, in one line, when the full ONNX checker or ONNX Runtime refuses it, when it
    crashes or outlasts them, and when it reaches for files outside its folder.
    """
    model = onnx_model(path)
    if not 0 < model.size_bytes < _MAX_BYTES:
        raise ModelError(f"{path}: {model.size_bytes} bytes are no ONNX file")
    memory = _MEMORY_BYTES + 10 * model.size_bytes
    command = [sys.executable, "-P", str(_ADMISSION), str(model.path.resolve()), str(memory)]
    try:
        done = subprocess.run(
            [*command, str(_SECONDS)], capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{path}: not loaded after {_SECONDS} s; refused") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise ModelError(
            f"{path}: its bytes end the checker or ONNX Runtime (exit status {done.returncode}); "
            "export it again"
        ) from error
    if "error" in answer:
        raise ModelError(f"{path}: refused as an ONNX model: {_one_line(answer['error'])}")
    facts = answer["facts"]
    beside = tuple(artifact(Path(name), Artifact) for name in facts["beside"])
    size = model.size_bytes + sum(file.size_bytes for file in beside)
    return ModelFacts(
        model=replace(model, size_bytes=size, beside=beside),  # what ships is all of them
        inputs=tuple(map(_tensor_facts, facts["inputs"])),
        outputs=tuple(map(_tensor_facts, facts["outputs"])),
        opset=facts["opset"],
        parameters=facts["parameters"],
        operators=facts["operators"],
    )


def _tensor_facts(entry: Mapping[str, Any]) -> TensorFacts:
    return TensorFacts(entry["name"], entry["dtype"], tuple(entry["shape"]))


def _made_up(
    tensor: TensorFacts, shape: tuple[int, ...] | None, generator: np.random.Generator
) -> NDArray[Any]:
    if shape is None:
        shape = tuple(1 if size is None else size for size in tensor.shape)
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError as error:
        raise UsageError(
            f"{tensor}: cannot make up such an input; give --inputs FILE.npz"
        ) from error
    try:
        real = dtype.kind == "f"
        array = generator.standard_normal(shape) if real else np.zeros(shape, dtype)
    except ValueError as error:  # more bytes than an address has
        asked = "x".join(map(str, shape))
        raise UsageError(f"--shape {tensor.name}:{asked}: too large; give a smaller one") from error
    return check_array(array.astype(dtype) if real else array, tensor, "--shape")


def _one_line(error: object) -> str:
    """Return a library's message as one printable line of bounded length.

    The places in its own source, with their long signatures, go.
    """
    text = " ".join(str(error).split())
    text = _PLACE_IN_SOURCE.sub("", text)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 300 else text[:297] + "..."
