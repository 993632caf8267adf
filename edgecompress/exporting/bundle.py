"""The app bundle: the chosen model with all that an app needs, each file under its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress import __version__
from edgecompress.errors import EdgecompressError, ModelError
from edgecompress.exporting.card import model_card
from edgecompress.exporting.snippets import write_snippets
from edgecompress.records import Artifact, Candidate, Kind, OnnxModel, Report
from edgecompress.runtime import main_output, run, session
from edgecompress.store import artifact, library_version, replace_folder, write_atomic
from edgecompress.tasks import tokenizers
from edgecompress.tasks.task import Arrays, Normalization
from edgecompress.tasks.tokenizers import Tokenizer

SCHEMA_VERSION = 1
# The highest level without operators for one processor only; "all" lays weights out for this host.
_ORT_LEVEL = "extended"
_LEVEL_VARIABLE = "ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL"
_ORT_SECONDS = 300
_CONVERTER = """
import ctypes, os, runpy, sys
# The converter orders its tables by address: only at fixed addresses do equal models give equal
# files. Linux fixes them for the programs that a process starts, so it starts itself once more.
if sys.platform == "linux" and "EDGECOMPRESS_FIXED_ADDRESSES" not in os.environ:
    os.environ["EDGECOMPRESS_FIXED_ADDRESSES"] = "1"
    ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE; where refused, it goes on
    os.execv(sys.executable, sys.orig_argv)
sys.modules["torch"] = None  # the tools would import it, slowly, for nothing
runpy.run_module("onnxruntime.tools.convert_onnx_models_to_ort", run_name="__main__")
"""
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # it may not start without
_FLOAT_TOLERANCE = 1e-3
# What an app's own tokenizer must get right: case, signs, spaces, other scripts, nothing at all.
_GOLDEN_TEXTS = ("Where's my CARD?", "top-up  £20, ﬁne!", "Grüße, 你好 नमस्ते", "x" * 200, "")
_INT8_TOLERANCE = 5e-2  # processors round and saturate 8-bit products differently


@dataclass(frozen=True)
class BundleContents:
    """Hold what a bundle is made of.

    `golden_inputs` are a few real samples, as the model takes them; `samples` the sizes of the
    data's splits; `tokenizer` is what makes the model's input of texts, where it reads them; `kind`
    is the task's.
    """

    report: Report
    golden_inputs: Arrays
    class_names: tuple[str, ...] = ()
    normalization: Mapping[str, Normalization] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    kind: Kind = "classification"


@dataclass(frozen=True)
class Bundle:
    """Name a written bundle; `ort_reason` says why it has no model.ort, or is empty."""

    folder: Path
    manifest: Artifact
    files: tuple[Artifact, ...]
    ort_reason: str


def write_bundle(folder: Path, contents: BundleContents) -> Bundle:
    """Write the bundle of the report's chosen model and put it in the place of `folder` at once.

    Whatever the verdict, it is stamped in the manifest. Raise ModelError when the report chose no
    model or its file is not the one that was judged.
    """
    chosen = contents.report.best
    if chosen is None:
        raise ModelError("bundle: no model was chosen, so there is nothing to bundle")
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    try:
        new.chmod(0o755)
        ort_reason = _fill(new, chosen, contents)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    files = tuple(artifact(path, Artifact) for path in sorted(folder.iterdir()))
    manifest = next(file for file in files if file.path.name == "manifest.json")
    return Bundle(folder, manifest, tuple(f for f in files if f != manifest), ort_reason)


def _fill(folder: Path, chosen: Candidate, contents: BundleContents) -> str:
    """Write every file, the manifest last. Return why there is no model.ort, or nothing."""
    model = _copy_model(chosen.model, folder / "model.onnx")
    outputs = run(model, contents.golden_inputs)
    tolerance = _INT8_TOLERANCE if chosen.scheme.startswith("int8") else _FLOAT_TOLERANCE
    ort_reason = _convert(model, folder, contents.golden_inputs, outputs, tolerance)
    opened = session(model.path)
    answer = main_output(opened)
    output = answer.name
    for name, text in _texts(contents, output, "model.onnx" if ort_reason else "model.ort").items():
        write_atomic(folder / name, text.encode())
    write_atomic(folder / "golden_inputs.npz", _npz(contents.golden_inputs))
    write_atomic(folder / "golden_outputs.npz", _npz({output: outputs}))
    report = contents.report
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "edgecompress": __version__,
        "task": report.task,
        "kind": contents.kind,
        "profile": report.profile,
        "model": chosen.label,
        "verdict": dataclasses.asdict(report.verdict),
        "inputs": [{"name": i.name, "type": i.type, "shape": i.shape} for i in opened.get_inputs()],
        "output": {"name": output, "shape": answer.shape},
        "golden": {"samples": len(outputs), "max_rel_error": tolerance},
        "ort": {
            "file": None if ort_reason else "model.ort",
            "optimization_level": _ORT_LEVEL,
            "onnxruntime": library_version("onnxruntime"),
            "reason": ort_reason,
        },
        "files": {
            path.name: {"sha256": made.sha256, "size_bytes": made.size_bytes}
            for path in sorted(folder.iterdir())
            for made in [artifact(path, Artifact)]
        },
    }
    write_atomic(folder / "manifest.json", _json(manifest))
    return ort_reason


def _texts(contents: BundleContents, output: str, model_file: str) -> dict[str, str]:
    """Return the bundle's text files by name."""
    inputs, names = contents.golden_inputs, [" ".join(n.split()) for n in contents.class_names]
    normalization = {k: dataclasses.asdict(v) for k, v in contents.normalization.items()}
    tokenizer = _tokenizer_files(contents.tokenizer)
    texts = {
        "README.md": model_card(
            contents.report, inputs, names, contents.samples, bool(tokenizer), contents.kind
        ),
        "normalization.json": _json(normalization).decode(),
        **write_snippets(inputs, output, model_file, library_version("onnxruntime")),
        **tokenizer,
    }
    if names:
        texts["labels.txt"] = "".join(f"{name}\n" for name in names)
    return texts


def _tokenizer_files(tokenizer: Tokenizer | None) -> dict[str, str]:
    """Return the tokenizer as data, the code that reads it, and ids that prove another's code."""
    if tokenizer is None:
        return {}
    ids = tokenizer.encode(_GOLDEN_TEXTS)[tokenizer.name]
    golden = {"texts": list(_GOLDEN_TEXTS), tokenizer.name: ids.tolist()}
    return {
        "tokenizer.json": tokenizer.to_json(),
        "tokenizer.py": Path(tokenizers.__file__).read_text(encoding="utf-8"),
        "golden_texts.json": json.dumps(golden, ensure_ascii=False) + "\n",
    }


def _copy_model(model: OnnxModel, path: Path) -> OnnxModel:
    data = model.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != model.sha256:
        raise ModelError(f"{model.path}: changed since it was judged; run again to bundle it")
    write_atomic(path, data)
    return artifact(path, OnnxModel)


def _convert(
    model: OnnxModel,
    folder: Path,
    inputs: Arrays,
    expected: NDArray[Any],
    tolerance: float,
) -> str:
    """Write model.ort and the operators it needs. Return why that failed, or nothing.

    ONNX Runtime's own converter does it in a child process, for it takes its level from the
    environment and prints; the result counts once it gives the same answers.
    """
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(model.path, Path(scratch, "model.onnx"))
        command = [sys.executable, "-P", "-c", _CONVERTER]
        command += ["--optimization_style", "Fixed", "--output_dir", ".", "model.onnx"]
        # What a process is given moves its addresses too: each conversion gets the same.
        environment = {k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ}
        environment |= {_LEVEL_VARIABLE: _ORT_LEVEL, "PYTHONHASHSEED": "0"}
        try:
            subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_ORT_SECONDS,
                check=True,
            )
            made = Path(scratch, f"model.{_ORT_LEVEL}.ort")
            needed = Path(scratch, f"model.required_operators.{_ORT_LEVEL}.config").read_text()
            outputs = run(artifact(made, OnnxModel), inputs)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or error.stdout.strip()).splitlines()[-1:]
            return f"the converter failed: {' '.join(last)}"
        except (subprocess.TimeoutExpired, FileNotFoundError, EdgecompressError) as error:
            return f"the conversion failed: {type(error).__name__}"
        scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
        if not float(np.abs(outputs - expected).max(initial=0.0)) <= tolerance * scale:
            return "the converted model gives other answers than model.onnx"
        write_atomic(folder / "model.ort", made.read_bytes())
    write_atomic(folder / "required_operators.config", _operators(needed).encode())
    return ""


def _operators(config: str) -> str:
    """Return the converter's list without its comments, which name folders of this machine."""
    lines = [line for line in config.splitlines() if line and not line.startswith("#")]
    header = "# for ONNX Runtime's build.py --include_ops_by_config"
    return "".join(f"{line}\n" for line in (header, *lines))


def _npz(arrays: Arrays) -> bytes:
    """Return arrays as an npz file with the same bytes each time."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _json(value: object) -> bytes:
    """Return JSON text; an infinite bound, which JSON cannot say, becomes null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return (json.dumps(finite, indent=2, ensure_ascii=False) + "\n").encode()
