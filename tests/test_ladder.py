"""Students by name: what suits an input, ladders of sizes, and what is refused."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import TaskError
from edgecompress.records import Family, StudentSpec
from edgecompress.students.ladder import (
    Problem,
    build,
    families_for,
    ladder,
    parameter_count,
    problem_of,
    shell,
)

IMAGE = Problem("image", {"x": (1, 12, 12)}, 3)
SIGNAL = Problem("signal", {"x": (2, 300)}, 3)
TABLE = Problem("table", {"x": (5,), "codes": (2,)}, 3, (4, 9))
CODES = Problem("table", {"codes": (2,)}, 3, (4, 9))
TEXT = Problem("text", {"tokens": (7,)}, 3, (50,))
UNKNOWN_TEXT = Problem("text", {"tokens": (7,)}, 3)
ALL = (IMAGE, SIGNAL, TABLE, CODES, TEXT, UNKNOWN_TEXT)


def floats(*shape: int) -> np.ndarray:
    return np.zeros((4, *shape), np.float32)


def whole(*shape: int) -> np.ndarray:
    return np.zeros((4, *shape), np.int64)


@pytest.mark.parametrize(
    ("inputs", "vocabularies", "modality"),
    [
        ({"x": floats(1, 28, 28)}, (), "image"),
        ({"x": floats(3, 128)}, (), "signal"),
        ({"x": floats(20)}, (), "table"),
        ({"x": floats(20), "codes": whole(2)}, (3, 4), "table"),
        ({"tokens": whole(64)}, (), "text"),
    ],
)
def test_shapes_and_types_tell_what_an_input_is(inputs, vocabularies, modality):
    found = problem_of(inputs, 10, vocabularies)
    assert (found.modality, found.outputs) == (modality, 10)
    assert list(found.shapes.values()) == [array.shape[1:] for array in inputs.values()]


@pytest.mark.parametrize("problem", ALL, ids=lambda p: f"{p.modality}-{len(p.vocabularies)}")
def test_every_family_answers_made_up_inputs(problem):
    inputs = [torch.as_tensor(array) for array in problem.example(2).values()]
    for family in families_for(problem):
        network = build(StudentSpec(family, 0.5, 0.5), problem).eval()
        assert network(*inputs).shape == (2, 3)


@pytest.mark.parametrize("problem", ALL, ids=lambda p: f"{p.modality}-{len(p.vocabularies)}")
def test_a_ladder_rises_and_names_each_network_once(problem):
    specs = ladder(problem)
    sizes = [parameter_count(shell(spec, problem)) for spec in specs]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 15 * sizes[0]
    assert {spec.family for spec in specs} == set(families_for(problem))
    assert len({spec.label for spec in specs}) == len(specs) <= 50
    assert [StudentSpec.named(spec.label) for spec in specs] == list(specs)


def test_a_ladder_keeps_its_ends_when_it_is_cut():
    whole_ladder, short = ladder(IMAGE), ladder(IMAGE, most=4)
    assert (short[0], short[-1], len(short)) == (whole_ladder[0], whole_ladder[-1], 4)
    assert {s.family for s in ladder(IMAGE, ("ds_cnn",))} == {"ds_cnn"}


def test_multipliers_that_round_to_one_network_are_offered_once():
    tiny = Problem("image", {"x": (1, 12, 12)}, 3)
    depths = {s.depth for s in ladder(tiny, ("resnet8",))}
    assert depths == {1.0, 2.0, 3.0}
    equal = {parameter_count(shell(StudentSpec("ds_cnn", w), tiny)) for w in (0.1, 0.125)}
    assert len(equal) == 1


def test_made_up_inputs_hold_no_code_beyond_its_vocabulary():
    codes = TABLE.example(200)["codes"]
    assert codes.dtype == np.int64
    assert codes.max(axis=0).tolist() == [3, 8]
    assert TABLE.example(3)["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "vocabularies", "modality", "words"),
    [
        ({"x": floats(1, 2, 3, 4)}, (), None, r"no student family takes x float32\[1, 2, 3, 4\]"),
        ({"x": floats(3, 4).astype(np.uint8)}, (), None, "no student family takes x uint8"),
        ({"x": floats(3, 4)}, (), "image", r"\[3, 4\] as image; expected one float32 image"),
        ({"x": floats(3), "codes": whole(2)}, (), None, "0 vocabularies given, expected one for "),
        ({"tokens": whole(3)}, (5, 6), None, "2 vocabularies given, expected one, the number of"),
        ({"x": floats(3, 4)}, (5,), None, "1 vocabularies given, expected none for signal inputs"),
    ],
)
def test_what_no_family_takes_is_refused(inputs, vocabularies, modality, words):
    with pytest.raises(TaskError, match=words):
        problem_of(inputs, 3, vocabularies, modality)


@given(
    st.sampled_from(get_args(Family)),
    st.sampled_from((0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 16.0)),
    st.sampled_from((0.5, 1.0, 3.0)),
)
def test_a_label_names_its_student(family, width, depth):
    spec = StudentSpec(family, width, depth)
    assert StudentSpec.named(spec.label) == spec


@pytest.mark.parametrize(
    "label", ["", "auto", "ds_cnn", "resnet9-w1-d1", "ds_cnn-w1", "ds_cnn-w-1-d1"]
)
def test_other_words_name_no_student(label):
    assert StudentSpec.named(label) is None
