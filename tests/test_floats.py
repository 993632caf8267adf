"""Which layers go back to float: the order, the halving, what is given back."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecompress.quantizing.floats import (
    Step,
    Unit,
    closed,
    given_back,
    ordered,
    smallest,
    units,
)


def alone(*nodes: str) -> dict[str, Unit]:
    return {node: Unit(node, frozenset(), frozenset()) for node in nodes}


def test_a_unit_reaches_back_to_the_layers_that_its_inputs_come_from() -> None:
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w"], ["b"], "second"),
        helper.make_node("Add", ["b", "r"], ["s"], "sum"),
        helper.make_node("Conv", ["s", "w"], ["c"], "third"),
        helper.make_node("Add", ["c", "s"], ["t"], "next"),
        helper.make_node("Conv", ["t", "w"], ["y"], "fourth"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))
    found = units(model, ["first", "second", "third", "fourth"])
    assert found["first"] == Unit("first", frozenset(), frozenset())
    assert found["second"] == Unit("second", frozenset({"first"}), frozenset({"relu"}))
    assert found["third"].heads == {"first", "second"}
    assert found["third"].between == {"relu", "sum"}
    assert found["fourth"] == Unit("fourth", frozenset({"third"}), frozenset({"next"}))


def test_what_lies_between_is_float_only_when_both_sides_are() -> None:
    among = {"b": Unit("b", frozenset({"a"}), frozenset({"relu"}))}
    assert closed(frozenset({"b"}), among) == {"b"}
    assert closed(frozenset({"a", "b"}), among) == {"a", "b", "relu"}


def test_the_most_noise_for_a_millisecond_goes_first() -> None:
    noise = {"loud": 5.0, "dear": 6.0, "quiet": 1.0}
    cost_ms = {"loud": 1.0, "dear": 10.0, "quiet": 1.0}
    steps = ordered(noise, alone(*noise), cost_ms)
    assert [sorted(step.nodes) for step in steps] == [
        ["loud"], ["loud", "quiet"], ["dear", "loud", "quiet"],
    ]  # fmt: skip
    assert [step.removed for step in steps] == [5 / 12, 6 / 12, 1.0]
    free = ordered(noise, alone(*noise), {**cost_ms, "quiet": -1.0})
    assert free[0].nodes == {"quiet"}  # what is faster in float costs nothing
    unknown = ordered(noise, alone(*noise), {})
    assert unknown[0].nodes == {"dear"}


def test_a_node_takes_its_heads_along() -> None:
    among = {**alone("a"), "b": Unit("b", frozenset({"a"}), frozenset())}
    steps = ordered({"a": 0.1, "b": 5.0}, among, {"a": 1.0, "b": 1.0})
    assert [sorted(step.nodes) for step in steps] == [["a"], ["a", "b"]] or [
        sorted(step.nodes) for step in steps
    ] == [["a", "b"]]
    assert steps[-1].removed == 1.0


@given(count=st.integers(2, 60), data=st.data())
def test_halving_finds_the_first_step_that_is_within(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(1, count - 1))
    names = [f"n{i}" for i in range(count)]
    steps = [Step(frozenset(names[: i + 1]), (i + 1) / count) for i in range(count)]
    asked = list[int]()

    def within(kept: frozenset[str]) -> bool:
        asked.append(len(kept))
        return len(kept) >= needed

    found = smallest(steps, names, within)
    assert found is not None
    assert len(found.nodes) == needed
    assert len(asked) <= math.ceil(math.log2(count)) + 1
    assert len(set(asked)) == len(asked)


def test_few_loud_nodes_are_asked_about_first() -> None:
    names = [f"n{i}" for i in range(40)]
    steps = [Step(frozenset(names[: i + 1]), 0.9 + 0.1 * (i + 1) / 40) for i in range(40)]
    asked = list[int]()
    smallest(steps, names, lambda kept: asked.append(len(kept)) or True)
    assert asked == [1]


def test_float_throughout_is_no_answer() -> None:
    steps = [Step(frozenset({"a"}), 0.5), Step(frozenset({"a", "b"}), 1.0)]
    assert smallest(steps, ["a", "b"], lambda kept: False) is None
    assert smallest(steps, ["a", "b"], lambda kept: None) is None
    assert smallest(steps[1:], ["a", "b"], lambda kept: True) is None


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.data())
def test_what_is_given_back_leaves_a_model_that_is_within(
    kept: set[str], data: st.DataObject
) -> None:
    needed = data.draw(st.sets(st.sampled_from(sorted(kept)), min_size=1))
    left = given_back(frozenset(kept), sorted(kept), lambda tried: needed <= tried)
    assert needed <= left <= kept


def test_giving_back_stops_when_nothing_more_may_be_asked_or_twice_in_vain() -> None:
    kept = frozenset("abcdefgh")
    assert given_back(kept, sorted(kept), lambda tried: None) == kept
    asked = list[frozenset[str]]()
    assert given_back(kept, sorted(kept), lambda tried: asked.append(tried) or False) == kept
    assert len(asked) == 2
    assert given_back(kept, sorted(kept), lambda tried: "h" in tried) == {"h"}
