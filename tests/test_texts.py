"""Texts on their way into a task: the loader, the tokenizer's place in it, a teacher of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgecompress.errors import DataError, TaskError, TeacherError
from edgecompress.students.text import HashedBag
from edgecompress.tasks.checks import check_task
from edgecompress.tasks.load import task_fingerprint
from edgecompress.tasks.loaders import texts_from_csv
from edgecompress.tasks.task import Split, Task
from edgecompress.tasks.texts import Texts
from edgecompress.tasks.tokenizers import HashedWords
from edgecompress.teachers.adapters import as_teacher, predict_logits
from edgecompress.teachers.texts import text_teacher

WORDS = HashedWords(6, buckets=1000, words=1)


def texts(seed: int, rows: int = 40) -> Texts:
    """Return texts of five words; the class is whether one of them is `lost`."""
    g = np.random.default_rng(seed)
    words = np.array(["my", "card", "is", "late", "please", "help", "me", "now"])
    labels = np.arange(rows) % 2
    made = [
        " ".join(g.permutation([*g.choice(words, 4), "lost" if label else "found"]))
        for label in labels
    ]
    return Texts(tuple(made), labels.astype(np.int64))


def task(**changes: Any) -> Task:
    train, validation, test = (texts(seed).encoded(WORDS) for seed in (1, 2, 3))
    made = Task(
        "lost", train, validation, test, nn.Identity, lambda: HashedBag(64, 2, 8), ("no", "yes")
    )
    return replace(made, **{"tokenizer": WORDS, **changes})


def says_lost(asked: Sequence[str]) -> NDArray[np.float32]:
    right = np.array(["lost" in text for text in asked], dtype=np.float32)
    return np.stack([2 - 4 * right, 4 * right - 2], axis=1)


def test_csv_of_texts_and_labels(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text(
        'text,category\n"Where, is it?",card\nHöw much,fee\nIs it here?,card\n', "utf-8"
    )
    test.write_text("id,category,text\n1,fee,What fee\n", "utf-8")
    found, names = texts_from_csv(train, "text", "category")
    assert found.texts == ("Where, is it?", "Höw much", "Is it here?")
    assert names == ("card", "fee")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0]
    assert found.files == (train,)
    other, same = texts_from_csv(test, "text", "category", names)
    assert same == names
    assert other.labels is not None
    assert (other.texts, other.labels.tolist()) == (("What fee",), [1])
    kept = found.take(np.array([2, 0]))
    split = kept.encoded(WORDS)
    assert split.labels is not None
    assert (kept.texts, split.labels.tolist()) == (("Is it here?", "Where, is it?"), [0, 0])
    assert split.inputs["tokens"].shape == (2, 6)
    assert split.files == (train,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,category\nhi,\n", "line 2: the label 'category' is missing"),
        ("text,category\n ,card\n", "line 2: text is empty; remove the row"),
        ("texts,category\nhi,card\n", "no column 'text', only texts, category; did you mean"),
        ("text,category\nhi,card\n", r"line 2: label 'card'; expected one of cards"),
    ],
)
def test_bad_csv_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message) as refused:
        texts_from_csv(path, "text", "category", ("cards", "fee"))
    assert str(refused.value).startswith(f"data {path}")


def test_a_tokenizer_belongs_to_the_task() -> None:
    assert check_task(task()) == ()
    other = HashedWords(7, buckets=1000, words=1)
    with pytest.raises(
        TaskError,
        match=r"its tokenizer makes int64 \(7,\) of the name 'tokens'; of the inputs tokens, this "
        r"is int64 \(6,\); encode all splits with it",
    ):
        check_task(task(tokenizer=other))
    with pytest.raises(
        TaskError, match="its tokenizer is a function; expected HashedWords or WordPieces of"
    ):
        check_task(task(tokenizer=says_lost))
    with pytest.raises(TaskError, match="of the name 'ids'; of the inputs tokens, this is not amo"):
        check_task(task(tokenizer=replace(WORDS, name="ids")))


def test_another_tokenizer_is_another_task() -> None:
    one, other = (
        task_fingerprint(task(tokenizer=t), None) for t in (WORDS, replace(WORDS, words=2))
    )
    assert {key for key in one if one[key] != other[key]} == {"tokenizer"}
    assert "tokenizer" not in task_fingerprint(task(tokenizer=None), None)


def test_a_teacher_of_texts_answers_for_the_ids_made_of_them() -> None:
    asked: list[str] = []

    def answer(these: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(these)
        return says_lost(these)

    parts = texts(1), texts(2)
    teacher = as_teacher(
        text_teacher(answer, WORDS.encode, *(part.texts for part in parts)), ("no", "yes")
    )
    for part in parts:
        logits = predict_logits(teacher, part.encoded(WORDS).inputs)
        np.testing.assert_array_equal(logits, says_lost(part.texts))
    assert set(asked) == {*parts[0].texts, *parts[1].texts}
    shuffled = parts[0].take(np.random.default_rng(0).permutation(len(parts[0])))
    np.testing.assert_array_equal(
        predict_logits(teacher, shuffled.encoded(WORDS).inputs), says_lost(shuffled.texts)
    )
    with pytest.raises(TeacherError, match="1 of 2 samples asked for are ids of no text that"):
        teacher.logits(
            {
                "tokens": torch.tensor(
                    [[7] * 6, parts[0].encoded(WORDS).inputs["tokens"][0].tolist()]
                )
            }
        )


def test_a_teacher_of_texts_keeps_its_precision() -> None:
    def answer(these: Sequence[str]) -> NDArray[np.float32]:
        return nn.Linear(2, 2)(torch.from_numpy(says_lost(these))).numpy()  # type: ignore[no-any-return]

    teacher = as_teacher(text_teacher(answer, WORDS.encode, texts(1).texts), ("no", "yes"))
    with torch.autocast("cpu", torch.bfloat16):
        assert predict_logits(teacher, texts(1).encoded(WORDS).inputs).dtype == np.float32


def test_a_failing_teacher_of_texts_is_told_in_one_line() -> None:
    def answer(these: Sequence[str]) -> NDArray[np.float32]:
        raise RuntimeError("out of\nmemory")

    teacher = as_teacher(text_teacher(answer, WORDS.encode, texts(1).texts), ("no", "yes"))
    with pytest.raises(TeacherError, match=r"teacher: failed on tokens \(40, 6\) int64: Runtime"):
        predict_logits(teacher, Split(texts(1).encoded(WORDS).inputs).inputs)
