"""The whole chain on a small task: its answer, what it keeps, and what a kill cannot take."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import blobs
import numpy as np
import pytest
import torch

from edgecompress.errors import OutOfTimeError, TaskError
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import prune_student
from edgecompress.profiles import load_profile
from edgecompress.recipe import PruneSettings, Recipe, load_recipe
from edgecompress.records import Report
from edgecompress.store import file_digest
from edgecompress.teachers.adapters import as_teacher

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe_in(folder: Path) -> Recipe:
    shutil.copy(HERE / "blobs.py", folder)
    (folder / "recipe.toml").write_text(blobs.RECIPE)
    return load_recipe(folder / "recipe.toml")


def run(recipe: Recipe, out: Path, profile: str = "android-cpu") -> tuple[Report, list[str]]:
    said: list[str] = []
    return compress(recipe, load_profile(profile), out, RunOptions(say=said.append)), said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Report, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("blobs")
    recipe = recipe_in(folder)
    report, _ = run(recipe, folder / "out")
    return recipe, report, folder / "out"


def test_one_call_gives_the_answer(finished: tuple[Recipe, Report, Path]) -> None:
    _, report, _ = finished
    assert report.verdict.status == "pass", report.verdict.reason
    assert {c.budget for c in report.verdict.checks} == {
        "latency_ms.p95", "peak_memory_mb", "model_size_mb", "accept.max_drop",
    }  # fmt: skip
    assert {c.basis for c in report.verdict.checks} == {"predicted", "host", "exact", "measured"}
    labels = {c.label for c in report.candidates}
    assert {"student-fp32", "student-int8-static", "pruned-fp32", "pruned-int8-static"} <= labels
    assert report.best is not None
    assert report.best.model.path.is_file()
    assert [t.stage for t in report.trainings] == ["teacher", "distill", "redistill"]
    assert report.prunings[0].macs_after < report.prunings[0].macs_before
    assert all(0 < (c.download_bytes or 0) < 1.1 * c.model.size_bytes for c in report.candidates)


def test_the_test_split_is_read_for_three_models_only(
    finished: tuple[Recipe, Report, Path],
) -> None:
    _, report, _ = finished
    read = [c.label for c in report.candidates if c.evaluation("test")]
    assert read == [report.chosen]
    assert report.teacher is not None
    assert report.teacher.evaluation("test") is not None
    assert report.control is not None
    assert report.control.evaluation("test") is not None
    assert report.test_reads in (2, 3)  # two when the control itself is what ships as float


def test_a_second_run_does_no_work(finished: tuple[Recipe, Report, Path]) -> None:
    recipe, report, out = finished
    again, said = run(recipe, out)
    assert [line for line in said if line.endswith("started")] == []
    assert again == report


def test_only_what_depends_on_a_change_runs_again(
    finished: tuple[Recipe, Report, Path], tmp_path: Path
) -> None:
    recipe, _, out = finished
    shutil.copytree(out, tmp_path / "out")
    assert recipe.distill is not None
    warmer = recipe.model_copy(
        update={"distill": recipe.distill.model_copy(update={"temperature": 2.0})}
    )
    _, said = run(warmer, tmp_path / "out")
    assert "teacher: reused" in said
    assert "distill distilled: started" in said
    assert "distill control: reused" in said


def test_a_damaged_file_is_made_again(
    finished: tuple[Recipe, Report, Path], tmp_path: Path
) -> None:
    recipe, report, out = finished
    shutil.copytree(out, tmp_path / "out")
    assert report.best is not None
    model = tmp_path / "out" / report.best.model.path.relative_to(out)
    data = bytearray(model.read_bytes())
    data[100] ^= 4
    model.write_bytes(bytes(data))
    again, said = run(recipe, tmp_path / "out")
    assert any("digest differs; it is made again" in line for line in said)
    assert file_digest(model) == report.best.model.sha256
    assert again.chosen is not None


def test_what_leaves_the_machine_says_nothing_of_it(
    finished: tuple[Recipe, Report, Path],
) -> None:
    _, _, out = finished
    leaving = [*out.rglob("*.onnx"), *out.rglob("*.ort"), *(out / "bundle").iterdir()]
    assert {path.suffix for path in leaving} >= {".onnx", ".ort", ".json", ".md", ".bin"}
    secrets = (
        *(str(out.parent), out.parent.name, str(HERE), str(Path.home()), "site-packages"),
        *("blobs.py", "ResidualNet", "Conv2d", "BatchNorm2d", "self.", "stack_trace"),
    )
    for path in leaving:
        data = path.read_bytes()
        assert [s for s in secrets if s.encode() in data] == [], path.name


def test_the_host_profiles_are_judged_by_measuring(
    finished: tuple[Recipe, Report, Path], tmp_path: Path
) -> None:
    recipe, _, out = finished
    shutil.copytree(out, tmp_path / "out")
    five = recipe.measure.model_copy(update={"processes": (5,)}) if recipe.measure else None
    report, _ = run(recipe.model_copy(update={"measure": five}), tmp_path / "out", "cpu-1core")
    latency = next(c for c in report.verdict.checks if c.budget == "latency_ms.p95")
    assert latency.basis == "measured"
    assert latency.status in ("pass", "inconclusive")  # inconclusive on a very noisy machine


def test_without_distill_the_teacher_itself_is_compressed(
    finished: tuple[Recipe, Report, Path], tmp_path: Path
) -> None:
    recipe, _, out = finished
    shutil.copytree(out, tmp_path / "out")
    bare = recipe.model_copy(update={"distill": None, "redistill": None, "prune": None})
    report, said = run(bare, tmp_path / "out")
    assert "teacher: reused" in said
    assert report.teacher is not None
    first = report.candidates[0]
    assert first.label == "student-fp32"
    assert first.model.sha256 == report.teacher.model.sha256


def test_pruned_batch_norm_is_measured_anew_on_samples_of_every_class(tmp_path: Path) -> None:
    drawn = blobs.blobs(1600, 3)
    assert drawn.labels is not None
    brighter = (drawn.inputs["image"].T * np.float32(1 + drawn.labels)).T  # class by class
    in_order = replace(drawn, inputs={"image": np.ascontiguousarray(brighter)}).take(
        np.argsort(drawn.labels, kind="stable")  # as image folders are read
    )
    task = replace(blobs.task(), train=in_order)
    torch.manual_seed(0)
    student = Network("student", blobs.student().eval(), "as drawn")
    recipe = Recipe(task="digits", prune=PruneSettings(pruning_ratio=0.5, round_to=2))
    with open_run(recipe, tmp_path / "out", RunOptions(), task) as run:
        pruned = prune_student(run, student, TeacherInHand(as_teacher(blobs.teacher(), ()), ""))
    assert pruned is not None
    norm = next(m for m in pruned.module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        pruned.module(torch.from_numpy(in_order.inputs["image"]))
    mean, spread = seen[0].mean((0, 2, 3)), seen[0].std((0, 2, 3))
    assert float(((norm.running_mean - mean) / spread).abs().max()) < 0.02
    torch.testing.assert_close(norm.running_var.sqrt(), spread, rtol=0.02, atol=0)


def test_an_estimator_may_teach(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    def forest() -> RandomForestClassifier:
        x, y = task.train.inputs["image"].reshape(len(task.train), -1), task.train.labels
        return RandomForestClassifier(20, random_state=0).fit(x, y)

    task = replace(blobs.task(), teacher=forest)
    recipe = recipe_in(tmp_path).model_copy(
        update={"teacher": None, "prune": None, "redistill": None}
    )
    report = compress(recipe, load_profile("android-cpu"), tmp_path / "out", RunOptions(), task)
    assert report.teacher is None
    assert next(c for c in report.verdict.checks if c.budget == "accept.max_drop").value is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": lambda: "net"}, r"student\(\) returned str; expected a torch.nn.Module"),
        ({"teacher": lambda: object()}, "remove the section, its teacher is taken as trained"),
    ],
)
def test_networks_that_are_none(tmp_path: Path, change: dict[str, object], message: str) -> None:
    task = replace(blobs.task(), **change)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=message):
        compress(
            recipe_in(tmp_path), load_profile("android-cpu"), tmp_path / "o", RunOptions(), task
        )


def test_time_that_is_up_keeps_what_is_finished(tmp_path: Path) -> None:
    recipe, options = recipe_in(tmp_path), RunOptions(max_time_s=0.0)
    with pytest.raises(OutOfTimeError, match="every finished stage is kept: run again to go on"):
        compress(recipe, load_profile("android-cpu"), tmp_path / "out", options)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from edgecompress.distilling import loop
loop.CHECKPOINT_SECONDS = 0.0
from edgecompress.pipeline.compress import compress
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.training import prune_student
from edgecompress.profiles import load_profile
from edgecompress.recipe import load_recipe

folder, edge, inside = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

started = []

def say(line):
    print(line, flush=True)
    started.extend([line] if line.endswith("started") else [])
    if edge and len(started) == int(edge):
        die()

def tick(text, done, total):
    if inside and text.startswith(inside) and done == total // 2:
        die()

compress(load_recipe(folder / "recipe.toml"), load_profile("android-cpu"),
         folder / "out", RunOptions(say=say, tick=tick))
"""


def killed_run(folder: Path, edge: str = "", inside: str = "") -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(folder), edge, inside],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


def weights_and_models(out: Path) -> dict[str, str]:
    kept = [*out.glob("stages/*/*.safetensors"), *out.glob("stages/*/*.onnx"),
            *out.glob("stages/*/plan.json")]  # fmt: skip
    return {f"{path.parent.name}/{path.name}": file_digest(path) for path in kept}


def with_decisions_of(out: Path, folder: Path) -> Path:
    """Return a folder with a recipe and the decisions that an undisturbed run recorded."""
    recipe_in(folder)
    for stage in (*out.glob("stages/precision-*"), *out.glob("stages/measure-*")):
        shutil.copytree(stage, folder / "out" / "stages" / stage.name)
    return folder / "out"


@pytest.mark.slow
def test_sigkill_inside_every_training_ends_in_the_same_bits(
    finished: tuple[Recipe, Report, Path], tmp_path: Path
) -> None:
    _, _, out = finished
    resumed = with_decisions_of(out, tmp_path)
    for inside in ("teacher teacher", "distill distilled", "distill control", "redistill dist"):
        code, said = killed_run(tmp_path, inside=inside)
        assert code == -signal.SIGKILL, said
    code, said = killed_run(tmp_path)
    assert code == 0, said
    assert weights_and_models(resumed) == weights_and_models(out)


@pytest.mark.slow
def test_sigkill_at_every_stage_edge_keeps_every_finished_stage(
    finished: tuple[Recipe, Report, Path], tmp_path: Path
) -> None:
    """Each run finishes one stage more and dies at the edge to the next."""
    _, _, out = finished
    resumed = with_decisions_of(out, tmp_path)
    code, runs = -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        before = {path: file_digest(path) for path in resumed.glob("stages/*/stage.json")}
        code, said = killed_run(tmp_path, edge="2")
        runs += 1
        assert {path: file_digest(path) for path in before} == before
        after = len(list(resumed.glob("stages/*/stage.json")))
        assert after == len(before) + 1 or code == 0, said
    assert code == 0, said
    assert runs > 12
    assert weights_and_models(resumed) == weights_and_models(out)
