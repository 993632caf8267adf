"""Soft targets in a mapped file: whose word they are, what a kill leaves, what a form costs."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kind_tasks
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_lessons import CLASSES, blobs, dense
from torch import Tensor

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.distill import distill
from edgecompress.distilling.kinds import form_of
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.soft_targets import SoftTargets, packed, unpacked
from edgecompress.distilling.views import CHUNK, Views, task_views
from edgecompress.errors import RecipeError, TeacherError
from edgecompress.recipe import DistillSettings, TrainSettings
from edgecompress.records import Kind
from edgecompress.store import Crew
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import as_teacher

PROBES = 1  # how often a teacher is asked for a few answers that tell it from another


class Counting:
    """Answer with three times the first inputs, and note which samples were asked for."""

    def __init__(self, factor: float = 3.0, most: int | None = None) -> None:
        self.factor, self.most, self.asked = factor, most, []

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.most is not None and len(self.asked) >= self.most:
            raise KeyboardInterrupt
        self.asked.append(inputs["x"][:, 0].clone())
        return inputs["x"][:, :CLASSES] * self.factor


def noise(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": batch["x"] + 0.3 * torch.randn(batch["x"].shape, generator=generator)}


def views_of(task: Task, count: int = 0) -> Views:
    return task_views(task, TrainSettings(views=count), 0, True)


def targets(teacher: object, views: Views, folder: Path | None, **more: object) -> SoftTargets:
    asked = as_teacher(teacher, ("a", "b", "c"))
    return SoftTargets(asked, views, folder, **more)  # type: ignore[arg-type]


def whole(soft: SoftTargets, view: int = 0) -> Tensor:
    return soft.of(view, torch.arange(len(soft.views)))


@pytest.mark.parametrize("kept", [True, False])
def test_soft_targets_belong_to_the_sample_and_its_view(tmp_path: Path, kept: bool) -> None:
    task, teacher = replace(blobs(), augment=noise), Counting()
    views, folder = views_of(task, 2), tmp_path if kept else None
    soft = targets(teacher, views, folder)
    rows = torch.tensor([5, 90, 5])
    for view in (0, 1, 0, 1):
        seen = torch.from_numpy(views.view(view).inputs["x"])[:, :CLASSES] * 3
        torch.testing.assert_close(whole(soft, view), seen, rtol=0, atol=0)
        torch.testing.assert_close(soft.of(view, rows), seen[rows], rtol=0, atol=0)
    assert len(teacher.asked) == 2 * (1 + PROBES)
    again = targets(teacher, views, folder)
    torch.testing.assert_close(whole(again, 1), whole(soft, 1), rtol=0, atol=0)
    assert len(teacher.asked) == 2 * (1 + PROBES) + PROBES + (not kept)


def test_no_row_of_another_teacher_view_or_data_is_ever_taken(tmp_path: Path) -> None:
    plain = blobs()
    shuffled = replace(plain, train=plain.train.take(np.arange(96)[::-1]))
    changed = {"x": plain.train.inputs["x"].copy()}
    changed["x"][95, 0] += 1
    others = [
        replace(plain, augment=noise),
        replace(plain, train=replace(plain.train, inputs=changed)),
    ]
    for task in (plain, shuffled, *others):
        for factor in (3.0, 2.0):
            views = views_of(task, 1)
            logits = whole(targets(Counting(factor), views, tmp_path))
            expected = torch.from_numpy(views.view(0).inputs["x"].copy())[:, :CLASSES] * factor
            torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    assert len(list(tmp_path.glob("*.npy"))) == 8


def test_teachers_that_differ_in_one_weight_have_files_of_their_own(tmp_path: Path) -> None:
    one, other = dense(7, 32), dense(7, 32)
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    for module in (one, other):
        kept, asked = (whole(targets(module, views_of(blobs()), f)) for f in (tmp_path, None))
        torch.testing.assert_close(kept, asked, rtol=0, atol=0)


def test_a_killed_filling_goes_on_where_it_stood(tmp_path: Path) -> None:
    task = blobs(pool=4 * CHUNK)  # five chunks
    with pytest.raises(KeyboardInterrupt):
        whole(targets(Counting(most=PROBES + 2), views_of(task), tmp_path))
    ticks: list[tuple[str, int, int]] = []
    teacher = Counting()
    soft = targets(teacher, views_of(task), tmp_path, tick=lambda *said: ticks.append(said))
    torch.testing.assert_close(
        whole(soft), whole(targets(Counting(), views_of(task), None)), rtol=0, atol=0
    )
    assert len(teacher.asked) == PROBES + 3
    total = 96 + 4 * CHUNK
    assert ticks == [("soft targets, view 0", 96 + i * CHUNK, total) for i in (1, 2, 3)]


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "asked"),
    [
        (lambda file, journal: _flip_a_bit(file), 1),  # the last chunk alone
        (lambda file, journal: journal.write_text(journal.read_text()[:-1]), 1),  # a torn line
        (lambda file, journal: journal.write_bytes(b"\xff 0 x\n"), 3),
        (lambda file, journal: file.write_bytes(file.read_bytes()[:50]), 3),  # a torn header
        (lambda file, journal: file.unlink(), 3),
        (lambda file, journal: None, 0),
    ],
)
def test_what_is_torn_or_damaged_is_asked_for_again(
    tmp_path: Path, harm: Callable[[Path, Path], None], asked: int
) -> None:
    task = blobs(pool=2 * CHUNK)
    first = whole(targets(Counting(), views_of(task), tmp_path)).clone()
    (file,), (journal,) = tmp_path.glob("*.npy"), tmp_path.glob("*.journal")
    harm(file, journal)
    teacher = Counting()
    torch.testing.assert_close(
        whole(targets(teacher, views_of(task), tmp_path)), first, rtol=0, atol=0
    )
    assert len(teacher.asked) == PROBES + asked


def test_a_fresh_view_leaves_no_file_of_the_one_before(tmp_path: Path) -> None:
    soft = targets(Counting(), views_of(replace(blobs(), augment=noise)), tmp_path)
    for view in range(3):
        whole(soft, view)
    assert len(list(tmp_path.glob("*.npy"))) == len(list(tmp_path.glob("*.journal"))) == 1


def test_two_processes_share_out_the_chunks_without_gap_or_repeat(tmp_path: Path) -> None:
    task, barrier = blobs(pool=4 * CHUNK), threading.Barrier(2)
    teachers = [Counting(), Counting()]
    found: dict[int, Tensor] = {}

    def agree(value: object) -> object:
        barrier.wait()
        return value

    def work(rank: int) -> None:
        crew = Crew(rank, 2, agree)
        found[rank] = whole(targets(teachers[rank], views_of(task), tmp_path, crew=crew))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Counting()
    expected = whole(targets(alone, views_of(task), None))
    for rank in (0, 1):
        torch.testing.assert_close(found[rank], expected, rtol=0, atol=0)
    shared = [answer for teacher in teachers for answer in teacher.asked[PROBES:]]
    assert [len(teacher.asked) - PROBES for teacher in teachers] == [3, 2]
    assert sorted(torch.cat(shared).tolist()) == sorted(torch.cat(alone.asked[PROBES:]).tolist())
    alone.asked.clear()
    whole(targets(alone, views_of(task), tmp_path))  # a later run of one process reads it all
    assert len(alone.asked) == PROBES


@pytest.mark.parametrize("augmented", [True, False])
def test_training_from_kept_targets_is_that_from_an_online_teacher_bit_for_bit(
    tmp_path: Path, augmented: bool
) -> None:
    task = replace(blobs(pool=50), augment=noise if augmented else None)
    settings = DistillSettings(epochs=4, batch_size=16, precision="fp32", views=2, mixing="mixup")
    asked = as_teacher(dense(7, 32), task.class_names)

    def trained(folder: Path | None) -> str:
        bench = Bench(soft_folder=folder)
        return weights_digest(
            train_arm("distilled", dense(1, 8), task, settings, bench, asked).module
        )

    online = trained(None)
    assert [trained(tmp_path), trained(tmp_path)] == [online, online]  # filled, then found
    assert len(list(tmp_path.glob("*.npy"))) == 2


# --- forms ----------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.floats(0.1, 60))
def test_top_k_keeps_probabilities_proper(seed: int, classes: int, scale: float) -> None:
    drawn = np.random.default_rng(seed).normal(0, scale, (7, classes)).astype(np.float32)
    count = 1 + seed % (classes - 2)
    kept = unpacked(packed(f"top-{count}", drawn), classes)
    true, found = (torch.from_numpy(z).double().softmax(dim=1) for z in (drawn, kept))
    first = true.topk(count, dim=1).indices
    torch.testing.assert_close(found.gather(1, first), true.gather(1, first), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(7).double())
    rest = found.scatter(1, first, -1.0)
    rest = rest[rest >= 0].reshape(7, -1)
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest))  # shared out evenly


def test_fp16_keeps_the_largest_logits_finite() -> None:
    kept = unpacked(packed("fp16", np.array([[1e6, -1e6, 0.1]], np.float32)), 3)
    np.testing.assert_allclose(kept, [[65504.0, -65504.0, 0.1]], rtol=1e-3)


def test_top_k_of_too_few_classes_is_refused(tmp_path: Path) -> None:
    soft = targets(Counting(), views_of(blobs()), tmp_path, form="top-2")
    with pytest.raises(RecipeError, match=r'given "top-2", .* shape \(3,\) .* at least 4; take'):
        whole(soft)


@pytest.mark.parametrize("kept", [True, False])
def test_the_cost_of_a_form_is_known_also_of_what_a_killed_run_kept(
    tmp_path: Path, kept: bool
) -> None:
    folder = tmp_path if kept else None
    exact = targets(Counting(), views_of(blobs()), folder)
    true = whole(exact).double()
    assert (exact.cost(), exact.note()) == (None, "")
    for form, most in (("fp16", 1e-4), ("top-1", 1.0)):
        soft = targets(Counting(), views_of(blobs()), folder, form=form)
        found = whole(soft).double()
        divergence = (true.softmax(1) * (true.log_softmax(1) - found.log_softmax(1))).sum(1).mean()
        cost = soft.cost()
        assert cost is not None
        assert 0 <= cost.divergence < most
        assert cost.divergence == pytest.approx(float(divergence), abs=1e-9)
        assert cost.agreement == (true.argmax(1) == found.argmax(1)).double().mean()
        if kept:
            again = targets(Counting(), views_of(blobs()), folder, form=form)
            whole(again)
            assert again.cost() == cost


@pytest.mark.parametrize("kind", kind_tasks.KINDS)
def test_halves_are_counted_for_every_kind(kind: Kind) -> None:
    task = kind_tasks.task(kind)
    teacher = as_teacher(kind_tasks.knowing(kind), form_of(task))
    soft = SoftTargets(teacher, task_views(task, TrainSettings(), 0, False), form="fp16")
    exact = teacher.logits({"x": torch.from_numpy(task.train.inputs["x"])})
    torch.testing.assert_close(whole(soft), exact, rtol=1e-3, atol=1e-3)
    cost = soft.cost()
    assert cost is not None
    assert 0 < cost.divergence < 1e-3
    if kind in ("regression", "embedding"):
        assert cost.agreement is None
        assert soft.note().endswith("of their size is lost")
    else:
        assert cost.agreement is not None
        assert cost.agreement > 0.99


def test_the_note_of_an_arm_says_what_its_soft_targets_lost() -> None:
    settings = DistillSettings(epochs=1, soft_targets="top-1", precision="fp32")
    result = distill(dense(1, 8), dense(7, 32), scored(blobs()), settings)
    said = result.arms[0].note
    assert said.startswith("soft targets kept as top-1: KL ")
    assert result.arms[1].note == ""
    assert said in result.reason


def scored(task: Task) -> Task:
    """Return the task with a teacher's answers as labels, so that an untrained one will do."""
    bare = {n: replace(getattr(task, n), labels=None) for n in ("train", "validation", "test")}
    return replace(task, **bare)


def test_certain_teachers_that_differ_in_a_late_class_have_files_of_their_own(
    tmp_path: Path,
) -> None:
    labels = np.repeat([0, 1, 2], 100)
    rows = np.eye(CLASSES, dtype=np.float32)[labels]
    task = replace(blobs(), train=Split({"x": rows}, labels))

    class Certain:
        def __init__(self, last: int) -> None:
            self.last = last

        def logits(self, inputs: dict[str, Tensor]) -> Tensor:
            found = inputs["x"].argmax(dim=1)
            return 20 * torch.nn.functional.one_hot(found.clamp(max=self.last), CLASSES).float()

    for last in (2, 1):
        kept = whole(targets(Certain(last), views_of(task), tmp_path))
        assert kept.argmax(dim=1).tolist() == np.minimum(labels, last).tolist()


def test_a_probe_that_is_not_finite_names_its_sample() -> None:
    task = blobs()
    broken = {"x": task.train.inputs["x"].copy()}
    broken["x"][90] = np.nan
    views = views_of(replace(task, train=replace(task.train, inputs=broken)))
    with pytest.raises(TeacherError, match="logits for sample 90 are not finite"):
        whole(targets(Counting(), views, None))
