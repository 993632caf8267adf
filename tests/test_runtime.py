"""The runtime: inference, made-up inputs, and hostile files that must not pass the door."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import save, save_mlp, value

from edgecompress import runtime
from edgecompress.errors import DataError, ModelError, UsageError
from edgecompress.runtime import (
    admit,
    describe_inputs,
    make_inputs,
    onnx_model,
    parse_shape,
    run,
    session,
)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return save_mlp(tmp_path / "mlp.onnx")


def test_admit_tells_the_facts(mlp: Path) -> None:
    facts = admit(mlp)
    assert facts.model == onnx_model(mlp)
    assert describe_inputs(facts) == "x: float32 ?x8"
    assert str(facts.outputs[0]) == "y: float32 ?x8"
    assert (facts.opset, facts.parameters) == (18, 64)
    assert facts.operators == {"MatMul": 1, "Relu": 1}


def test_run_in_batches_equals_one_batch(mlp: Path) -> None:
    x = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)
    model = onnx_model(mlp)
    whole = run(model, {"x": x})
    assert whole.shape == (10, 8)
    np.testing.assert_allclose(run(model, {"x": x}, batch=3), whole, rtol=1e-5)


@pytest.mark.parametrize("fixed", [1, 4])
def test_run_feeds_a_fixed_batch_as_it_is(tmp_path: Path, fixed: int) -> None:
    x = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)
    free = run(onnx_model(save_mlp(tmp_path / "free.onnx")), {"x": x})
    model = onnx_model(save_mlp(tmp_path / "fixed.onnx", batch=fixed))
    np.testing.assert_allclose(run(model, {"x": x}), free, rtol=1e-5)


def test_run_refuses_wrong_inputs_in_one_line(mlp: Path) -> None:
    with pytest.raises(ModelError, match=r"mlp\.onnx: cannot run: .*Expected: 8") as caught:
        run(onnx_model(mlp), {"x": np.ones((4, 7), np.float32)})
    assert "\n" not in str(caught.value)


def test_missing_file_and_bad_session(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        onnx_model(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match=r"bad\.onnx: ONNX Runtime refuses it"):
        session(tmp_path / "bad.onnx")


# Made-up and given inputs


def test_parse_shape_keeps_colons_in_names() -> None:
    assert parse_shape("scope/x:0:1x3") == ("scope/x:0", (1, 3))


@pytest.mark.parametrize("text", ["", "x", "x:", ":1x2", "x:1x", "x:0x3", "x:-1", "x:1,3"])
def test_parse_shape_refuses(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--shape .*: expected NAME:1x3x224x224"):
        parse_shape(text)


def test_made_up_inputs_are_the_same_every_time(mlp: Path) -> None:
    facts = admit(mlp)
    assert make_inputs(facts)["x"].shape == (1, 8)
    assert make_inputs(facts, {"x": (3, 8)})["x"].shape == (3, 8)
    np.testing.assert_array_equal(make_inputs(facts)["x"], make_inputs(facts)["x"])
    assert np.ptp(make_inputs(facts)["x"]) > 0


def test_made_up_integers_are_zero(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["ids"], ["y"])
    ends = [value("ids", "n", 4, kind=TensorProto.INT64)], [value("y", "n", 4, kind=7)]
    facts = admit(save(helper.make_graph([node], "g", *ends), tmp_path / "ids.onnx"))
    made = make_inputs(facts)["ids"]
    assert made.dtype == np.int64
    assert not made.any()


def test_given_inputs_are_checked(mlp: Path, tmp_path: Path) -> None:
    facts = admit(mlp)
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, x=np.full((2, 8), 3, np.float32))
    assert (make_inputs(facts, None, good)["x"] == 3).all()
    np.savez(bad, x=np.zeros((2, 9), np.float32))
    with pytest.raises(DataError, match=r"got x: float32 2x9; the model expects x: float32 \?x8"):
        make_inputs(facts, None, bad)
    np.savez(bad, x=np.zeros((2, 8), np.float64))
    with pytest.raises(DataError, match="got x: float64 2x8"):
        make_inputs(facts, None, bad)
    np.savez(bad, z=np.zeros(1))
    with pytest.raises(UsageError, match="the model has no input 'z'; it has x: float32"):
        make_inputs(facts, None, bad)


def test_an_input_is_given_once(mlp: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8), np.float32))
    with pytest.raises(UsageError, match="--shape and --inputs both give 'x'; give it once"):
        make_inputs(admit(mlp), {"x": (2, 8)}, tmp_path / "x.npz")


def test_texts_are_made_up_empty_and_taken_from_a_file(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [value("x", "n", kind=TensorProto.STRING)], [value("y", "n", kind=TensorProto.STRING)]
    facts = admit(save(helper.make_graph([node], "g", *ends), tmp_path / "text.onnx"))
    assert make_inputs(facts)["x"].tolist() == [""]
    np.savez(tmp_path / "text.npz", x=np.array(["one", "two"]))
    given = make_inputs(facts, None, tmp_path / "text.npz")
    assert run(facts.model, given).tolist() == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_unreadable_npz(mlp: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"--inputs .*bad\.npz: not a readable npz file"):
        make_inputs(admit(mlp), None, tmp_path / "bad.npz")


def test_npz_that_claims_more_than_memory_holds(mlp: Path, tmp_path: Path) -> None:
    claimed = {"descr": "<f4", "fortran_order": False, "shape": (2**48, 8)}
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, claimed)
    with pytest.raises(DataError, match=r"--inputs .*bomb\.npz: holds more than fits into memory"):
        make_inputs(admit(mlp), None, tmp_path / "bomb.npz")


def test_npz_with_pickled_objects_runs_no_code(mlp: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="not a readable npz file"):
        make_inputs(admit(mlp), None, tmp_path / "evil.npz")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 8)}, "--shape: the model has no input 'z'"),
        ({"x": (1, 9)}, "--shape: got x: float32 1x9; the model expects x: float32 "),
        ({"x": (8,)}, "--shape: got x: float32 8; the model expects x: float32 "),
        ({"x": (2**62, 8)}, f"--shape x:{2**62}x8: too large; give a smaller one"),
    ],
)
def test_wrong_shapes(mlp: Path, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        make_inputs(admit(mlp), shapes)


# Hostile files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are no ONNX file"),
        (b"hello", "refused as an ONNX model"),
        (b"\xff" * 4096, "refused as an ONNX model"),
        (b"\x08\x0a", "refused as an ONNX model"),
    ],
)
def test_garbage_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        admit(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_truncated_file_is_refused(mlp: Path) -> None:
    mlp.write_bytes(mlp.read_bytes()[:-40])
    with pytest.raises(ModelError, match="refused as an ONNX model"):
        admit(mlp)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((-1, 8), "declares a negative dimension"),
        ((10**6, 10**6), "beyond the memory limit"),
        ((1, 9 * 10**8), "beyond the memory limit"),  # of bytes, that is, not of elements
    ],
)
def test_absurd_dimensions_are_refused(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", *shape)], [value("y", *shape)])
    with pytest.raises(ModelError, match=f"'x' .*{message}|'x' {message}"):
        admit(save(graph, tmp_path / "dims.onnx"))


def test_absurd_dimensions_inside_the_graph_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    ends = [value("x", "n", 8)], [value("y", "n", 8)]
    graph = helper.make_graph(nodes, "g", *ends, value_info=[value("h", -3, 8)])
    with pytest.raises(ModelError, match="'h' declares a negative dimension"):
        admit(save(graph, tmp_path / "inside.onnx"))


def test_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", "n", 8)], [])
    with pytest.raises(ModelError, match="it has no outputs"):
        admit(save(graph, tmp_path / "mute.onnx"))


def test_checker_and_runtime_both_have_a_say(tmp_path: Path) -> None:
    for node, message in (
        (helper.make_node("NoSuchOp", ["x"], ["y"]), "NoSuchOp"),
        (helper.make_node("Relu", ["nowhere"], ["y"]), "nowhere"),
    ):
        graph = helper.make_graph([node], "g", [value("x", 1)], [value("y", 1)])
        with pytest.raises(ModelError, match=message):
            admit(save(graph, tmp_path / "unsound.onnx"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.abort()", r"end the checker or ONNX Runtime \(exit status -6\)"),
        ("while True: pass", "not loaded after 1 s; refused"),
    ],
)
def test_a_file_that_crashes_or_loops_ends_only_its_child(
    mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(runtime, "_ADMISSION", tmp_path / "child.py")
    monkeypatch.setattr(runtime, "_SECONDS", 1)
    with pytest.raises(ModelError, match=message):
        admit(mlp)


def test_a_file_that_needs_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_mlp(tmp_path / "big.onnx", width=2048)
    monkeypatch.setattr(runtime, "_MEMORY_BYTES", -9 * model.stat().st_size)
    with pytest.raises(ModelError, match=r"needs more than \d+ MB|end the checker|refused as"):
        admit(model)


def _with_external(folder: Path, location: str) -> Path:
    """Write a model whose weight claims to lie at `location`."""
    folder.mkdir(exist_ok=True)
    path = save_mlp(folder / "ext.onnx")
    model = onnx.load(str(path))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Make a file outside the model's folder whose last reading would show in its access time."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.ones((8, 8), np.float32).tobytes())
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    return path


def test_external_data_beside_the_model_are_welcome(tmp_path: Path) -> None:
    path = _with_external(tmp_path / "m", "weights.bin")
    (tmp_path / "m" / "weights.bin").write_bytes(np.ones((8, 8), np.float32).tobytes())
    facts = admit(path)
    assert facts.parameters == 64
    assert facts.model.size_bytes == path.stat().st_size + 256  # what ships is both
    assert [file.path.name for file in facts.model.beside] == ["weights.bin"]


@pytest.mark.parametrize("location", ["../secret.bin", "a/../../secret.bin", "{absolute}", ""])
def test_external_data_outside_are_refused_unread(
    tmp_path: Path, secret: Path, location: str
) -> None:
    path = _with_external(tmp_path / "m", location.replace("{absolute}", str(secret)))
    with pytest.raises(ModelError, match="must be a plain path inside the model's folder"):
        admit(path)
    assert secret.stat().st_atime_ns == 0


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_external_data_behind_links_are_refused_unread(
    tmp_path: Path, secret: Path, kind: str
) -> None:
    path = _with_external(tmp_path / "m", "weights.bin")
    link = tmp_path / "m" / "weights.bin"
    link.symlink_to(secret) if kind == "symbolic" else link.hardlink_to(secret)
    with pytest.raises(ModelError, match=rf"'weights\.bin' is a {kind} link"):
        admit(path)
    assert secret.stat().st_atime_ns == 0


def test_external_data_behind_a_linked_folder_are_refused(tmp_path: Path, secret: Path) -> None:
    path = _with_external(tmp_path / "m", "sub/secret.bin")
    (tmp_path / "m" / "sub").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="is a symbolic link"):
        admit(path)


def test_external_data_missing_or_no_file(tmp_path: Path) -> None:
    path = _with_external(tmp_path / "m", "weights.bin")
    with pytest.raises(ModelError, match=r"'weights\.bin' is missing beside the model"):
        admit(path)
    os.mkfifo(tmp_path / "m" / "weights.bin")
    with pytest.raises(ModelError, match=r"'weights\.bin' is not a file"):
        admit(path)


def test_external_data_in_a_nested_graph_are_seen(tmp_path: Path) -> None:
    outer = onnx.load(str(save_mlp(tmp_path / "outer.onnx")))
    hidden = _with_external(tmp_path / "m", "../secret.bin")
    inner = onnx.load(str(hidden), load_external_data=False).graph
    del inner.input[:]
    outer.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    )
    path = tmp_path / "m" / "nested.onnx"
    path.write_bytes(outer.SerializeToString())
    with pytest.raises(ModelError, match="must be a plain path inside the model's folder"):
        admit(path)


def test_external_data_must_hold_the_claimed_bytes(tmp_path: Path) -> None:
    path = _with_external(tmp_path / "m", "weights.bin")
    (tmp_path / "m" / "weights.bin").write_bytes(b"short")
    model = onnx.load(str(path), load_external_data=False)
    model.graph.initializer[0].external_data.add(key="length", value="256")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="does not hold the bytes that a tensor claims"):
        admit(path)


def test_scores_are_the_answer_where_a_label_comes_first(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["x"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "classifier", [x], [label, scores])
    path = tmp_path / "c.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    answer = run(onnx_model(path), {"x": np.eye(3, dtype=np.float32)})
    assert answer.shape == (3, 3)
    assert answer.argmax(axis=1).tolist() == [0, 1, 2]
