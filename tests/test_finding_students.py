"""The student that the budget allows: found in a run, recorded, taken up again, refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import blobs
import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

from edgecompress.errors import RecipeError, TaskError
from edgecompress.pipeline import arms, students
from edgecompress.pipeline.candidates import EXPORT
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import RunOptions
from edgecompress.pipeline.students import Nursery, problem_of_task
from edgecompress.profiles import Profile
from edgecompress.recipe import Recipe, load_recipe
from edgecompress.records import StudentSpec
from edgecompress.report.document import report_json, report_schema
from edgecompress.report.record import load_record, save_record
from edgecompress.students.image import ResidualNet
from edgecompress.students.ladder import families_for, ladder
from edgecompress.tasks.task import Split
from edgecompress.tasks.tokenizers import WordPieces

TASK = replace(blobs.task(), student=None)
PLENTY = {"latency_ms.p95": 1e5, "model_size_mb": 1e5}


def here(budget: dict[str, float] = PLENTY) -> Profile:
    device = {"description": "this machine", "host": True}
    return Profile.model_validate({"name": "here", "device": device, "budget": budget})


def recipe(tmp_path, student: str) -> Recipe:
    (tmp_path / "blobs.py").write_text("")
    (tmp_path / "recipe.toml").write_text(blobs.RECIPE)
    short = [f"distill.student={student}", "distill.epochs=5", "measure.processes=[5]"]
    asked = load_recipe(tmp_path / "recipe.toml", short)
    return asked.model_copy(update={"prune": None, "redistill": None})


@pytest.fixture
def three(monkeypatch):
    """Offer three students only, and train on one thread."""
    monkeypatch.setattr(students, "ladder", partial(ladder, most=3))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_best_of_the_largest_that_fit_is_distilled_and_shipped(tmp_path, three):
    heard: list[str] = []
    asked = recipe(tmp_path, "resnet8")
    run = partial(compress, asked, here(), tmp_path / "out", RunOptions(say=heard.append), TASK)
    report = run()
    found = report.students
    assert [offer.spec.family for offer in found.offers] == ["resnet8"] * 3
    assert all(offer.fits for offer in found.offers)
    assert {trial.spec for trial in found.trials} == {offer.spec for offer in found.offers}
    best = max(found.trials, key=lambda trial: trial.metric.value)
    assert best.metric.value == next(t.metric.value for t in found.trials if t.spec == found.spec)
    assert found.reason.startswith(
        f"{found.spec.label}: 3 of 3 students fit; of the largest, after"
    )
    assert found.reason in report.notes
    chosen = next(offer for offer in found.offers if offer.spec == found.spec)
    assert report.trainings[-1].parameters == chosen.parameters
    assert report.chosen is not None

    jsonschema.validate(document := report_json(report), report_schema())
    assert document["students"]["chosen"] == found.spec.label
    save_record(report, tmp_path / "out" / "record.json")
    assert load_record(tmp_path / "out" / "record.json").students == found

    heard.clear()
    assert run().students == found
    assert not [line for line in heard if line.endswith("started")]


@pytest.mark.slow
def test_where_none_fits_the_nearest_goes_on_and_the_report_says_so(tmp_path, three):
    budget = {"latency_ms.p95": 1e5, "model_size_mb": 1e-3}
    report = compress(
        recipe(tmp_path, "resnet8"), here(budget), tmp_path / "out", RunOptions(), TASK
    )
    smallest = ladder(problem_of_task(TASK), ("resnet8",))[0]
    assert report.students.spec == smallest
    assert report.students.trials == ()
    words = f"none of 3 students is sure to fit; {smallest.label} comes nearest"
    assert report.students.reason == words
    assert report.verdict.status == "fail"


def test_a_student_whose_code_changed_is_trained_and_exported_anew():
    assert "students" in arms._ROOMS
    assert "students" in EXPORT.rooms


def test_a_named_student_is_taken_as_it_is():
    settings = Recipe.model_validate({"distill": {"student": "ds_cnn-w0.5-d1"}}).distill
    assert StudentSpec.named(settings.student) == StudentSpec("ds_cnn", 0.5, 1.0)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("ds_cn", r"distill.student: given 'ds_cn', expected task, .*; did you mean 'ds_cnn'\?"),
        ("ds_cnn-w0-d1", "distill.student: given 'ds_cnn-w0-d1', expected task, teacher, auto"),
    ],
)
def test_a_name_of_no_student_is_refused(tmp_path, student, words):
    with pytest.raises(RecipeError, match=words):
        recipe(tmp_path, student)


class _Run:
    """Stand in for a run that has not begun."""

    def __init__(self, asked: Recipe | None = None, task=TASK) -> None:
        self.recipe, self.task, self.store, self.heard = asked, task, self, []

    def say(self, text: str) -> None:
        self.heard.append(text)


STRANGER = TeacherInHand(None, "")  # no torch module


def test_without_a_profile_there_is_no_budget_to_find_a_student_for(tmp_path):
    with pytest.raises(RecipeError, match='"auto" is found for the budgets of a device'):
        students.find_student(_Run(recipe(tmp_path, "auto")), None, STRANGER)
    found = students.find_student(_Run(recipe(tmp_path, "ds_cnn-w0.5-d1")), None, STRANGER)
    assert found.choice.reason == "ds_cnn-w0.5-d1: the student that the recipe names"
    assert sum(p.numel() for p in found.start().parameters()) > 1000
    assert students.find_student(_Run(recipe(tmp_path, "task")), None, STRANGER) is None


@pytest.mark.parametrize("student", ["tabular_net", "tabular_net-w1-d1"])
def test_a_family_for_other_inputs_is_refused(tmp_path, student):
    words = (
        "given family tabular_net, but task 'blobs' has image inputs and a teacher that is no "
        "torch module; expected one of resnet8, ds_cnn, mobilenet_v1$"
    )
    with pytest.raises(RecipeError, match=words):
        students.find_student(_Run(recipe(tmp_path, student)), here(), STRANGER)


def test_students_are_cut_out_of_a_teacher_with_its_weights():
    torch.manual_seed(0)
    network = ResidualNet(1, 3, widths=(32,), blocks=(1,))
    teacher = TeacherInHand(None, "", Network("teacher", network, ""))
    run = _Run()
    cut = Nursery(run, problem_of_task(TASK), teacher).students("cut_teacher")
    half = cut[StudentSpec("cut_teacher", 0.5)]
    assert half.head.weight.shape == (3, 16)
    kept = [column.tolist() for column in network.head.weight.T]
    assert all(column.tolist() in kept for column in half.head.weight.T)
    assert network.head.weight.shape == (3, 32)
    again = Nursery(run, problem_of_task(TASK), teacher).start(StudentSpec("cut_teacher", 0.5))
    assert torch.equal(again.head.weight, half.head.weight)


@pytest.mark.parametrize("student", ["cut_teacher-w1-d1", "cut_teacher-w0.5-d2"])
def test_a_teacher_only_loses_channels(tmp_path, student):
    teacher = TeacherInHand(None, "", Network("teacher", ResidualNet(1, 3, (32,), (1,)), ""))
    with pytest.raises(RecipeError, match=f'"{student}": expected cut_teacher-wSHARE-d1 with a SH'):
        students.find_student(_Run(recipe(tmp_path, student)), None, teacher)


def test_a_teacher_that_cannot_be_cut_offers_no_students():
    teacher = TeacherInHand(None, "", Network("teacher", nn.Linear(64, 3), ""))
    task = replace(TASK, **{s: flat(getattr(TASK, s)) for s in ("train", "validation", "test")})
    run = _Run(task=task)
    with pytest.raises(RecipeError, match='"cut_teacher": this teacher cannot be cut, as said abo'):
        Nursery(run, problem_of_task(task), teacher).students("cut_teacher")
    assert {s.family for s in Nursery(run, problem_of_task(task), teacher).students("auto")} == {
        "tabular_net"
    }
    assert run.heard[0].startswith("students: cut_teacher-w0.25-d1 left out: ")


def flat(split: Split) -> Split:
    return replace(split, inputs={"x": split.inputs["image"].reshape(len(split), -1)})


@pytest.mark.parametrize("tokenizer", [None, WordPieces(4, ("[PAD]", "[UNK]", "a"))])
def test_a_text_encoder_is_offered_where_all_token_ids_are_known(tokenizer):
    texts = Split({"tokens": np.ones((6, 4), np.int64)}, np.array([0, 1, 2] * 2))
    problem = problem_of_task(replace(TASK, train=texts, tokenizer=tokenizer))
    assert problem.modality == "text"
    assert problem.vocabularies == ((3,) if tokenizer else ())
    assert ("text_encoder" in families_for(problem)) == (tokenizer is not None)


def test_a_tables_codes_are_those_of_its_training_rows():
    columns = {"numeric": np.zeros((6, 2), np.float32), "categorical": np.arange(6)[:, None]}
    problem = problem_of_task(replace(TASK, train=Split(columns, np.array([0, 1, 2] * 2))))
    assert (problem.modality, problem.vocabularies, problem.numeric) == ("table", (6,), 2)


def test_no_family_answers_for_each_token():
    with pytest.raises(TaskError, match="task 'blobs': no student family answers for each token"):
        problem_of_task(replace(TASK, kind="tokens"))
