"""Kotlin and Swift of a bundle: compiled, and run against the golden calls.

The bindings are stand-ins (tests/apps/README.md); the models run in ONNX Runtime itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_bundle import contents
from test_text_bundle import KINDS, TEXTS, write_text_model

from edgecompress.exporting.bundle import Bundle, write_bundle
from edgecompress.exporting.golden import rows_as_calls
from edgecompress.records import OnnxModel
from edgecompress.store import artifact
from edgecompress.tasks.tokenizers import Tokenizer, from_json

APPS = Path(__file__).with_name("apps")
COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
BRIEF = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # a compiler that ends in seconds
NPM_PACKAGE = "kotlin-compiler@2.4.20"
ENVIRONMENT = {
    **os.environ,
    "ANSWER_PYTHON": sys.executable,
    "ANSWER_PY": str(APPS / "answer.py"),
}
ODD = 'odd "$name"\f\u202e'  # what would end a literal, start an expression or hide code
# Compiles a bundle with the app of that name, and returns a command that runs it.
Build = Callable[[Bundle, str, Path], Sequence[str]]


def lacking(what: str) -> None:
    """Skip, or fail where the compilers must be there."""
    if os.environ.get("EDGECOMPRESS_REQUIRE_COMPILERS"):
        pytest.fail(what)
    pytest.skip(what)


def done(words: Sequence[str | Path], **how: object) -> str:
    ended = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=300,
        env=ENVIRONMENT, **how,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:] + ended.stdout[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def kotlin(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return what compiles Kotlin for a JVM, with the stand-ins compiled."""
    if missing := [name for name in ("java", "javac", "npm") if not shutil.which(name)]:
        lacking(f"no {missing[0]} on the PATH")
    folder = tmp_path_factory.mktemp("kotlin")
    npm = ["npm", "install", "--silent", "--prefix", str(folder), NPM_PACKAGE]
    if subprocess.run(npm, capture_output=True, check=False, timeout=300).returncode:
        lacking(f"npm cannot install {NPM_PACKAGE}")
    jars = folder / "node_modules/kotlin-compiler/lib"
    library, standins = jars / "kotlin-stdlib.jar", folder / "standins"
    done(["javac", "-d", standins, *sorted((APPS / "java").rglob("*.java"))])

    def build(made: Bundle, app: str, out: Path) -> Sequence[str]:
        sources = [*sorted(made.folder.glob("*.kt")), APPS / "kotlin" / f"{app}.kt"]
        options = ["-no-stdlib", "-no-reflect", "-Werror", "-cp", f"{library}:{standins}"]
        done(["java", *BRIEF, "-cp", f"{jars}/*", COMPILER, *options, "-d", out, *sources])
        return ["java", "-cp", f"{out}:{library}:{standins}", f"{app}Kt"]

    return build


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return what compiles Swift, with the stand-in compiled as the module of its name."""
    if not shutil.which("swiftc"):
        lacking("no swiftc on the PATH")
    folder = tmp_path_factory.mktemp("swift")
    module = "OnnxRuntimeBindings"
    done([
        "swiftc", "-parse-as-library", "-emit-module", "-emit-module-path",
        folder / f"{module}.swiftmodule", "-module-name", module, "-emit-object",
        "-o", folder / "bindings.o", APPS / "swift" / f"{module}.swift",
    ])  # fmt: skip

    def build(made: Bundle, app: str, out: Path) -> Sequence[str]:
        out.mkdir()
        name = {"Check": "check", "CheckTexts": "check_texts"}[app]
        main = shutil.copy(APPS / "swift" / f"{name}.swift", out / "main.swift")
        sources = [*sorted(made.folder.glob("*.swift")), main, folder / "bindings.o"]
        done(["swiftc", "-warnings-as-errors", "-I", folder, "-o", out / "app", *sources])
        return [str(out / "app")]

    return build


@pytest.fixture(params=["kotlin", "swift"])
def language(request: pytest.FixtureRequest) -> Build:
    build: Build = request.getfixturevalue(request.param)
    return build


def write_model_of_many_inputs(path: Path) -> OnnxModel:
    """Write a model that adds up inputs of every type that apps can make, under odd names."""
    types = {
        ODD: TensorProto.FLOAT,
        "tokens": TensorProto.INT64,
        "in": TensorProto.INT32,
        "data": TensorProto.UINT8,
        "input1": TensorProto.INT8,
    }
    nodes = [
        helper.make_node("Cast", [name], [f"f{i}"], to=TensorProto.FLOAT)
        for i, name in enumerate(types)
    ]
    nodes.append(helper.make_node("Sum", [f"f{i}" for i in range(len(types))], ["the answer"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, ["batch", 2, 3]) for n, kind in types.items()],
        [helper.make_tensor_value_info("the answer", TensorProto.FLOAT, ["batch", 2, 3])],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return artifact(path, OnnxModel)


def bundled(folder: Path, model: OnnxModel, **how: object) -> Bundle:
    plain = contents(folder / "stage")
    best = plain.report.best
    assert best is not None
    report = replace(plain.report, candidates=(replace(best, model=model),))
    return write_bundle(folder / "bundle", replace(plain, report=report, **how))


def of_images(folder: Path) -> Bundle:
    return write_bundle(folder / "bundle", contents(folder / "stage"))


def of_many_inputs(folder: Path) -> Bundle:
    rng = np.random.default_rng(5)
    whole = {"tokens": np.int64, "in": np.int32, "data": np.uint8, "input1": np.int8}
    inputs = {
        ODD: rng.normal(size=(4, 2, 3)).astype(np.float32),
        **{name: rng.integers(0, 120, (4, 2, 3)).astype(kind) for name, kind in whole.items()},
    }
    folder.mkdir(exist_ok=True)
    model = write_model_of_many_inputs(folder / "many.onnx")
    return bundled(folder, model, calls=rows_as_calls(inputs, 4), class_names=(), kind="regression")


def of_texts(folder: Path, tokenizer: Tokenizer, names: tuple[str, ...] = ()) -> Bundle:
    folder.mkdir(exist_ok=True)
    model = write_text_model(folder / "texts.onnx")
    calls = rows_as_calls(tokenizer.encode(TEXTS), 8)
    how = {"calls": calls, "tokenizer": tokenizer, "class_names": names, "normalization": {}}
    return bundled(folder, model, **how)


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_images, of_many_inputs])
def test_an_app_meets_the_golden_answers(language, make, tmp_path) -> None:
    made = make(tmp_path / "made")
    run = [*language(made, "Check", tmp_path / "app"), str(made.folder)]
    assert float(done([*run, "model.ort"])) <= 1e-3
    numbers = np.fromfile(made.folder / "golden.bin", "u1")
    numbers[-2:] ^= 0xFF
    numbers.tofile(made.folder / "golden.bin")
    refused = subprocess.run(
        [*run, "model.ort"], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert refused.returncode != 0
    assert "golden answers missed by " in refused.stderr


@pytest.mark.slow
def test_a_changed_model_is_not_loaded_on_android(kotlin, tmp_path) -> None:
    made = of_images(tmp_path / "made")
    run = [*kotlin(made, "Check", tmp_path / "app"), str(made.folder), "model.onnx"]
    refused = subprocess.run(run, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert refused.returncode != 0
    assert "model.ort was changed since it was bundled" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda kind: type(kind).__name__)
def test_an_app_makes_the_same_ids_of_a_text(language, tokenizer, tmp_path) -> None:
    made = of_texts(tmp_path / "made", tokenizer)
    assert json.loads(made.manifest.path.read_text())["golden"]["texts"] == 7
    texts = every_old_sign()
    (tmp_path / "texts").write_text("\n".join(texts), "utf-8")
    app = language(made, "CheckTexts", tmp_path / "app")
    first, *ids = done([*app, made.folder, "model.ort", tmp_path / "texts"]).splitlines()
    assert float(first) <= 1e-3
    reader = from_json((made.folder / "tokenizer.json").read_text("utf-8"))
    expected = reader.encode(texts)[reader.name]
    found = np.array([line.split() for line in ids], np.int64)
    differ = [texts[row] for row in np.flatnonzero((found != expected).any(axis=1))]
    assert not differ, f"{len(differ)} texts, such as {differ[0]!r}"


def every_old_sign() -> list[str]:
    """Return texts with every sign that Unicode 3.2 had: newer ones depend on a library's age."""
    old = unicodedata.ucd_3_2_0
    signs = [chr(code) for code in range(0x11000) if old.category(chr(code)) not in ("Cn", "Cs")]
    kept = [sign for sign in signs if sign not in "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00"]
    return [f"ab{sign}C {sign}d" for sign in kept]


def test_snippets_are_left_out_for_types_that_apps_cannot_make(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    made = bundled(
        tmp_path, artifact(path, OnnxModel), calls=({"x": np.zeros((1, 2))},), class_names=()
    )
    assert not list(made.folder.glob("EdgeModel.*"))
    assert (made.folder / "run.py").exists()


def test_snippets_take_every_input_under_its_own_name(tmp_path: Path) -> None:
    made = of_many_inputs(tmp_path / "made")
    kotlin = (made.folder / "EdgeModel.kt").read_text("utf-8")
    swift = (made.folder / "EdgeModel.swift").read_text("utf-8")
    assert f"onnxruntime-android:{version()}" in kotlin
    assert "fun run(input0: FloatArray, tokens: LongArray, input2: IntArray, input3" in kotlin
    assert r'"odd \"\$name\"\u000c\u202e" to OnnxTensor.createTensor(' in kotlin
    assert "ByteBuffer.wrap(input3), longArrayOf(1, 2, 3), OnnxJavaType.UINT8," in kotlin
    assert "func run(input0: [Float], tokens: [Int64], input2: [Int32], input3: [UInt8]," in swift
    assert '"tokens": try tensor(tokens, .int64, [1, 2, 3]),' in swift


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
