"""A bundle proves itself with nothing of ours around: only onnxruntime and numpy are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry, Resource
from test_app_snippets import of_images, of_texts
from test_text_bundle import CLASSES, KINDS

SCHEMAS = "cyclonedx-python-lib==11.12.0"  # a client library that carries the published schemas


def ended(*words: object, folder: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with onnxruntime, numpy and what those need."""
    folder = tmp_path_factory.mktemp("alone")
    ended(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    python = folder / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python)  # ours: it need not be copied there
    wanted = [f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "numpy")]
    ended(*pip, "install", "--quiet", *wanted, folder=folder)
    listed = json.loads(ended(*pip, "list", "--format", "json", folder=folder))
    names = {entry["name"].lower() for entry in listed}
    assert {"onnxruntime", "numpy"} <= names
    assert not names & {"edgecompress", "torch", "onnx", "pydantic", "scipy"}
    return python


@pytest.mark.slow
def test_golden_tests_pass_in_an_empty_environment(alone: Path, tmp_path: Path) -> None:
    made = of_images(tmp_path / "made")
    bundle = shutil.copytree(made.folder, tmp_path / "elsewhere")
    shown = ended(alone, "-I", bundle / "run.py", folder=Path("/")).splitlines()
    assert shown[0] == "verdict FAIL on android-cpu"
    assert shown[1].startswith("11 files verified; golden answers met, largest error ")


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda kind: type(kind).__name__)
def test_golden_tests_start_at_a_text_in_an_empty_environment(
    alone: Path, tokenizer, tmp_path: Path
) -> None:
    made = of_texts(tmp_path / "made", tokenizer, CLASSES)
    bundle = shutil.copytree(made.folder, tmp_path / "elsewhere")
    shown = ended(alone, "-I", bundle / "run.py", folder=Path("/"))
    assert "golden answers met" in shown
    answers = ended(alone, "-I", bundle / "run.py", "--text", "my card", "a fee", folder=Path("/"))
    assert len(answers.splitlines()) == 2
    assert set(answers.splitlines()) <= set(CLASSES)


@pytest.mark.slow
def test_the_bill_of_materials_is_valid_cyclonedx(tmp_path: Path) -> None:
    made = of_texts(tmp_path / "made", KINDS[0], CLASSES)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path)
    ended(*pip, SCHEMAS, folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        schemas = {
            Path(name).name: json.loads(archive.read(name))
            for name in archive.namelist()
            if name.endswith(("bom-1.6.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json"))
            or name.endswith("jsf-0.82.SNAPSHOT.schema.json")
        }
    known = ((entry["$id"], Resource.from_contents(entry)) for entry in schemas.values())
    validator = jsonschema.Draft7Validator(
        schemas["bom-1.6.SNAPSHOT.schema.json"], registry=Registry().with_resources(known)
    )
    bom = json.loads((made.folder / "bom.cdx.json").read_text("utf-8"))
    assert not [error.message for error in validator.iter_errors(bom)]
    bom["metadata"]["component"]["modelCard"]["datasets"] = []
    assert list(validator.iter_errors(bom))  # it does look at the card
