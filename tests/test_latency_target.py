"""The search for widths: which way down it takes, and where it lands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_curves import BLOCK, CURVES

from edgecompress.pruning.widths import End, Group, Layer, Survey
from edgecompress.search.latency_target import TRIALS, WITHIN, Course, Step, land
from edgecompress.search.layer_costs import bytes_of, even_grid, grid, macs_of, time_by


def chain(widths: list[int], falling: bool = False) -> Survey:
    """Return 3x3 convolutions one after another; the last one makes the outputs."""
    names = [f"conv{i}" for i in range(len(widths))]
    groups = [
        Group(n, w, 1, tuple(1.0 + (i if falling else 0) for i in range(w)))
        for n, w in zip(names, widths, strict=True)
    ]
    ends = [End(3, {}), *(End(w, {n: w}) for n, w in zip(names, widths, strict=True)), End(10, {})]
    layers = [
        Layer(name, taken, made, 9, 64, 1, False)
        for name, (taken, made) in zip([*names, "head"], pairwise(ends), strict=True)
    ]
    return Survey(tuple(groups), tuple(layers))


def course(widths: list[int]) -> Course:
    found = chain(widths)
    choices = {g.path: grid(CURVES, g.width, g.unit) for g in found.groups}
    return Course(found, choices, time_by(CURVES))


def test_the_way_down_gets_cheaper_and_loses_more_at_every_step() -> None:
    steps = course([64, 48, 64]).down()
    assert steps[0].widths == {"conv0": 64, "conv1": 48, "conv2": 64}
    assert steps[0].load == 1
    for before, after in pairwise(steps):
        assert after.estimate < before.estimate
        assert after.load > before.load


def test_widths_that_gain_nothing_are_jumped() -> None:
    for step in course([64, 48, 64]).down():
        assert all(width % BLOCK == 0 for width in step.widths.values())


def test_no_group_is_emptied_for_the_others() -> None:
    steps = course([64, 64, 64]).down()
    half = [step for step in steps if step.estimate >= steps[0].estimate / 2]
    assert all(width >= BLOCK for step in half for width in step.widths.values())
    assert sum(width < 64 for width in half[-1].widths.values()) >= 2


def test_estimates_of_counts_are_exact() -> None:
    found = chain([8, 8])
    assert sum(macs_of(x, x.inputs.channels, x.outputs.channels) for x in found.layers) == (
        64 * 9 * (3 * 8 + 8 * 8 + 8 * 10)
    )
    layer = found.layers[1]
    half = {"conv0": 0.5, "conv1": 0.25}
    assert (layer.inputs.at(half), layer.outputs.at(half)) == (4, 2)
    assert bytes_of(layer, 4, 2) == 4 * (9 * 4 * 2 + 2)
    depthwise = Layer("d", End(8, {}), End(8, {}), 9, 64, 8, True)
    assert macs_of(depthwise, 8, 8) == 64 * 9 * 8


def test_widths_beyond_the_curve_go_on_in_its_last_steps() -> None:
    assert grid(CURVES, 72, 1)[:3] == (68, 64, 60)
    assert grid(CURVES, 64, 8) == (56, 48, 40, 32, 24, 16, 8)
    assert grid(CURVES, 9, 3) == (6, 3)  # none that was timed
    assert len(even_grid(512, 1)) == 31


@settings(deadline=None, max_examples=40)
@given(
    share=st.floats(0.2, 0.95),
    overhead=st.floats(0.0, 0.3),
    bend=st.floats(0.7, 1.4),
    widths=st.lists(st.sampled_from([32, 48, 64, 128]), min_size=3, max_size=6),
)
def test_it_lands_within_the_trials(
    share: float, overhead: float, bend: float, widths: list[int]
) -> None:
    way = course(widths)
    whole = way.down()[0].estimate

    def cost(step: Step) -> float:  # no straight line of the estimate
        return overhead + (1 - overhead) * (step.estimate / whole) ** bend

    found = land(way, share, 1.0, cost)
    assert 1 <= len(found.trials) <= TRIALS
    assert found.value == min(
        (t.found for t in found.trials), key=lambda v: (v > share, abs(v - share))
    )
    lowest = cost(way.down()[-1])
    if share * (1 - WITHIN) <= found.value <= share:
        assert found.reached
    if lowest > share:
        assert not found.reached
    else:
        assert found.value <= share


def test_each_measurement_corrects_the_next_step() -> None:
    way, told = course([64, 128, 64, 128]), []

    def cost(step: Step) -> float:
        told.append(step.estimate)
        return 0.62 if len(told) == 1 else 0.49

    found = land(way, 0.5, 1.0, cost)
    assert found.reached
    assert [trial.found for trial in found.trials] == [0.62, 0.49]
    assert told[1] < told[0]


def test_an_arrival_that_is_not_confirmed_is_none() -> None:
    way, looks = course([64, 128, 64, 128]), []

    def confirm(step: Step) -> float:
        looks.append(step.estimate)
        return 0.45 if len(looks) == 1 else 0.49

    found = land(way, 0.5, 1.0, lambda step: 0.49, confirm)
    assert [trial.found for trial in found.trials] == [0.45, 0.49]
    assert looks[0] < looks[1] == found.step.estimate
    assert found.value == 0.49


def test_what_is_there_already_is_not_tried() -> None:
    found = land(course([64, 64]), 2.0, 1.5, lambda step: pytest.fail("tried"))
    assert (found.step, found.trials, found.reached) == (None, (), True)


def test_what_cannot_be_reached_is_said_and_the_cheapest_comes_back() -> None:
    found = land(course([64, 64]), 0.1, 1.0, lambda step: 0.9)
    assert not found.reached
    assert found.step is not None
    assert found.value == 0.9


def test_smaller_steps_must_keep_more_than_the_next_large_one() -> None:
    way = course([64, 64, 64])
    above, below = way.down()[:2]
    finer = way.between(above, below, floor=(above.estimate + below.estimate) / 2)
    assert (finer[0], finer[-1]) == (above, below)
    assert all(step.load < below.load for step in finer[:-1])


def test_the_load_is_the_mean_over_the_groups() -> None:
    way = course([64, 48, 64])
    step = way.down()[3]
    shares = [g.surviving(step.widths[g.path]) for g in way.survey.groups]
    assert step.load == pytest.approx(sum(1 / share for share in shares) / 3)
