"""`edgecompress bundle`: any ONNX file becomes a bundle that proves itself, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from command_line import document
from onnx import TensorProto, helper, numpy_helper
from test_bundle import run_snippet

from edgecompress.cli.main import main

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 8)).astype(np.float32)


def bundled(capsys, *arguments):
    """Bundle `model.onnx` in this folder, see that its Python proves it, and return the answer."""
    assert main(["bundle", "model.onnx", *arguments, "--json"]) == 0
    found = document(capsys)
    done = run_snippet(Path(found["bundle"]).absolute())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("verdict INCONCLUSIVE, for nobody judged it\n")
    return found


def changed(change):
    """Rewrite `model.onnx`."""
    model = onnx.load("model.onnx")
    change(model)
    onnx.save(model, "model.onnx")


def test_a_file_alone_is_enough(folder, capsys):
    assert main(["bundle", "model.onnx"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Bundle  edgecompress-bundle\nPhones  ONNX Runtime runs it on")
    assert "model.ort" in shown.out
    assert shown.err == "model: bundling\n" or not shown.err
    found = bundled(capsys)  # again, in the place of the first
    assert found["profile"] is None and found["kind"] is None
    assert found["golden"]["calls"] == 1
    assert found["verdict"]["reason"] == "not judged; `edgecompress check` judges it"
    given, kept = Path("model.onnx"), Path("edgecompress-bundle/model.onnx")
    assert kept.read_bytes() == given.read_bytes()
    card = Path("edgecompress-bundle/README.md").read_text("utf-8")
    assert card.startswith("# model\n")
    assert "Not known: it was scored on no data here." in card
    assert "The golden inputs are made up: meeting them proves the file, not what" in card
    assert "Not known: what the model was trained on is not written in its file." in card


def test_labelled_data_become_golden_calls_and_a_score(folder, capsys):
    changed(lambda m: m.metadata_props.add(key="labels", value=json.dumps(list("abcdefgh"))))
    np.savez("data.npz", x=X, labels=np.zeros(40, np.int64))
    found = bundled(capsys, "--data", "data.npz", "--out", "app")
    assert found["bundle"] == "app" and found["kind"] == "classification"
    assert found["golden"]["calls"] == 8
    assert Path("app/labels.txt").read_text().split() == list("abcdefgh")
    golden = np.fromfile("app/golden.bin", "<f4").reshape(8, 16)
    np.testing.assert_array_equal(golden[:, :8], X[:8])
    assert "| this model | accuracy | 0." in Path("app/README.md").read_text("utf-8")
    metrics = json.loads(Path("app/bom.cdx.json").read_text())["metadata"]["component"][
        "modelCard"
    ]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0]["type"] == "accuracy" and metrics[0]["confidenceInterval"]["lowerBound"]


def test_a_fixed_batch_is_kept_in_every_call(folder, capsys):
    tiny_models.save_mlp(Path("model.onnx"), batch=4)
    np.savez("data.npz", x=X[:11])
    found = bundled(capsys, "--data", "data.npz")
    assert found["golden"]["calls"] == 2
    assert found["golden"]["tensors"][0]["shape"] == [4, 8]
    assert "longArrayOf(4, 8)" in Path("edgecompress-bundle/EdgeModel.kt").read_text()
    np.savez("data.npz", x=X[:3])
    assert main(["bundle", "model.onnx", "--data", "data.npz"]) == 2
    assert (
        "--data data.npz: got x: float32 3x8; the model expects x: float32 4x8"
        in capsys.readouterr().err
    )


def test_shapes_and_inputs_make_the_golden_call(folder, capsys):
    found = bundled(capsys, "--shape", "x:3x8")
    assert found["golden"]["tensors"][0]["shape"] == [3, 8]
    np.savez("inputs.npz", x=X[:2])
    bundled(capsys, "--inputs", "inputs.npz")
    golden = np.fromfile("edgecompress-bundle/golden.bin", "<f4")
    np.testing.assert_array_equal(golden[:16], X[:2].ravel())
    assert "made up" not in Path("edgecompress-bundle/README.md").read_text("utf-8")


def test_models_of_eight_bits_get_room_between_processors(folder, capsys):
    def quantize_the_answer(model):
        for name, value in (("s", np.float32(0.1)), ("z", np.uint8(0))):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        add = model.graph.node.append
        add(helper.make_node("QuantizeLinear", ["y", "s", "z"], ["q"]))
        add(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
        model.graph.output[0].name = "d"

    assert bundled(capsys)["golden"]["max_rel_error"] == 1e-3
    changed(quantize_the_answer)
    assert bundled(capsys)["golden"]["max_rel_error"] == 5e-2
    card = Path("edgecompress-bundle/README.md").read_text("utf-8")
    assert "Processors round integers differently" in card


def test_weights_beside_the_file_come_into_it(folder, capsys):
    model = onnx.load("large.onnx")
    onnx.save(model, "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    bundled(capsys)
    kept = onnx.load("edgecompress-bundle/model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in kept.graph.initializer)


def test_what_a_node_says_of_its_origin_goes(folder, capsys):
    def sign(model):
        model.graph.node[0].metadata_props.add(key="pkg.torch", value="/home/somebody/secret.py")
        model.graph.node[0].doc_string = "/home/somebody/secret.py"
        model.metadata_props.add(key="licence", value="ours")

    changed(sign)
    bundled(capsys)
    for path in Path("edgecompress-bundle").iterdir():
        assert b"somebody" not in path.read_bytes(), path.name
        assert str(folder).encode() not in path.read_bytes(), path.name
    kept = onnx.load("edgecompress-bundle/model.onnx")
    assert [entry.value for entry in kept.metadata_props] == ["ours"]


def test_weights_that_are_inputs_too_do_not_stop_the_ort_form(folder, capsys):
    def declare(model):
        model.graph.input.append(tiny_models.value("w0", 8, 8))
        model.ir_version = 3
        shape = numpy_helper.from_array(np.array([1, 8], np.int64), "shape")
        model.graph.initializer.append(shape)
        model.graph.input.append(tiny_models.value("shape", 2, kind=TensorProto.INT64))
        model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))
        model.graph.node.append(helper.make_node("Add", ["y", "zeros"], ["z"]))
        model.graph.output[0].name = "z"

    changed(declare)
    assert bundled(capsys)["ort"]["file"] == "model.ort"


@pytest.mark.parametrize(
    ("kind", "width", "labels", "row", "said"),
    [
        ("multilabel", 3, ["red", "green", "blue"], [2.0, -1.0, 1.0], "red, blue"),
        ("binary", 1, ["ham", "spam"], [2.0], "spam"),
        ("classification", 3, ["a", "b", "c"], [1.0, 2.0, 0.0], "b"),
        ("binary", 3, ["ham", "spam"], [2.0, 1.0, 1.0], "2 1 1"),  # no labels of this output
    ],
)
def test_a_file_that_says_its_kind_is_answered_so(folder, capsys, kind, width, labels, row, said):
    given, made = (tiny_models.value(name, "n", width) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [given], [made])
    tiny_models.save(graph, Path("model.onnx"))
    changed(lambda m: m.metadata_props.add(key="labels", value=json.dumps(labels)))
    changed(lambda m: m.metadata_props.add(key="kind", value=kind))
    assert bundled(capsys)["kind"] == kind
    np.savez("rows.npz", x=np.array([row], np.float32))
    done = run_snippet(Path("edgecompress-bundle").absolute(), str(Path("rows.npz").absolute()))
    assert done.stdout == f"{said}\n", done.stderr


@pytest.mark.parametrize(
    "value", ["[" * 100_000, '"ab', '{"0": "cat"}', "[1, 2]", '["only", "two"]']
)
def test_labels_written_otherwise_are_left_out(folder, capsys, value):
    changed(lambda m: m.metadata_props.add(key="labels", value=value))
    assert main(["bundle", "model.onnx"]) == 0
    assert not Path("edgecompress-bundle/labels.txt").exists()


def test_answers_that_no_app_language_reads_leave_python(folder, capsys):
    def ask_for_the_place(model):
        model.graph.node.append(helper.make_node("ArgMax", ["y"], ["place"], axis=1))
        model.graph.output[0].CopyFrom(tiny_models.value("place", "n", 1, kind=TensorProto.INT64))

    changed(ask_for_the_place)
    found = bundled(capsys)
    assert found["golden"]["tensors"][1]["type"] == "int64"
    assert "EdgeModel.kt" not in found["files"]


def test_bad_use_is_one_line(folder, capsys):
    np.savez("data.npz", x=X)
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years")
    Path("file").write_text("")
    for arguments, words in (
        (["--out", "mine"], "--out mine: holds other files, which a bundle would replace; give a"),
        (["--out", "."], "--out .: is the folder that you are in; give a new folder"),
        (["--out", "file"], "--out file: is a file; give the name of a folder"),
        (
            ["--data", "data.npz", "--shape", "x:1x8"],
            "--data and --shape: both say what the golden",
        ),
        (["--data", "data.npz", "--inputs", "data.npz"], "--data and --inputs: both say what the"),
        (["--shape", "z:1x8"], "--shape: the model has no input 'z'"),
    ):
        assert main(["bundle", "model.onnx", *arguments]) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert printed.err.count("\n") == 1 and not printed.out
    assert Path("mine/thesis.tex").read_text() == "years"


def test_only_an_older_bundle_is_replaced(folder, capsys):
    site = Path("site")
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web app"}')
    assert main(["bundle", "model.onnx"]) == 0
    Path("edgecompress-bundle/notes.txt").write_text("mine")
    Path("link").symlink_to("edgecompress-bundle")
    capsys.readouterr()
    for out, words in (
        ("site", "--out site: holds other files, which a bundle would replace"),
        ("edgecompress-bundle", "--out edgecompress-bundle: holds other files, which a bundle"),
        ("link", "--out link: is a link; give the folder that it leads to"),
    ):
        assert main(["bundle", "model.onnx", "--out", out]) == 2
        assert words in capsys.readouterr().err
    assert Path("edgecompress-bundle/notes.txt").read_text() == "mine"
    assert (site / "manifest.json").exists()


def test_foreign_words_stay_words(folder, capsys):
    """Names and labels that are code elsewhere: HTML, Markdown, Kotlin, Swift, terminals."""
    name, answer = 'in"\n*/ $x \\(print(1))\x0c\u202e', 'out*/\n\x07"; fatalError()'
    labels = ["<script>alert(1)</script>", "a|b`c`", '"; fun evil() {} //', "*/ ${1}\n", "\ud800",
              "", "\x1b[31m", "ünï"]  # fmt: skip

    def spoil(model):
        node = model.graph.node
        for one in node:
            one.input[:] = [name if i == "x" else i for i in one.input]
            one.output[:] = [answer if o == "y" else o for o in one.output]
        model.graph.input[0].name, model.graph.output[0].name = name, answer
        model.metadata_props.add(key="labels", value=json.dumps(labels))

    changed(spoil)
    Path("model.onnx").rename("<b>_x`\n.onnx")
    assert main(["bundle", "<b>_x`\n.onnx", "--json"]) == 0
    made = Path(document(capsys)["bundle"])
    assert run_snippet(made.absolute()).returncode == 0
    expected = [*labels[:3], "*/ ${1}", "?", "", "?[31m", "ünï"]
    assert (made / "labels.txt").read_text("utf-8").splitlines() == expected
    card = (made / "README.md").read_text("utf-8")
    assert card.startswith("# &lt;b>\\_x\\`\n")
    assert "<script" not in card
    assert r"&lt;script>alert(1)&lt;/script>, a\|b\`c\`" in card
    kotlin = (made / "EdgeModel.kt").read_text("utf-8")
    assert r"""setOf("out*/\u000a\u0007\"; fatalError()")""" in kotlin
    assert r""""in\"\u000a*/ \$x \\(print(1))\u000c\u202e" to""" in kotlin
    swift = (made / "EdgeModel.swift").read_text("utf-8")
    assert r""""in\"\u{a}*/ $x \\(print(1))\u{c}\u{202e}": try""" in swift


def test_models_without_numbers_are_refused(folder, capsys):
    np.savez("data.npz", x=np.full((3, 8), np.inf, np.float32))
    assert main(["bundle", "model.onnx", "--data", "data.npz"]) == 2
    assert "output 'y' is not finite on the golden inputs; give others" in capsys.readouterr().err
    words = tiny_models.value("words", "n", kind=TensorProto.STRING)
    spoken = tiny_models.value("spoken", "n", kind=TensorProto.STRING)
    node = helper.make_node("Identity", ["words"], ["spoken"])
    tiny_models.save(helper.make_graph([node], "g", [words], [spoken]), Path("texts.onnx"))
    assert main(["bundle", "texts.onnx"]) == 2
    assert "golden inputs must be numbers: bundle the part of the model that starts" in (
        capsys.readouterr().err
    )
    assert not Path("edgecompress-bundle").exists()


def test_torch_is_never_imported(folder):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgecompress.cli.main import main\n"
        "sys.exit(main(['bundle', 'model.onnx']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
