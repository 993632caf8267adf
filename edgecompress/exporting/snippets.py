"""The few lines of Kotlin, Swift and Python with which an app loads, runs and checks the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from edgecompress.exporting.contents import Made
from edgecompress.exporting.golden import Golden

_TEMPLATES = Path(__file__).with_name("templates")
# Controls, ends of lines, and what turns the direction of the code that a reader sees.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class _Type:
    """Hold the names of one element type in the app languages and their ONNX Runtime bindings."""

    kotlin_array: str
    kotlin_buffer: str
    kotlin_read: str
    swift: str
    swift_element: str
    kotlin_element: str = ""  # only a ByteBuffer does not say it


# What both app bindings can make.
_TYPES = {
    "float32": _Type("FloatArray", "FloatBuffer", "float", "Float", "float"),
    "int64": _Type("LongArray", "LongBuffer", "long", "Int64", "int64"),
    "int32": _Type("IntArray", "IntBuffer", "int", "Int32", "int32"),
    "uint8": _Type("ByteArray", "ByteBuffer", "get()", "UInt8", "uInt8", "UINT8"),
    "int8": _Type("ByteArray", "ByteBuffer", "get()", "Int8", "int8", "INT8"),
}


@dataclass(frozen=True)
class _Input:
    """Hold one input as the snippets need it: its name, a legal variable, type and shape."""

    name: str
    variable: str
    type: _Type
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return how many values a call has."""
        return prod(self.shape)


def write_snippets(made: Made, reads_texts: bool, normalized: bool) -> Mapping[str, str]:
    """Return the snippets' texts by file name, for calls as the golden ones.

    `reads_texts` adds the tokenizers; `normalized` says that inputs are. Kotlin and Swift are left
    out where their bindings cannot make an input's type, or read the answer's.
    """
    texts = {"run.py": _read("run.py")}
    if reads_texts:
        texts |= {name: _read(name) for name in ("Tokenizer.kt", "Tokenizer.swift")}
    call, answer = made.golden.calls[0], made.golden.answers[0]
    if (
        not call
        or answer.dtype != np.float32
        or any(a.dtype.name not in _TYPES for a in call.values())
    ):
        return texts
    inputs = [_input(index, name, array) for index, (name, array) in enumerate(call.items())]
    values = {
        **_common(made, normalized),
        **_kotlin(inputs, made.golden),
        **_swift(inputs, made.golden),
    }
    apps = ("EdgeModel.kt", "EdgeModel.swift")
    return texts | {name: Template(_read(name)).substitute(values) for name in apps}


def _read(name: str) -> str:
    return (_TEMPLATES / f"{name}.template").read_text(encoding="utf-8")


def _input(index: int, name: str, array: NDArray[np.generic]) -> _Input:
    legal = re.fullmatch(r"(?!input\d)[A-Za-z][A-Za-z0-9_]*", name) is not None
    variable = name if legal and name not in _TAKEN else f"input{index}"
    return _Input(name, variable, _TYPES[array.dtype.name], array.shape)


# Words of the two languages, and what the snippets themselves call something.
_WORDS = """
Any Data Float Int32 Int64 Int8 Self UInt8
abs as associatedtype break call case catch class continue data default defer deinit digest do else
enum environment error expected extension fallthrough false fileprivate for found fun func
golden guard i if import in index init inout inputs interface internal is it largest let max
mine model nil null object off open operator output outputs package place private protocol public
read repeat rethrows return run self session static struct subscript super switch tensor texts
this throw throws tokenizer true try typealias typeof val var when where while zip
"""
_TAKEN = frozenset(_WORDS.split())


def _common(made: Made, normalized: bool) -> dict[str, object]:
    golden, file = made.golden, made.model_file
    return {
        "model_file": file,
        "model_type": file.rpartition(".")[2],
        "runtime_version": made.runtime_version,
        "digest": made.files[file].sha256,
        "max_rel_error": golden.max_rel_error,
        "calls": len(golden.calls),
        "answer_size": golden.answers[0].size,
        "output_comment": re.sub(r"[^\w ./:-]", "?", golden.output),
        "normalized": "; inputs are normalised as normalization.json says" * normalized,
    }


def _kotlin(inputs: Sequence[_Input], golden: Golden) -> dict[str, str]:
    texts = bool(golden.texts)
    return {
        "kotlin_imports": "\n".join(_kotlin_imports(inputs)),
        "kotlin_parameters": ", ".join(f"{i.variable}: {i.type.kotlin_array}" for i in inputs),
        "kotlin_tensors": "\n".join(map(_kotlin_tensor, inputs)),
        "kotlin_output": _kotlin_literal(golden.output),
        "kotlin_reads": "\n".join(_kotlin_read(i, texts) for i in inputs),
        "kotlin_arguments": ", ".join(i.variable for i in inputs),
        "kotlin_call_name": " call ->" * texts,
        "kotlin_check_parameters": ", tokenizer: Tokenizer, texts: List<String>" * texts,
        "kotlin_check_text": "\n     * The first start at texts: give Tokenizer.check's." * texts,
    }


def _kotlin_imports(inputs: Sequence[_Input]) -> list[str]:
    element = ["ai.onnxruntime.OnnxJavaType"] * any(i.type.kotlin_element for i in inputs)
    buffers = {f"java.nio.{i.type.kotlin_buffer}" for i in inputs}
    buffers |= {"java.nio.ByteBuffer", "java.nio.ByteOrder"}
    return [f"import {name}" for name in (*element, *sorted(buffers))]


def _kotlin_tensor(entry: _Input) -> str:
    shape = f"longArrayOf({', '.join(map(str, entry.shape))})"
    element = f", OnnxJavaType.{entry.type.kotlin_element}" if entry.type.kotlin_element else ""
    return (
        f"            {_kotlin_literal(entry.name)} to OnnxTensor.createTensor(\n"
        f"                environment, {entry.type.kotlin_buffer}.wrap({entry.variable}), "
        f"{shape}{element},\n            ),"
    )


def _kotlin_read(entry: _Input, texts: bool) -> str:
    stored = f"{entry.type.kotlin_array}({entry.size}) {{ data.{entry.type.kotlin_read} }}"
    line = f"            val {entry.variable} = {stored}"
    if texts:
        encoded = "tokenizer.encode(texts[call])"
        line += f"\n                .let {{ if (call < texts.size) {encoded} else it }}"
    return line


def _kotlin_literal(text: str) -> str:
    return '"' + _escaped(text, "{:04x}").replace("$", r"\$") + '"'


def _swift(inputs: Sequence[_Input], golden: Golden) -> dict[str, str]:
    texts = bool(golden.texts)
    return {
        "swift_parameters": ", ".join(f"{i.variable}: [{i.type.swift}]" for i in inputs),
        "swift_tensors": "\n".join(map(_swift_tensor, inputs)),
        "swift_output": _swift_literal(golden.output),
        "swift_reads": "\n".join(_swift_read(i, texts) for i in inputs),
        "swift_arguments": ", ".join(f"{i.variable}: {i.variable}" for i in inputs),
        "swift_call_name": "call" if texts else "_",
        "swift_check_parameters": ", tokenizer: Tokenizer, texts: [String]" * texts,
        "swift_check_text": "\n    /// The first start at texts: give Tokenizer.check's." * texts,
    }


def _swift_tensor(entry: _Input) -> str:
    shape = ", ".join(map(str, entry.shape))
    return (
        f"            {_swift_literal(entry.name)}: "
        f"try tensor({entry.variable}, .{entry.type.swift_element}, [{shape}]),"
    )


def _swift_read(entry: _Input, texts: bool) -> str:
    kind = "var" if texts else "let"
    read = f"read(golden, &place, {entry.size})"
    line = f"            {kind} {entry.variable}: [{entry.type.swift}] = {read}"
    if texts:
        encoded = "tokenizer.encode(texts[call])"
        line += f"\n            if call < texts.count {{ {entry.variable} = {encoded} }}"
    return line


def _swift_literal(text: str) -> str:
    return '"' + _escaped(text, "{{{:x}}}") + '"'


def _escaped(text: str, code: str) -> str:
    """Escape what would end a literal, and signs that cannot be seen by their `code`."""
    plain = text.replace("\\", r"\\").replace('"', r"\"")
    return _UNSEEN.sub(lambda sign: r"\u" + code.format(ord(sign[0])), plain)
