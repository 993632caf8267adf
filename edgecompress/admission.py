"""Look into a foreign ONNX file, inside a child process with limits; talk JSON with the parent.

Run by path, as `python -P admission.py MODEL MEMORY_BYTES CPU_SECONDS`. The file is hostile until
proven sound: its bytes may crash the parser, loop for ever or point at other files. So the limits
are set before a byte of it is read, and external data are judged by name, link count and size
before anything may open them. Answers `{"facts": {...}}` or `{"error": "..."}` on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

with contextlib.suppress(ImportError):  # Windows has no limits to set
    import resource

OLDEST_OPSET = 7
NAMED = 200  # characters of a foreign text that go into a message


class RefusedError(Exception):
    """Say why the file is refused."""


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Bound this process's address space and processor time, and write no core file."""
    if "resource" not in globals():
        return
    for name, value in (("AS", memory_bytes), ("CPU", cpu_seconds), ("CORE", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS refuses a limit on address space
            resource.setrlimit(kind, (value, hard))


def messages(root: Any) -> Iterator[Any]:
    """Yield every protobuf message below `root`, however deep, without recursion."""
    pending = [root]
    while pending:
        message = pending.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is None:
                continue
            # Entries of a map hold no tensor; repeated messages are sequences, single ones are not.
            pending.extend([value] if hasattr(value, "ListFields") else value)


def check_external(tensor: Any, folder: Path) -> None:
    """Refuse external data that lie outside the model's folder, or behind any kind of link."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    shown = f"external data {location[:NAMED]!r}"
    parts = Path(location).parts
    if not parts or ".." in parts or Path(location).is_absolute() or set(location) & set("\\\0:"):
        raise RefusedError(f"{shown} must be a plain path inside the model's folder")
    path = folder
    for part in parts:
        path = path / part
        try:
            found = path.lstat()
        except (OSError, ValueError) as error:
            raise RefusedError(f"{shown} is missing beside the model") from error
        if stat.S_ISLNK(found.st_mode):
            raise RefusedError(f"{shown} is a symbolic link; put the file itself there")
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"{shown} is not a file")
    if found.st_nlink != 1:
        raise RefusedError(f"{shown} is a hard link; put a copy of the file there")
    span = [fields.get(key, "0") for key in ("offset", "length")]
    if not all(number.isdecimal() for number in span) or sum(map(int, span)) > found.st_size:
        raise RefusedError(f"{shown} does not hold the bytes that a tensor claims from it")


def dimensions(value: Any) -> list[int | None]:
    """Return a tensor's declared shape, None for each free dimension."""
    shape = value.type.tensor_type.shape
    return [d.dim_value if d.HasField("dim_value") else None for d in shape.dim]


def describe(value: Any, memory_bytes: int) -> dict[str, Any]:
    """Return name, dtype and shape of a declared tensor, and refuse absurd shapes."""
    if value.type.WhichOneof("value") != "tensor_type":
        return {"name": value.name, "dtype": value.type.WhichOneof("value") or "?", "shape": []}
    kind = value.type.tensor_type.elem_type
    try:
        numpy_type = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        raise RefusedError(f"{value.name[:NAMED]!r} has unknown element type {kind}") from None
    dtype = "str" if kind == onnx.TensorProto.STRING else str(numpy_type)
    shape = dimensions(value)
    known = [d for d in shape if d is not None]
    if any(d < 0 for d in known):
        raise RefusedError(f"{value.name[:NAMED]!r} declares a negative dimension: {shape}")
    if prod(known) * numpy_type.itemsize > memory_bytes:
        raise RefusedError(f"{value.name[:NAMED]!r} declares {shape}, beyond the memory limit")
    return {"name": value.name, "dtype": dtype, "shape": shape}


def inspect(path: Path, memory_bytes: int) -> dict[str, Any]:
    """Return the facts of the model at `path`, or raise what is wrong with it."""
    model = onnx.load(str(path), load_external_data=False)
    tensors = [m for m in messages(model) if isinstance(m, onnx.TensorProto)]
    beside = set()
    for tensor in tensors:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            check_external(tensor, path.parent)
            beside |= {path.parent / e.value for e in tensor.external_data if e.key == "location"}
    graph = model.graph
    if not graph.output:
        raise RefusedError("it has no outputs")
    weights = {t.name for t in graph.initializer}
    facts: dict[str, Any] = {
        "inputs": [describe(v, memory_bytes) for v in graph.input if v.name not in weights],
        "outputs": [describe(v, memory_bytes) for v in graph.output],
        "opset": next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0),
        "parameters": weights_in(graph),
        "beside": sorted(map(str, beside)),
        "operators": Counter(m.op_type for m in messages(model) if isinstance(m, onnx.NodeProto)),
    }
    for declared in (m for m in messages(model) if isinstance(m, onnx.ValueInfoProto)):
        describe(declared, memory_bytes)
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if 0 < facts["opset"] < OLDEST_OPSET:
            raise RefusedError(
                f"its opset {facts['opset']} is older than {OLDEST_OPSET}, the oldest that ONNX "
                "Runtime reads; convert it with onnx.version_converter"
            ) from error
        raise
    return facts


def weights_in(graph: Any) -> int:
    """Return how many numbers a graph holds: in initializers and Constant nodes, at any depth, and
    in ConstantOfShape nodes whose size is known.
    """
    graphs = [m for m in messages(graph) if isinstance(m, onnx.GraphProto)]
    held = {t.name: t for g in graphs for t in g.initializer}
    nodes = [n for g in graphs for n in g.node]
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            held[node.output[0]] = node.attribute[0].t
    count: int = sum(prod(tensor.dims) for tensor in held.values())
    for node in nodes:
        shape = held.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is not None and not shape.external_data:
            count += int(onnx.numpy_helper.to_array(shape).prod())
    return count


def main(model: str, memory: str, seconds: str) -> None:
    """Inspect one file and print one JSON answer; nothing else reaches standard output."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    limit(int(memory), int(seconds))
    try:
        answer: dict[str, Any] = {"facts": inspect(Path(model), int(memory))}
    except MemoryError:
        answer = {"error": f"it needs more than {int(memory) // 10**6} MB to load"}
    except Exception as error:  # whatever the libraries raise on foreign bytes is a refusal
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, answer_to)
    answer_to.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
