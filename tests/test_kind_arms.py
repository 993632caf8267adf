"""Pools, peers, parts of batches, mixing and calibration, in every kind of task."""

from __future__ import annotations

from dataclasses import replace

import kind_tasks
import numpy as np
import pytest
import torch
from kind_tasks import KINDS, knowing, network
from torch import Tensor, nn

from edgecompress.distilling.certainty import certainty_of
from edgecompress.distilling.choice import CODISTILLED, CONTROL, DISTILLED, PSEUDO
from edgecompress.distilling.distill import distill
from edgecompress.distilling.scoring import forward
from edgecompress.errors import TaskError
from edgecompress.recipe import DistillSettings
from edgecompress.records import Kind
from edgecompress.students.units import InUnits
from edgecompress.tasks.scores import NEIGHBOURS
from edgecompress.tasks.skill import out_of_reach
from edgecompress.tasks.task import IGNORED, Task
from edgecompress.teachers.calibration import calibrate

QUICK = DistillSettings(epochs=6, batch_size=32, learning_rate=1e-2, precision="fp32")
LEAST: dict[Kind, float] = {
    "binary": 0.8, "multilabel": 0.65, "regression": 0.6, "embedding": 0.8, "tokens": 0.7,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_arm_learns_with_a_pool_and_in_parts_of_batches(kind: Kind) -> None:
    task = kind_tasks.task(kind, unlabelled=64)
    settings = QUICK.model_copy(update={"peers": True, "batch_size": 16, "accumulate": 2})
    arms = distill(task.student, knowing(kind), task, settings).arms  # type: ignore[arg-type]
    assert [arm.name for arm in arms] == [DISTILLED, CONTROL, PSEUDO, CODISTILLED]
    for arm in arms:
        assert arm.evaluation.metric.value > LEAST[kind], arm.name


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "tokens"])
def test_mixed_samples_have_mixed_labels(kind: Kind) -> None:
    task = kind_tasks.task(kind, unlabelled=32)
    settings = QUICK.model_copy(update={"mixing": "mixup"})
    arms = distill(task.student, knowing(kind), task, settings).arms  # type: ignore[arg-type]
    for arm in arms:
        assert arm.evaluation.metric.value > LEAST[kind] - 0.1, arm.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_left_alone_is_as_it_was(kind: Kind) -> None:
    teacher, task = knowing(kind), kind_tasks.task(kind)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distill(network(kind, 4), teacher, task, QUICK.model_copy(update={"epochs": 1}))
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_network_of_another_form_is_refused_before_its_training() -> None:
    task = kind_tasks.task("regression")
    flat = torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Unflatten(1, (2, 1)))
    with pytest.raises(
        TaskError, match=r"student: output shape \(8, 2, 1\) .*one number"
    ) as refusal:
        distill(flat, knowing("regression"), task, QUICK)
    assert "\n" not in str(refusal.value)


def test_a_student_of_numbers_that_begins_far_from_its_labels_is_warned_of() -> None:
    task = kind_tasks.task("regression")
    inputs = task.example_inputs(8)
    bare = torch.nn.Linear(6, 2)
    words = out_of_reach(task, forward(bare, inputs))
    assert words.startswith("task 'regression': the labels lie at 979 +- 296, and")
    assert "too far away to be trained there; end it with edgecompress.students.units.InUn" in words
    assert out_of_reach(task, forward(torch.nn.Sequential(bare, InUnits(1000, 200)), inputs)) == ""
    near = replace(task, train=replace(task.train, labels=task.train.labels / 200))
    assert out_of_reach(near, forward(bare, inputs)) == ""
    assert out_of_reach(kind_tasks.task("embedding"), forward(bare, inputs)) == ""


# --- certainty ------------------------------------------------------------------------------


def honest(kind: Kind, rows: int = 500) -> tuple[Task, np.ndarray]:
    """Return a task whose labels are drawn from the logits returned, which are honest so."""
    draws = np.random.default_rng(3)
    shape = {"binary": (rows, 1), "multilabel": (rows, 3), "tokens": (rows, 3, 4)}[kind]
    logits = draws.normal(0, 1.5, shape)
    if kind == "tokens":
        noisy = logits + draws.gumbel(size=shape)  # the largest is drawn from the softmax
        labels = noisy.argmax(axis=1)
        labels[:, 3] = IGNORED
        logits[:, :, 3] = 1e4 * draws.normal(size=(rows, 3))  # what does not count tells nothing
    else:
        labels = (draws.random(shape) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    told = labels[:, 0] if kind == "binary" else labels
    task = kind_tasks.task(kind)
    return replace(task, validation=replace(task.validation, labels=told)), logits


@pytest.mark.parametrize("kind", ["binary", "multilabel", "tokens"])
def test_a_teacher_too_sure_is_found_out(kind: Kind) -> None:
    task, logits = honest(kind)
    found = certainty_of(task, 4 * logits)
    assert found is not None
    assert found.temperature("auto") == pytest.approx(4, rel=0.2)
    assert found.after.ece < 0.06 < found.before.ece  # of 500 answers, 0.05 is noise
    assert found.after.nll < found.before.nll
    assert found.calibration.helps
    plain = certainty_of(task, logits)
    assert plain is not None
    assert plain.temperature(True) == pytest.approx(1, rel=0.2)
    words = {"binary": "accuracy ", "multilabel": "accuracy of labels", "tokens": "accuracy of tok"}
    assert f"the teacher on validation: {words[kind]}" in found.note("auto")


@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_numbers_have_no_certainty(kind: Kind) -> None:
    task = kind_tasks.task(kind)
    assert certainty_of(task, forward(knowing(kind), task.validation.inputs)) is None


def test_many_answers_for_one_sample_do_not_make_a_gain_surer() -> None:
    draws = np.random.default_rng(0)
    logits, labels = 3 * draws.normal(size=(300, 4)), draws.integers(0, 4, 300)
    once = calibrate(logits, labels)
    many = calibrate(np.repeat(logits, 9, axis=0), np.repeat(labels, 9), np.repeat(range(300), 9))
    assert (many.gain, many.low) == pytest.approx((once.gain, once.low))
    loose = calibrate(np.repeat(logits, 9, axis=0), np.repeat(labels, 9))
    assert loose.low > once.low + 0.01


# --- neighbours -----------------------------------------------------------------------------


def test_neighbours_are_those_of_a_search_by_hand() -> None:
    draws = np.random.default_rng(0)
    ours, theirs = draws.normal(size=(300, 3)), draws.normal(size=(300, 8))

    def nearest(vectors: np.ndarray, row: int) -> set[int]:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        order = np.argsort(-(unit @ unit[row]))
        return set([int(i) for i in order if i != row][:10])

    expected = [len(nearest(ours, i) & nearest(theirs, i)) / 10 for i in range(300)]
    np.testing.assert_allclose(NEIGHBOURS.per_sample(ours, theirs), expected)
    turn = np.linalg.qr(draws.normal(size=(8, 8)))[0]
    assert (NEIGHBOURS.per_sample(7 * theirs @ turn, theirs) == 1).all()
    assert NEIGHBOURS.per_sample(theirs[:1], theirs[:1]).tolist() == [1.0]
    assert NEIGHBOURS.per_sample(theirs[:4], theirs[:4]).tolist() == [1.0] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_another_form_is_refused_before_it_trains(kind: Kind) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.zeros(len(x), 1))[:, 0]

    with pytest.raises(TaskError, match=r"student: output shape \(8,\) for 8 samples; expected"):
        distill(Flat, knowing(kind), kind_tasks.task(kind), DistillSettings())
    with pytest.raises(TaskError, match=r"student: Linear fails on x \(8, .*RuntimeError: "):
        distill(lambda: nn.Linear(99, 1), knowing(kind), kind_tasks.task(kind), DistillSettings())
