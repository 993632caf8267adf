"""The bundle of a model of texts: it answers a string, with nothing but numpy and ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_bundle import contents, run_snippet

from edgecompress.exporting.bundle import Bundle, write_bundle
from edgecompress.exporting.golden import rows_as_calls
from edgecompress.records import OnnxModel
from edgecompress.runtime import run
from edgecompress.store import artifact
from edgecompress.tasks.tokenizers import HashedWords, Tokenizer, from_json
from edgecompress.tasks.vocabulary import train_word_pieces

CLASSES = ("card", "fee")
PIECES = train_word_pieces(["my card, my fee"] * 2, 60, 12)
KINDS: list[Tokenizer] = [HashedWords(12, buckets=50, characters=(3, 3)), PIECES]
TEXTS = ("Where is my card?", "the FEE")


def write_text_model(path: Path) -> OnnxModel:
    """Write a model that adds up two numbers for each id."""
    table = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
        helper.make_node("ReduceSum", ["vectors", "axis"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return artifact(path, OnnxModel)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: type(kind).__name__)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("texts")
    plain = contents(folder / "stage")
    best = plain.report.best
    assert best is not None
    model = write_text_model(folder / "stage" / "texts.onnx")
    report = replace(plain.report, candidates=(replace(best, model=model),))
    tokenizer: Tokenizer = request.param
    return write_bundle(
        folder / "bundle",
        replace(
            plain,
            report=report,
            calls=rows_as_calls(tokenizer.encode(TEXTS), 8),
            class_names=CLASSES,
            normalization={},
            tokenizer=tokenizer,
        ),
    )


def test_a_string_is_answered(given: Bundle) -> None:
    tokenizer = from_json((given.folder / "tokenizer.json").read_text("utf-8"))
    assert tokenizer in KINDS
    model = artifact(given.folder / "model.onnx", OnnxModel)
    expected = [CLASSES[i] for i in run(model, tokenizer.encode(TEXTS)).argmax(1)]
    done = run_snippet(given.folder, "--text", *TEXTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert not list(given.folder.rglob("__pycache__"))


def test_the_tokenizer_proves_itself(given: Bundle, tmp_path: Path) -> None:
    assert run_snippet(given.folder).returncode == 0
    folder = shutil.copytree(given.folder, tmp_path / "copy")
    changed = (folder / "tokenizer.py").read_text("utf-8").replace("text.lower()", "text")
    (folder / "tokenizer.py").write_text(changed, "utf-8")
    document = json.loads((folder / "manifest.json").read_text("utf-8"))
    digest = hashlib.sha256((folder / "tokenizer.py").read_bytes()).hexdigest()
    document["files"]["tokenizer.py"]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(document), "utf-8")
    done = run_snippet(folder)
    assert done.returncode == 1
    assert done.stderr == "run.py: the tokenizer makes other ids of the golden texts\n"


def test_the_card_says_how_texts_become_ids(given: Bundle) -> None:
    card = (given.folder / "README.md").read_text("utf-8")
    assert '`python run.py --text "..."` answers a text' in card
    assert "golden_texts.json | texts and their ids, against which every tokenizer checks" in card


def test_without_a_tokenizer_a_text_is_refused(tmp_path: Path) -> None:
    plain = contents(tmp_path / "stage")
    made = write_bundle(tmp_path / "bundle", plain)
    assert "okenizer" not in (made.folder / "README.md").read_text("utf-8")
    done = run_snippet(made.folder, "--text", "hi")
    assert done.returncode == 1
    assert done.stderr == "run.py: --text: this bundle has no tokenizer; give INPUTS.npz\n"
