"""Accuracy control, by itself and in a run: depthwise nets that plain int8 ruins on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from onnx import load

from benchmarks.quantization.hard_nets import digits, hard_model
from edgecompress.graphs import labels_of
from edgecompress.measuring.explained import Node, Profile
from edgecompress.measuring.node_costs import _by_node
from edgecompress.pipeline.candidates import candidate_of, scored
from edgecompress.pipeline.controlled import control_notes, controlled
from edgecompress.pipeline.quantized import quantize_candidate
from edgecompress.pipeline.run import Run, RunOptions, open_run
from edgecompress.profiles import load_profile
from edgecompress.quantizing.control import FILE, Terms, control
from edgecompress.quantizing.layers import layers
from edgecompress.quantizing.static import StaticForm
from edgecompress.recipe import QuantizeSettings, Recipe
from edgecompress.records import Controlled, OnnxModel
from edgecompress.report.document import candidate_json
from edgecompress.runtime import run as run_model
from edgecompress.runtime import session
from edgecompress.tasks.task import Split, Task

X, Y = digits()["validation"]
CALIBRATION = {"x": digits()["train"][0][:256]}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def relu(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    torch.set_num_threads(1)
    return hard_model(tmp_path_factory.mktemp("hard") / "relu.onnx", "relu", epochs=5)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    torch.set_num_threads(1)
    return hard_model(tmp_path_factory.mktemp("hard") / "gated.onnx", "gated", epochs=5)


def accuracy(model: OnnxModel) -> float:
    return float((run_model(model, {"x": X}).argmax(1) == Y).mean())


class Losses:
    """Evaluate on validation and count how often."""

    def __init__(self, exact: OnnxModel) -> None:
        self.exact, self.seen = accuracy(exact), list[float]()

    def __call__(self, int8: OnnxModel) -> float:
        self.seen.append(self.exact - accuracy(int8))
        return self.seen[-1]


def fake_cost_of_one_ms_a_node(exact: OnnxModel, int8: OnnxModel) -> Mapping[str, float]:
    return {layer.node: 1.0 for layer in layers(load(exact.path))}


def no_cost(exact: OnnxModel, int8: OnnxModel) -> Mapping[str, float]:
    raise AssertionError("asked for costs where no layer has to go back to float")


def test_repairs_mend_a_depthwise_net_of_unequal_channels(relu: OnnxModel, tmp_path: Path) -> None:
    losses = Losses(relu)
    terms = Terms(0.01, losses, no_cost)
    found = control(relu, CALIBRATION, tmp_path, StaticForm(), terms)
    assert found.plain_loss > 0.05
    assert found.loss <= 0.01
    assert found.evaluations == len(losses.seen) <= 10
    assert found.keep_float == ()
    assert "equalization" in found.repairs
    assert found.reason == "repaired, it stays int8 throughout"
    assert found.model is not None
    assert found.model.path == tmp_path / FILE
    assert losses.exact - accuracy(found.model) == pytest.approx(found.loss, abs=0.005)
    assert labels_of(load(found.model.path)) == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]


def test_layers_go_back_to_float_where_repairs_do_not_do(gated: OnnxModel, tmp_path: Path) -> None:
    losses = Losses(gated)
    terms = Terms(0.01, losses, fake_cost_of_one_ms_a_node, repairs=())
    found = control(gated, CALIBRATION, tmp_path, StaticForm(), terms)
    assert found.plain_loss > 0.05
    assert found.loss <= 0.01
    assert found.evaluations == len(losses.seen) <= 10
    assert found.repairs == ()
    assert 0 < found.added_ms < 13  # not all of its layers
    assert {name.rstrip("0123456789") for name in found.keep_float} >= {"conv", "mul"}
    assert found.reason == "with the cheapest layers in float"
    assert found.model is not None
    assert session(found.model.path)


def test_int8_that_loses_little_enough_is_left_as_it_is(relu: OnnxModel, tmp_path: Path) -> None:
    found = control(relu, CALIBRATION, tmp_path, StaticForm(), Terms(0.9, Losses(relu), no_cost))
    assert (found.evaluations, found.repairs, found.keep_float) == (1, (), ())
    assert found.reason == "plain int8 loses no more than is allowed"


def test_what_cannot_be_reached_is_said_and_nothing_is_written(
    relu: OnnxModel, tmp_path: Path
) -> None:
    terms = Terms(-1.0, Losses(relu), fake_cost_of_one_ms_a_node, most=3)
    found = control(relu, CALIBRATION, tmp_path, StaticForm(), terms)
    assert found.model is None
    assert found.evaluations == 3
    assert found.reason == "nothing but float was within it after 3 evaluations"
    assert list(tmp_path.iterdir()) == []


def test_the_same_request_writes_the_same_bytes(relu: OnnxModel, tmp_path: Path) -> None:
    made = [
        control(relu, CALIBRATION, tmp_path / n, StaticForm(), Terms(0.01, Losses(relu), no_cost))
        for n in ("one", "two")
    ]
    assert made[0].model and made[1].model
    assert made[0].model.sha256 == made[1].model.sha256


@pytest.fixture
def hard_run(relu: OnnxModel, tmp_path: Path) -> Iterator[Run]:
    splits = {name: Split({"x": x}, y) for name, (x, y) in digits().items()}
    task = Task("hard digits", **splits, teacher=lambda: torch.nn.Flatten())
    recipe = Recipe(
        distill=None, measure=None, quantize=QuantizeSettings(schemes=("static",), max_drop=0.01)
    )
    with open_run(recipe, tmp_path / "out", RunOptions(), task) as run:
        yield run


def test_a_run_gets_one_more_candidate_where_all_int8_loses(relu: OnnxModel, hard_run: Run) -> None:
    profile = load_profile("android-cpu")
    whole = candidate_of("student-fp32", relu, "fp32", None)
    plain = (whole, *quantize_candidate(hard_run, profile, whole))
    plain = tuple(scored(hard_run, one, "validation") for one in plain)
    every = controlled(hard_run, profile, plain)
    assert [c.label for c in every] == [
        "student-fp32", "student-int8-static", "student-int8-controlled",
    ]  # fmt: skip
    made = every[-1]
    exact, rounded = plain[0].evaluation("validation"), made.evaluation("validation")
    assert exact and rounded and made.control
    assert exact.metric.value - rounded.metric.value <= 0.01
    assert made.parity and made.parity.passed
    (note,) = control_notes(every)
    assert note.startswith("student-int8-controlled: plain static int8 loses 0.")
    assert "repaired by equalization" in note
    assert note.endswith("no layer went back to float; 2 full evaluations")
    told = candidate_json(made, hard_run.store.folder)["control"]
    assert told == {
        **{name: getattr(made.control, name) for name in ("plain_loss", "loss", "reason")},
        "repairs": list(made.control.repairs), "keep_float": [], "nodes": 0, "added_ms": 0.0,
        "evaluations": 2,
    }  # fmt: skip
    stages = hard_run.store.finished("control")
    assert controlled(hard_run, profile, plain) == every
    assert hard_run.store.finished("control") == stages == 1


def test_no_candidate_where_one_int8_keeps_the_score(relu: OnnxModel, hard_run: Run) -> None:
    profile = load_profile("android-cpu")
    whole = scored(hard_run, candidate_of("student-fp32", relu, "fp32", None), "validation")
    same = whole.evaluation("validation")
    assert same
    for scheme in ("int8-static", "int8-dynamic"):
        good = replace(whole, label=f"student-{scheme}", scheme=scheme)
        assert controlled(hard_run, profile, (whole, good)) == (whole, good)
    weights = replace(whole, label="student-int8-weights", scheme="int8-weights")
    assert controlled(hard_run, profile, (whole, weights)) == (whole, weights)


def test_no_candidate_without_the_section(relu: OnnxModel, hard_run: Run) -> None:
    whole = candidate_of("student-fp32", relu, "fp32", None)
    bare = replace(hard_run, recipe=Recipe())
    assert controlled(bare, load_profile("android-cpu"), (whole,)) == (whole,)


def test_a_note_names_the_layers_that_stay_float(relu: OnnxModel) -> None:
    found = Controlled(relu, 0.1, 0.01, (), ("conv1", "conv2"), 9, 0.5, 4, "")
    whole = replace(candidate_of("a", relu, "int8-controlled", None), control=found)
    assert control_notes([whole]) == (
        "a: plain static int8 loses 0.1 on validation, this 0.01; no repair helped; "
        "2 nodes stay float (conv1, conv2); 4 full evaluations",
    )


def test_of_many_float_layers_a_note_names_some() -> None:
    found = Controlled(None, 0.1, 0.01, (), tuple(f"n{i}" for i in range(10)), 20, 0.5, 4, "")
    assert "10 nodes stay float (n0, n1, n2, n3, n4, n5, n6, n7 and 2 more);" in found.told


def test_times_go_to_the_layers_that_the_runtime_still_names(relu: OnnxModel) -> None:
    def node(name: str, operator: str) -> Node:
        return Node(name, operator, "", (), (), {}, 1.0)

    nodes = (
        node("relu1_nchwc", "Conv"),  # has swallowed conv1
        node("conv2_token_7", "QLinearConv"),
        node("relu2", "Relu"),
        node("ReorderOutput", "ReorderOutput"),
    )
    profile = Profile(4.0, nodes, {}, frozenset(), 1, 0.0, 0.0)
    source = {n.name: n for n in load(relu.path).graph.node}
    assert _by_node(profile, source) == {"conv1": 1.0, "conv2": 1.0, "relu2": 1.0}
