"""Stored soft targets belong to samples, whatever the order in which these come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecompress.errors import TeacherError
from edgecompress.teachers.adapters import as_teacher, fingerprint, parts
from edgecompress.teachers.mixtures import Ensemble
from edgecompress.teachers.stored import StoredTargets, StoredTeacher, save_soft_targets

NAMES = ("cat", "dog", "owl")
DRAWS = np.random.default_rng(0)
TRAIN = {"x": DRAWS.normal(size=(40, 2)).astype(np.float32), "kind": np.arange(40)}
LATER = {"x": DRAWS.normal(size=(10, 2)).astype(np.float32), "kind": np.arange(10)}
PROBABILITIES = DRAWS.dirichlet(np.ones(3), 50)
LOGITS = np.log(PROBABILITIES) + 3


def asked(rows: object, split: dict[str, np.ndarray] = TRAIN) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(a[rows])) for name, a in split.items()}


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_targets_follow_their_samples(tmp_path: Path, kind: str, dtype: type) -> None:
    path = tmp_path / "soft.npz"
    values = {"logits": LOGITS, "probabilities": PROBABILITIES}[kind].astype(dtype)
    save_soft_targets(path, [TRAIN, LATER], **{kind: values}, class_names=NAMES)
    teacher = as_teacher(path, NAMES)
    order = np.random.default_rng(1).permutation(40)
    got = torch.softmax(teacher.logits(asked(order)), 1)
    tolerance = 1e-2 if dtype is np.float16 else 1e-5
    np.testing.assert_allclose(got, PROBABILITIES[order], atol=tolerance)
    got = torch.softmax(teacher.logits(asked(slice(3, 5), LATER)), 1)
    np.testing.assert_allclose(got, PROBABILITIES[43:45], atol=tolerance)


def test_inputs_may_come_in_another_order_of_names(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    save_soft_targets(path, [TRAIN], logits=LOGITS[:40])
    turned = dict(reversed(asked(slice(0, 40)).items()))
    np.testing.assert_allclose(as_teacher(path, ()).logits(turned), LOGITS[:40], rtol=1e-5)


def test_sample_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    save_soft_targets(path, [TRAIN], logits=LOGITS[:40])
    batch = asked(slice(0, 4))
    batch["x"] = batch["x"] + 0.1
    with pytest.raises(TeacherError) as refusal:
        as_teacher(path, NAMES).logits(batch)
    assert str(refusal.value) == (
        f"teacher {path}: has no soft targets for 4 of 4 samples asked for; it knows samples only "
        "as they were when it was written: store targets for train, validation, test and "
        "unlabelled, and leave the task's augment and the recipe's mixing out"
    )


def test_samples_without_targets_are_known_before_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    save_soft_targets(path, [TRAIN], logits=LOGITS[:40])
    for teacher in (as_teacher(path, NAMES), as_teacher(Ensemble([path]), NAMES)):
        (stored,) = parts(teacher, StoredTeacher)
        assert list(stored.places(TRAIN)) == list(range(40))
        with pytest.raises(TeacherError, match="has no soft targets for 10 of 10 samples asked"):
            stored.places(LATER)


def test_class_names_are_put_in_the_task_order(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    save_soft_targets(path, [TRAIN], logits=LOGITS[:40], class_names=("owl", "cat", "dog"))
    got = as_teacher(path, NAMES).logits(asked(slice(0, 40)))
    np.testing.assert_allclose(got, LOGITS[:40][:, [1, 2, 0]], rtol=1e-5)
    with pytest.raises(TeacherError, match=r"soft.npz was written for 3 classes \(owl, cat, dog\)"):
        as_teacher(path, ("owl", "cat", "emu"))


def test_other_tools_write_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    np.savez(path, probabilities=PROBABILITIES)
    teacher = as_teacher(StoredTargets(path, [TRAIN, LATER]), NAMES)
    got = torch.softmax(teacher.logits(asked([7, 2])), 1)
    np.testing.assert_allclose(got, PROBABILITIES[[7, 2]], atol=1e-5)
    with pytest.raises(TeacherError, match="does not say which samples its 50 rows belong to; wr"):
        as_teacher(path, NAMES)
    with pytest.raises(TeacherError, match="has 50 rows for 40 samples; expected one row for each"):
        as_teacher(StoredTargets(path, [TRAIN]), NAMES)


def test_rows_written_for_other_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    save_soft_targets(path, [TRAIN], logits=LOGITS[:40])
    assert as_teacher(StoredTargets(path, [TRAIN]), NAMES)
    swapped = {name: array[[0, 2, 1, *range(3, 40)]] for name, array in TRAIN.items()}
    with pytest.raises(TeacherError, match="row 1 was written for another sample than the one it"):
        as_teacher(StoredTargets(path, [swapped]), NAMES)
    with pytest.raises(TeacherError, match=r"row 40 was written .* \(40 rows, 50 samples\)"):
        as_teacher(StoredTargets(path, [TRAIN, LATER]), NAMES)


def test_changed_targets_are_another_teacher(tmp_path: Path) -> None:
    path, prints = tmp_path / "soft.npz", set()
    for values in (LOGITS, LOGITS + np.eye(50)[:, :3]):
        save_soft_targets(path, [TRAIN, LATER], logits=values)
        prints.add(fingerprint(as_teacher(path, NAMES)))
        prints.add(fingerprint(as_teacher(Ensemble([path]), NAMES)))
    assert len(prints) == 2


def with_nan() -> np.ndarray:
    values = LOGITS.copy()
    values[8, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "holds nothing; expected exactly one of logits and probabilities; write it with "),
        ({"scores": LOGITS}, "holds scores; expected exactly one of logits and probabilities"),
        ({"logits": LOGITS, "probabilities": PROBABILITIES}, "expected exactly one of"),
        ({"logits": LOGITS[:, 0]}, "logits are float64 of shape (50,); expected floats of shape"),
        ({"logits": LOGITS.astype(int)}, "logits are int64 of shape (50, 3); expected floats"),
        ({"logits": with_nan()}, "logits of row 8 are not finite"),
        ({"logits": PROBABILITIES}, "logits have rows that all sum to 1, as probabilities do; if"),
        ({"probabilities": LOGITS}, "probabilities have rows that are negative or do not sum to"),
        ({"probabilities": 0.9 * PROBABILITIES}, "or do not sum to 1; if they are logits, name"),
        ({"logits": LOGITS, "samples": np.zeros((50, 4), np.uint8)}, "and 16 bytes to name it"),
        ({"logits": LOGITS, "samples": np.zeros((9, 16), np.uint8)}, "has 50 rows for 9 samples"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    path = tmp_path / "soft.npz"
    np.savez(path, **arrays)
    with pytest.raises(TeacherError) as refusal:
        as_teacher(path, NAMES)
    assert str(refusal.value).startswith(f"teacher {path}: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [None, b"", b"torn"])
@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_torn_files_are_refused(tmp_path: Path, content: bytes | None, suffix: str) -> None:
    path = tmp_path / f"soft.{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TeacherError) as refusal:
        as_teacher(path, NAMES)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "soft.npz"
    with pytest.raises(TeacherError, match="has 50 rows for 40 samples"):
        save_soft_targets(path, [TRAIN], logits=LOGITS)
    with pytest.raises(TeacherError, match="expected exactly one of logits and probabilities"):
        save_soft_targets(path, [TRAIN])
    assert not path.exists()


def test_parquet_without_its_reader_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(TeacherError) as refusal:
        as_teacher(tmp_path / "soft.parquet", NAMES)
    assert "reading parquet needs pyarrow, which is not installed; `pip install pyarrow`, or" in (
        str(refusal.value)
    )


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    npz, path = tmp_path / "soft.npz", tmp_path / "soft.parquet"
    save_soft_targets(npz, [TRAIN, LATER], probabilities=PROBABILITIES)
    names = [bytes(row).hex() for row in np.load(npz)["samples"]]
    columns = {"probabilities": PROBABILITIES.tolist(), "samples": names}
    parquet.write_table(arrow.table(columns), path)
    batch = asked(slice(0, 9))
    expected = as_teacher(npz, NAMES).logits(batch)
    assert torch.equal(as_teacher(path, NAMES).logits(batch), expected)
    parquet.write_table(arrow.table({"probabilities": columns["probabilities"]}), path)
    teacher = as_teacher(StoredTargets(path, [TRAIN, LATER]), NAMES)
    assert torch.equal(teacher.logits(batch), expected)
