"""The few lines of Kotlin, Swift and Python with which an app loads the bundled model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from edgecompress.tasks.task import Arrays

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class _Type:
    """Hold the names of one element type in the app languages and their ONNX Runtime bindings."""

    kotlin_array: str
    kotlin_buffer: str
    swift: str
    swift_element: str
    kotlin_element: str = ""  # only a ByteBuffer does not say it


# What both app bindings can make.
_TYPES = {
    "float32": _Type("FloatArray", "FloatBuffer", "Float", "float"),
    "int64": _Type("LongArray", "LongBuffer", "Int64", "int64"),
    "int32": _Type("IntArray", "IntBuffer", "Int32", "int32"),
    "uint8": _Type("ByteArray", "ByteBuffer", "UInt8", "uInt8", "UINT8"),
    "int8": _Type("ByteArray", "ByteBuffer", "Int8", "int8", "INT8"),
}


@dataclass(frozen=True)
class _Input:
    """Hold one input as the snippets need it: its name, a legal variable, type and shape."""

    name: str
    variable: str
    type: _Type
    shape: tuple[int, ...]


def write_snippets(
    inputs: Arrays, output_name: str, model_file: str, runtime_version: str
) -> Mapping[str, str]:
    """Return the snippets' texts by file name, for one sample of `inputs` at a time.

    Kotlin and Swift are left out where their bindings cannot make an input's type.
    """
    python = {"run.py": _read("run.py")}
    if any(array.dtype.name not in _TYPES for array in inputs.values()):
        return python
    known = [_input(index, name, array) for index, (name, array) in enumerate(inputs.items())]
    values = {
        "model_file": model_file,
        "model_type": model_file.rpartition(".")[2],
        "runtime_version": runtime_version,
        "output_name": output_name,
        "output_literal": _swift_literal(output_name),
        "kotlin_imports": "\n".join(_kotlin_imports(known)),
        "kotlin_parameters": ", ".join(f"{i.variable}: {i.type.kotlin_array}" for i in known),
        "kotlin_tensors": "\n".join(map(_kotlin_tensor, known)),
        "swift_parameters": ", ".join(f"{i.variable}: [{i.type.swift}]" for i in known),
        "swift_tensors": "\n".join(map(_swift_tensor, known)),
    }
    apps = ("EdgeModel.kt", "EdgeModel.swift")
    return python | {name: Template(_read(name)).substitute(values) for name in apps}


def _read(name: str) -> str:
    return (_TEMPLATES / f"{name}.template").read_text(encoding="utf-8")


def _input(index: int, name: str, array: NDArray[np.generic]) -> _Input:
    legal = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
    variable = name if legal else f"input{index}"
    return _Input(name, variable, _TYPES[array.dtype.name], (1, *array.shape[1:]))


def _kotlin_imports(inputs: Sequence[_Input]) -> list[str]:
    element = ["ai.onnxruntime.OnnxJavaType"] * any(i.type.kotlin_element for i in inputs)
    buffers = sorted({f"java.nio.{i.type.kotlin_buffer}" for i in inputs})
    return [f"import {name}" for name in (*element, *buffers)]


def _kotlin_tensor(entry: _Input) -> str:
    name = json.dumps(entry.name, ensure_ascii=False).replace("$", r"\$")
    shape = f"longArrayOf({', '.join(map(str, entry.shape))})"
    element = f", OnnxJavaType.{entry.type.kotlin_element}" if entry.type.kotlin_element else ""
    return (
        f"            {name} to OnnxTensor.createTensor(\n"
        f"                environment, {entry.type.kotlin_buffer}.wrap({entry.variable}), "
        f"{shape}{element},\n            ),"
    )


def _swift_tensor(entry: _Input) -> str:
    shape = ", ".join(map(str, entry.shape))
    return (
        f"            {_swift_literal(entry.name)}: "
        f"try tensor({entry.variable}, .{entry.type.swift_element}, [{shape}]),"
    )


def _swift_literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
