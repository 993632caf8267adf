"""The app bundle: the chosen model with all that an app needs, each file under its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgecompress import __version__
from edgecompress.errors import ModelError
from edgecompress.exporting import golden as golden_calls
from edgecompress.exporting.bom import ml_bom
from edgecompress.exporting.card import PURPOSES, model_card
from edgecompress.exporting.contents import BundleContents, FileFacts, Made
from edgecompress.exporting.download import download_bytes
from edgecompress.exporting.golden import Golden, answers_of, record
from edgecompress.exporting.mobile import LEVEL, make_mobile
from edgecompress.exporting.snippets import write_snippets
from edgecompress.graphs import about_of
from edgecompress.records import Artifact, Candidate, OnnxModel
from edgecompress.runtime import main_output, session
from edgecompress.store import artifact, library_version, replace_folder, sweep_killed, write_atomic
from edgecompress.tasks import tokenizers
from edgecompress.tasks.task import Arrays
from edgecompress.tasks.tokenizers import Tokenizer

SCHEMA_VERSION = 1
# What an app's own tokenizer must get right: case, signs, spaces, other scripts, nothing at all.
_GOLDEN_TEXTS = (
    *("Where's my CARD?", "top-up  £20, ﬁne!", "Grüße, 你好 नमस्ते", "ΟΔΟΣ Σ., İstanbul"),
    *("x" * 200, "1½ ②\u00a0𝔘𝕋\u200bＦ_8\t😀\u001c٣", ""),
)


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
    model, its file is not the one that was judged, or it answers the golden calls in no numbers.
    """
    chosen = contents.report.best
    if chosen is None:
        raise ModelError("bundle: no model was chosen, so there is nothing to bundle")
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep_killed(folder.parent, folder.name)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    try:
        new.chmod(0o755)
        made = _fill(new, chosen, contents)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    files = tuple(artifact(path, Artifact) for path in sorted(folder.iterdir()))
    manifest = next(file for file in files if file.path.name == "manifest.json")
    others = tuple(file for file in files if file != manifest)
    return Bundle(folder, manifest, others, made.mobile.ort_reason)


def holds_other_files(folder: Path) -> bool:
    """Return whether a folder holds anything that no bundle put there, and that one would replace.

    Many programs call a file of theirs manifest.json; ours names its files and us.
    """
    names = {path.name for path in folder.iterdir()}
    try:
        said = json.loads((folder / "manifest.json").read_bytes())
        return "edgecompress" not in said or not names <= {"manifest.json", *said["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return bool(names)


def _fill(folder: Path, chosen: Candidate, contents: BundleContents) -> Made:
    """Write every file, the manifest last. Return what stands there."""
    model = _copy_model(chosen.model, folder / "model.onnx")
    golden = _golden(model, chosen, contents)
    write_atomic(folder / golden_calls.FILE, golden.to_bytes())
    mobile = make_mobile(model, folder, golden)
    about = about_of(onnx.load(model.path))
    made = Made(golden, mobile, library_version("onnxruntime"), about, _facts(folder))
    _write(folder, _texts(contents, made))
    made = dataclasses.replace(made, files=_facts(folder))
    _write(folder, {"README.md": model_card(contents, made)})
    _write(folder, {"bom.cdx.json": _json(ml_bom(contents, made))})
    made = dataclasses.replace(made, files=_facts(folder))
    manifest = {**_manifest(chosen, contents, made), **_ends(model)}
    _write(folder, {"manifest.json": _json(manifest)})
    return made


def _manifest(chosen: Candidate, contents: BundleContents, made: Made) -> dict[str, object]:
    report, mobile = contents.report, made.mobile
    return {
        "schema_version": SCHEMA_VERSION,
        "edgecompress": __version__,
        "task": report.task,
        "kind": contents.kind,
        "profile": report.profile or None,
        "model": chosen.label,
        "verdict": dataclasses.asdict(report.verdict),
        "golden": made.golden.described(),
        "ort": {
            "file": None if mobile.ort_reason else "model.ort",
            "optimization_level": LEVEL,
            "onnxruntime": made.runtime_version,
            "reason": mobile.ort_reason,
        },
        "mobile": {
            "verdict": mobile.verdict,
            "accelerators": [dataclasses.asdict(found) for found in mobile.accelerators],
        },
        "files": {
            name: {**dataclasses.asdict(facts), "for": PURPOSES[name]}
            for name, facts in made.files.items()
        },
    }


def _ends(model: OnnxModel) -> dict[str, object]:
    """Return what the model takes and answers, as it declares it."""
    opened = session(model.path)
    inputs, output = opened.get_inputs(), main_output(opened)
    return {
        "inputs": [{"name": i.name, "type": i.type, "shape": i.shape} for i in inputs],
        "output": {"name": output.name, "shape": output.shape},
    }


def _golden(model: OnnxModel, chosen: Candidate, contents: BundleContents) -> Golden:
    """Record the golden calls; where texts alone make a call, the golden texts come first."""
    tokenizer = contents.tokenizer
    texts: tuple[Arrays, ...] = ()
    if tokenizer is not None and set(contents.calls[0]) == {tokenizer.name}:
        texts = tuple(tokenizer.encode([text]) for text in _GOLDEN_TEXTS)
        _, answers = answers_of(model, texts, chosen.label)
        if not all(np.isfinite(answer).all() for answer in answers):  # of no words at all, say
            texts = ()
    return record(model, contents.calls, texts, chosen.scheme, chosen.label)


def _texts(contents: BundleContents, made: Made) -> dict[str, str]:
    """Return the bundle's text files by name, but those that tell of the others."""
    texts = {
        **write_snippets(made, contents.tokenizer is not None, bool(contents.normalization)),
        **_tokenizer_files(contents.tokenizer),
    }
    if contents.normalization:
        steps = {name: dataclasses.asdict(how) for name, how in contents.normalization.items()}
        texts["normalization.json"] = _json(steps)
    if contents.labels:
        texts["labels.txt"] = "".join(f"{name}\n" for name in contents.labels)
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


def _facts(folder: Path) -> dict[str, FileFacts]:
    """Return what there is to say of every file, in the order of their names."""
    made = (artifact(path, Artifact) for path in sorted(folder.iterdir()))
    return {
        file.path.name: FileFacts(file.sha256, file.size_bytes, download_bytes(file.path))
        for file in made
    }


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())


def _json(value: object) -> str:
    """Return JSON text; an infinite bound, which JSON cannot say, becomes null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False) + "\n"
