"""Temperature and weight chosen on validation: what is tried, what wins, what a kill takes."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import blobs
import pytest
import torch
from tiny_lessons import blobs as tiny_blobs
from tiny_lessons import dense, knowing

from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.distill import distill
from edgecompress.distilling.loop import Bench
from edgecompress.distilling.tuning import SPACE, choice_in_words, pairs, tuned
from edgecompress.errors import RecipeError
from edgecompress.lessons import DistillSettings
from edgecompress.pipeline.run import RunOptions
from edgecompress.pipeline.stages import run_until
from edgecompress.recipe import load_recipe
from edgecompress.records import Evaluation, Metric

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _scored(value: float, higher: bool = True) -> Evaluation:
    return Evaluation(Metric("score", value, value, value, "validation", higher), (value,))


@pytest.mark.parametrize("temperature", [1.0, 3.0, 4.0])
@pytest.mark.parametrize("tune", [2, 5, 13])
def test_trials_begin_with_the_recipes_numbers_and_include_no_softening(
    tune: int, temperature: float
) -> None:
    tried = pairs(DistillSettings(tune=tune, temperature=temperature))
    assert tried[0] == (temperature, 0.9)
    assert any(t == 1.0 for t, _ in tried)
    assert len(tried) == len(set(tried)) == tune


def test_a_loss_that_reads_no_temperature_is_tried_with_other_weights_only() -> None:
    tried = pairs(DistillSettings(tune=13, loss="multi"))
    assert {t for t, _ in tried} == {4.0}
    assert {w for _, w in tried} == {w for _, w in SPACE}


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_trial_gives_the_numbers(higher: bool) -> None:
    settings = DistillSettings(tune=4, epochs=20)
    seen: list[DistillSettings] = []

    def train(short: DistillSettings) -> Evaluation:
        seen.append(short)
        good = short.temperature == 2.0
        return _scored(float(good == higher), higher)

    chosen, trials = tuned(settings, train)
    assert (chosen.temperature, chosen.kd_weight, chosen.epochs, chosen.tune) == (2.0, 0.9, 20, 0)
    assert [(t.temperature, t.kd_weight) for t in trials] == list(pairs(settings))
    assert {(s.epochs, s.tune) for s in seen} == {(4, 0)}
    assert choice_in_words(trials).startswith("T = 2 and kd_weight = 0.9, the best of 4 short tri")


def test_equals_leave_the_recipes_numbers() -> None:
    settings = DistillSettings(tune=5, temperature=3.0, kd_weight=0.7)
    chosen, _ = tuned(settings, lambda short: _scored(0.9))
    assert chosen == settings.model_copy(update={"tune": 0})


def test_without_trials_nothing_is_trained_or_said() -> None:
    def train(short: DistillSettings) -> Evaluation:
        raise AssertionError

    assert tuned(DistillSettings(), train) == (DistillSettings(), ())
    assert choice_in_words(()) == ""


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["distill.tune=1"], "given tune = 1, but one trial chooses nothing; expected 0, or 2"),
        (["distill.tune=14"], "distill.tune: given 14, expected less than or equal to 13"),
        (
            ["distill.tune=3", "distill.temperature={start=5,end=1}"],
            "given tune with a schedule, but trials choose between numbers; give temperature and",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(overrides: list[str], wanted: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(None, overrides)
    assert wanted in str(refused.value)


def test_distill_from_python_tunes_too_and_keeps_each_training_apart(tmp_path: Path) -> None:
    settings = DistillSettings(
        epochs=5, batch_size=16, learning_rate=1e-2, precision="fp32", tune=3
    )
    bench = Bench(checkpoint=tmp_path / "c.safetensors")
    result = distill(dense(1, 8), dense(7, 32), tiny_blobs(), settings, bench)
    assert len(result.trials) == 3
    assert result.reason.startswith("T = ")
    best = max(result.trials, key=lambda trial: trial.metric.value)
    plain = settings.model_copy(
        update={"tune": 0, "temperature": best.temperature, "kd_weight": best.kd_weight}
    )
    again = distill(dense(1, 8), dense(7, 32), tiny_blobs(), plain)
    assert [weights_digest(a.module) for a in again.arms] == [
        weights_digest(a.module) for a in result.arms
    ]


def test_each_training_of_one_distillation_resumes_from_its_own_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    settings = DistillSettings(epochs=2, batch_size=16, learning_rate=1e-2, precision="fp32")
    bench = Bench(checkpoint=tmp_path / "c.safetensors")
    kept = distill(dense(1, 8), dense(7, 32), tiny_blobs(), settings, bench)
    plain = distill(dense(1, 8), dense(7, 32), tiny_blobs(), settings)
    for one, other in zip(kept.arms, plain.arms, strict=True):
        assert weights_digest(one.module) == weights_digest(other.module)
    names = sorted(re.sub("[0-9a-f]{8}", "#", path.name) for path in tmp_path.iterdir())
    assert names == ["control-0-#-c.safetensors", "distilled-0-#-c.safetensors"]


def test_no_distillation_goes_on_from_the_checkpoint_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    first = DistillSettings(epochs=1, batch_size=16, learning_rate=1e-2, precision="fp32")
    bench, task = Bench(checkpoint=tmp_path / "c.safetensors"), tiny_blobs()
    distill(dense(1, 8), dense(7, 32), task, first, bench)
    slower = first.model_copy(update={"learning_rate": 1e-3})
    for student, teacher, settings in (
        (dense(1, 8), dense(7, 32), slower),
        (dense(2, 8), dense(7, 32), first),
        (dense(1, 8), knowing(), first),
    ):
        kept, plain = (distill(student, teacher, task, settings, b) for b in (bench, Bench()))
        assert weights_digest(kept.arms[0].module) == weights_digest(plain.arms[0].module)


def test_a_loss_of_ones_own_has_nothing_to_tune() -> None:
    with pytest.raises(
        RecipeError, match="given tune = 3 with a loss of your own, which reads nei"
    ):
        distill(
            dense(1, 8), dense(7, 32), tiny_blobs(), DistillSettings(tune=3),
            loss=lambda ours, theirs, labels: (ours - theirs).square().mean(),
        )  # fmt: skip


class _KilledError(Exception):
    pass


def test_a_kill_costs_one_trial_at_most(tmp_path: Path) -> None:
    shutil.copy(HERE / "blobs.py", tmp_path)
    text = blobs.RECIPE.replace("views = 2", "views = 2\ntune = 3", 1)
    (tmp_path / "recipe.toml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.toml")
    said: list[str] = []

    def kill(text: str, done: int, total: int) -> None:
        if said.count("distill-trial distilled: started") == 3:
            raise _KilledError

    with pytest.raises(_KilledError):
        run_until("distill", recipe, tmp_path / "out", RunOptions(say=said.append, tick=kill))
    again: list[str] = []
    made = run_until("distill", recipe, tmp_path / "out", RunOptions(say=again.append))
    assert again.count("distill-trial distilled: reused") == 2
    assert again.count("distill-trial distilled: started") == 1
    training = made.trainings[-1]
    assert len(training.trials) == 3
    assert training.reason.startswith("T = ")
    once_more: list[str] = []
    same = run_until("distill", recipe, tmp_path / "out", RunOptions(say=once_more.append))
    assert not [line for line in once_more if line.endswith("started")]
    assert same.trainings == made.trainings
