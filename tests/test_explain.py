"""Why a model is slow: whole models through the children, and what people are shown.

No assertion here depends on a time that was measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import document
from onnx import TensorProto, helper, numpy_helper
from profiled import MAP, WEIGHTS, between_pairs, node, profile
from tiny_models import save, save_mlp, value

from edgecompress.cli.explaining import NOTHING, explanation_text
from edgecompress.cli.main import main
from edgecompress.errors import ModelError
from edgecompress.measuring import explain as explaining
from edgecompress.measuring.explain import explain, read_profile
from edgecompress.measuring.explained import Explanation, Tensor
from edgecompress.measuring.findings import findings
from edgecompress.measuring.pairs import Pairs
from edgecompress.measuring.profiling_child import as_float32, float32_ms, middle, runs_of, wanted
from edgecompress.measuring.trial_child import ask
from edgecompress.runtime import onnx_model


def test_the_profilers_own_time_is_taken_off() -> None:
    entry = {"operator": "Add", "domain": "", "inputs": [], "outputs": [], "attributes": {}}
    told = {
        "call_ms": 1.0,
        "runs": 20,
        "nodes": [{**entry, "name": "a", "ms": 0.9}, {**entry, "name": "b", "ms": 0.3}],
        "tensors": {},
        "outputs": [],
        "quantized_types": [],
        "node_ms": 0.001,
        "float32_ms": None,
    }
    read = read_profile(told)
    assert [n.ms for n in read.nodes] == pytest.approx([0.8, 0.2])
    assert read.accounted == pytest.approx(1.0)
    short = read_profile({**told, "call_ms": 2.0})
    assert (short.accounted, short.profiler_ms) == (pytest.approx(0.6), 0.0)


def test_nodes_inside_a_branch_belong_to_the_node_that_holds_it() -> None:
    def event(name: str, start: int, kind: str = "Node") -> dict[str, object]:
        return {"cat": kind, "name": name, "ts": start}

    run = [
        event("0_kernel_time", 1),
        event("inner_kernel_time", 5),
        event("SequentialExecutor::Execute", 4, "Session"),
        event("1_kernel_time", 3),
        event("SequentialExecutor::Execute", 0, "Session"),
        event("model_run", 0, "Session"),
    ]
    calls = list(runs_of([event("session_initialization", 0, "Session"), *run, *run]))
    assert [[e["name"][0] for e in call] for call in calls] == [["0", "1"]] * 2


def test_the_middle_half_is_averaged() -> None:
    assert middle([1.0, 1.0, 2.0, 100.0]) == 1.5


@pytest.mark.parametrize(
    ("runs", "seconds", "on"),
    [(0, 100, True), (3, 100, True), (4, 44, True), (4, 46, False), (19, 1, True), (20, 1, False),
     (20, 0.5, True), (50, 0.5, False)],
)  # fmt: skip
def test_of_a_slow_model_a_few_runs_must_do(runs: int, seconds: float, on: bool) -> None:
    assert wanted(runs, seconds, {"most": 50, "seconds": 0.6}) is on


def save_half(path: Path) -> Path:
    """Write a product in float16."""
    half = numpy_helper.from_array(np.ones((2, 2), np.float16), "w")
    kind = TensorProto.FLOAT16
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=kind),
    ]
    ends = [value("x", 1, 2, kind=kind)], [value("y", 1, 2, kind=kind)]
    return save(helper.make_graph(nodes, "half", *ends, [half]), path)


def test_a_float16_model_is_compared_unless_that_takes_too_long(tmp_path) -> None:
    path, inputs = save_half(tmp_path / "h.onnx"), {"x": np.ones((1, 2), np.float16)}
    request = {"model": str(path), "seconds": 0.01, "threads": 1}
    found = float32_ms(request, onnx.load(path), inputs, call_ms=1.0)
    assert found is not None
    assert found > 0
    assert float32_ms(request, onnx.load(path), inputs, call_ms=2000.0) is None


def test_a_float16_model_is_rewritten_in_float32(tmp_path) -> None:
    model = onnx.load(save_half(tmp_path / "h.onnx"))
    rewritten = as_float32(model)
    assert rewritten is not None
    onnx.checker.check_model(rewritten, full_check=True)
    assert rewritten.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert as_float32(onnx.load(save_mlp(tmp_path / "f.onnx"))) is None


@pytest.mark.parametrize("form", ["float", "mixed", "unpacked", "unsigned", "signed", "integer"])
@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_each_form_of_a_layer_runs_alone(operator: str, form: str, tmp_path) -> None:
    shapes = ([1, 8, 6, 6], [8, 8, 3, 3]) if operator == "Conv" else ([64, 64], [64, 64])
    layer = {"operator": operator, "form": form, "attributes": {}}
    layer |= {"input": shapes[0], "weights": shapes[1]}
    refused = {**layer, "weights": [8, 7, 3, 3]}
    found, nothing = ask([layer, refused], 1, tmp_path)
    assert found is None or len(found) == 5  # None where it takes less than the clock can tell
    assert nothing is None


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "PROFILE_S", 0.02)
    monkeypatch.setattr(explaining, "TRIALS_S", 0.2)


def save_pairs(path, types=("uint8", "int8")):
    """Write QuantizeLinear, DequantizeLinear, Conv and the same again, in these types."""
    rng = np.random.default_rng(0)
    constants = {"s": np.float32(0.1), "w": rng.standard_normal(WEIGHTS).astype(np.float32)}
    constants |= {f"z{i}": np.zeros((), kind) for i, kind in enumerate(types)}
    nodes = []
    for i, (name, following) in enumerate([("x", "f"), ("f", "y")]):
        nodes += [
            helper.make_node("QuantizeLinear", [name, "s", f"z{i}"], [f"{name}q"]),
            helper.make_node("DequantizeLinear", [f"{name}q", "s", f"z{i}"], [f"{name}d"]),
            helper.make_node("Conv", [f"{name}d", "w"], [following], f"conv{i}", pads=[1] * 4),
        ]
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    return save(
        helper.make_graph(nodes, "pairs", [value("x", *MAP)], [value("y", *MAP)], weights), path
    )


@pytest.mark.usefixtures("briefly")
def test_a_real_profile_knows_its_graph(tmp_path) -> None:
    model = onnx_model(save_pairs(tmp_path / "pairs.onnx"))
    lines: list[str] = []
    found = explain(model, {"x": np.zeros(MAP, np.float32)}, progress=lines.append).profile
    assert found.runs >= 20
    assert found.quantized_types == ("int8", "uint8")
    assert found.outputs == {"y"}
    assert found.tensors["y"] == Tensor("float32", MAP)
    pairs = Pairs(found)
    assert "its output is not quantized" in map(pairs.reason, pairs.unfused)
    told = [line for line in lines if not line.startswith("waiting for another measurement")]
    assert told[0] == "profiling pairs.onnx"
    assert all(n.outputs for n in found.nodes)


@pytest.mark.usefixtures("briefly")
def test_a_model_that_does_not_run_is_refused(tmp_path) -> None:
    model = onnx_model(save_mlp(tmp_path / "mlp.onnx"))
    with pytest.raises(ModelError, match=r"mlp\.onnx: does not run"):
        explain(model, {"x": np.zeros((1, 3), np.float32)})


@pytest.mark.usefixtures("briefly", "measure_briefly")
def test_measure_explains_as_json(folder, capsys) -> None:
    arguments = ["measure", "model.onnx", "large.onnx", "--processes", "1", "--explain", "--json"]
    assert main(arguments) == 0
    first, second = document(capsys)["models"]
    assert first["label"] == "model"
    told = second["explanation"]
    assert {layer["operator"] for layer in told["layers"]} <= {"MatMul", "Relu", "Gemm"}
    assert [o["operator"] for o in told["operators"]]
    assert sum(layer["share"] for layer in told["layers"]) <= 1.0 + 1e-9
    assert set(told) == {
        *("call_ms", "accounted_ratio", "runs", "profiler_ms_per_node"),
        *("operators", "layers", "findings"),
    }


@pytest.mark.usefixtures("briefly", "measure_briefly")
def test_measure_without_explain_is_untouched(folder, capsys) -> None:
    assert main(["measure", "model.onnx", "--processes", "1", "--json"]) == 0
    assert "explanation" not in document(capsys)["models"][0]


def test_explain_is_for_this_machine(folder, capsys) -> None:
    arguments = ["measure", "model.onnx", "--explain", "--target", "ssh:me@board"]
    assert main(arguments) == 2
    assert "--explain looks into this machine's kernels" in capsys.readouterr().err


def test_explain_and_sustained_are_runs_of_their_own(folder, capsys) -> None:
    assert main(["measure", "model.onnx", "--explain", "--sustained", "30s"]) == 2
    assert "--explain and --sustained: both given" in capsys.readouterr().err


def test_an_explanation_reads_as_text() -> None:
    unfused = between_pairs("uint8", "int8")
    text = explanation_text("net", Explanation(unfused, findings(unfused)))
    assert text.startswith("net: a call takes 7.1 ms; the profiler accounts for 100% of it")
    assert "DequantizeLinear      2  1.1  15.5%" in text
    assert "unfused-pairs (100% of the time, about 30% could be won)" in text
    assert "  where: f, x, y, w\n" in text
    assert "  do: quantize input and output" in text
    sound = profile(node("Conv", "x w", "y"))
    assert explanation_text("net", Explanation(sound, ())).endswith(f"net: {NOTHING}")
