"""Pruning inside the chain: penalties before it, zeros held after it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import blobs
import pytest
import torch
from sample_report import passing, pruning

from edgecompress.errors import RecipeError
from edgecompress.pipeline.networks import Network
from edgecompress.pipeline.run import RunOptions, open_run
from edgecompress.pipeline.training import obtain_teacher, prune_student, train_student
from edgecompress.pruning.masks import masks_of
from edgecompress.recipe import load_recipe
from edgecompress.report.tables import pruning_table


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def networks(folder: Path, *overrides: str) -> tuple[Network, Network]:
    """Return the student and the pruned network of the small task."""
    (folder / "recipe.toml").write_text(blobs.RECIPE)
    (folder / "blobs.py").write_text(Path(blobs.__file__).read_text())
    recipe = load_recipe(folder / "recipe.toml", overrides)
    with open_run(recipe, folder / "out", RunOptions()) as run:
        teacher = obtain_teacher(run)
        student = train_student(run, teacher)
        pruned = prune_student(run, student, teacher)
    assert pruned is not None
    return student, pruned


UNSTRUCTURED = (
    "prune={kind = 'unstructured', pruning_ratio = 0.8, scope = 'global'}",
    "distill.epochs=1",
    "teacher.epochs=1",
)


def test_zeros_are_held_when_the_network_learns_again(tmp_path: Path) -> None:
    student, pruned = networks(tmp_path, *UNSTRUCTURED)
    assert pruned.pruning is not None
    assert pruned.pruning.macs_after == pruned.pruning.macs_before
    assert pruned.pruning.achieved_ratio == pytest.approx(0.8, abs=0.001)
    assert masks_of(pruned.module).sparsity == pytest.approx(0.8, abs=0.001)
    assert masks_of(student.module).sparsity == 0
    weights = [p for p in pruned.module.parameters() if p.ndim > 1]
    assert any(bool((w != 0).any()) for w in weights)
    # What stays has learned on: none of the weights is that of the student any more.
    before, after = student.module.head.weight, pruned.module.head.weight
    assert not bool((before == after)[after != 0].any())


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_the_network_may_recover_between_steps(tmp_path: Path, kind: str) -> None:
    asked = f"kind = '{kind}', pruning_ratio = 0.8, scope = 'global', steps = 2"
    asked += ", round_to = 1" if kind == "structured" else ""
    sections = ("distill.epochs=1", "teacher.epochs=1", "redistill.teachers=both")
    _, plain = networks(tmp_path, f"prune={{{asked}}}", *sections)
    asked += ", recover_epochs = 1"
    _, healed = networks(tmp_path, f"prune={{{asked}}}", *sections)
    assert plain.pruning is not None
    assert healed.pruning is not None
    assert healed.pruning.weights.sha256 != plain.pruning.weights.sha256
    assert len(list(tmp_path.glob("out/stages/recover-distilled-*"))) == 1
    if kind == "unstructured":
        assert masks_of(healed.module).sparsity == pytest.approx(0.8, abs=0.001)
    else:
        assert healed.pruning.macs_after < healed.pruning.macs_before
    _, found = networks(tmp_path, f"prune={{{asked}}}", *sections)
    assert found.digest == healed.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[prune]\nrecover_epochs = 2\n[redistill]\n",
            "recover_epochs = 2 trains between two steps, and steps = 1; give "
            "steps = 2 or more, or remove it",
        ),
        (
            "[prune]\nrecover_epochs = 2\nsteps = 3\n",
            "prune.recover_epochs = 2 trains as [redistill] does; add [redistill], or remove it",
        ),
        (
            "[prune]\nrecover_epochs = 2\ntarget = 0.5\n[redistill]\n",
            "target finds the width of every layer by itself, and recover_epochs is given too",
        ),
    ],
)
def test_recovery_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert words in str(caught.value)


def test_a_penalty_presses_channels_in_the_training_before(tmp_path: Path) -> None:
    plain, _ = networks(tmp_path, "distill.views=1")
    pressed, pruned = networks(
        tmp_path,
        "distill.views=1",
        "prune.penalty=group_lasso",
        "prune.penalty_strength=0.05",
    )

    def norms(network: Network) -> torch.Tensor:
        first = network.module.stages[0].first[0].weight
        return first.detach().flatten(1).norm(dim=1)

    assert float(norms(pressed).sum()) < 0.8 * float(norms(plain).sum())
    assert pruned.pruning is not None
    assert pruned.pruning.macs_after < pruned.pruning.macs_before


def test_a_penalty_needs_a_training_to_act_in(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[prune]\npenalty = "group_lasso"\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert str(caught.value) == (
        f'{recipe}: prune.penalty = "group_lasso" acts in the training of one student by '
        "[distill], without peers; add [distill], remove peers, or remove the penalty"
    )


def test_the_report_says_what_went_and_that_zeros_run_no_faster() -> None:
    report = replace(passing(), prunings=(pruning(), replace(pruning(), macs_after=1_000_000)))
    channels, weights = pruning_table(report).rows
    assert channels[0] == "30 % of the channels, 50 % of the heads"
    assert channels[1] == "25.0 % of the channels, 2 of 4 heads"
    assert "faster" not in channels[2]
    assert weights[0].startswith("30 % of the weights")
    assert weights[2] == "0.0 % (zeros run no faster)"
