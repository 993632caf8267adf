"""Loaders give clean splits or one line; a damaged file never gives a traceback."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecompress.errors import DataError
from edgecompress.tasks.loaders import (
    drop_shared,
    from_csv,
    from_idx,
    from_image_folder,
    from_npz,
    split_csv,
    split_rows,
)
from edgecompress.tasks.task import Split

DAMAGED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as refusal:
        read()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def npz_file(folder: Path) -> Path:
    path = folder / "d.npz"
    np.savez_compressed(
        path,
        x=np.arange(24.0).reshape(6, 4),
        y=np.array([0, 1, 2, 0, 1, 2], np.uint8),
        odd=np.array([None, {}], dtype=object),
    )
    return path


def test_npz_gives_float32_inputs_and_integer_labels(tmp_path: Path) -> None:
    path = npz_file(tmp_path)
    split = from_npz(path, {"image": "x"}, "y")
    assert split.inputs["image"].dtype == np.float32
    assert split.inputs["image"].shape == (6, 4)
    assert split.labels is not None
    assert split.labels.dtype == np.int64
    assert split.files == (path,)
    assert list(from_npz(path, ["x"]).inputs) == ["x"]
    assert from_npz(path, ["x"]).labels is None


def test_npz_refusals(tmp_path: Path) -> None:
    path = npz_file(tmp_path)
    assert refused(lambda: from_npz(tmp_path / "no.npz", ["x"])).endswith("no.npz: no such file")
    assert "has no array 'xx', only x, y, odd; did you mean 'x'?" in refused(
        lambda: from_npz(path, ["xx"])
    )
    assert "d.npz: holds Python objects, which only a pickle can store, and a pickle" in refused(
        lambda: from_npz(path, ["odd"])
    )
    array = tmp_path / "a.npy"
    np.save(array, np.zeros(3))
    assert "a.npy: is no sound .npz file" in refused(lambda: from_npz(array, ["x"]))
    assert "is no sound .npz file" in refused(lambda: from_npz(tmp_path, ["x"]))


def test_npz_with_a_giant_header_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    )
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
    assert "is no sound .npz file" in refused(lambda: from_npz(path, ["x"]))


@DAMAGED
@given(st.data())
def test_damaged_npz_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(npz_file(tmp_path).read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    try:
        from_npz(path, ["x"], "y")
    except DataError as refusal:
        assert "\n" not in str(refusal)


def idx_bytes(values: np.ndarray) -> bytes:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def idx_files(folder: Path, images: int = 5, labels: int = 5) -> tuple[Path, Path]:
    first, second = folder / "images-idx3-ubyte.gz", folder / "labels-idx1-ubyte.gz"
    pixels = np.arange(images * 6).reshape(images, 2, 3) % 256
    first.write_bytes(gzip.compress(idx_bytes(pixels)))
    second.write_bytes(gzip.compress(idx_bytes(np.arange(labels))))
    return first, second


def test_idx_gives_images_in_zero_to_one(tmp_path: Path) -> None:
    images, labels = idx_files(tmp_path)
    split = from_idx(images, labels)
    assert split.inputs["image"].shape == (5, 1, 2, 3)
    assert split.inputs["image"].dtype == np.float32
    assert split.inputs["image"][0, 0, 1, 2] == np.float32(5 / 255)
    assert split.labels.tolist() == [0, 1, 2, 3, 4]
    assert split.files == (images, labels)
    plain = tmp_path / "labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress(labels.read_bytes()))
    assert from_idx(images, plain).labels.tolist() == [0, 1, 2, 3, 4]


def test_idx_refusals(tmp_path: Path) -> None:
    images, labels = idx_files(tmp_path)
    assert refused(lambda: from_idx(tmp_path / "no.gz", labels)).endswith("no.gz: no such file")
    assert "is no idx file of bytes with 3 dimensions; expected e.g. train-images-idx3" in refused(
        lambda: from_idx(labels, images)
    )
    bad = tmp_path / "bad.gz"
    bad.write_bytes(b"not packed")
    assert "bad.gz: cannot be unpacked (BadGzipFile); get the file again" in refused(
        lambda: from_idx(bad, labels)
    )
    bad.write_bytes(images.read_bytes()[:-12])
    assert "cannot be unpacked (EOFError)" in refused(lambda: from_idx(bad, labels))
    whole = gzip.decompress(images.read_bytes())
    bad.write_bytes(gzip.compress(whole[:-1]))
    assert "its header promises 30 bytes, it holds 29" in refused(lambda: from_idx(bad, labels))
    bad.write_bytes(gzip.compress(whole + b"x"))
    assert "its header promises 30 bytes, it holds more" in refused(lambda: from_idx(bad, labels))
    bad.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12))
    assert "its header promises" in refused(lambda: from_idx(bad, labels))
    assert "holds 5 images, but" in refused(lambda: from_idx(images, idx_files(tmp_path, 5, 4)[1]))


def image_folder(root: Path) -> Path:
    for label, shade in (("dark", 10), ("light", 240)):
        (root / label).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 6), (shade, 0, index)).save(root / label / f"{index}.png")
    return root


def test_image_folder_gives_classes_by_subfolder(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "train")
    (root / "notes.txt").write_text("kept out")
    (root / "dark" / ".hidden.png").write_bytes(b"kept out")
    (root / ".git").mkdir()
    split, names = from_image_folder(root, (3, 4))
    assert names == ("dark", "light")
    assert split.inputs["image"].shape == (6, 3, 3, 4)
    assert split.inputs["image"].dtype == np.float32
    np.testing.assert_allclose(split.inputs["image"][0, 0], 10 / 255, atol=1e-6)
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(split.files) == 6
    grey, _ = from_image_folder(root, (6, 8), channels=1, name="x")
    assert grey.inputs["x"].shape == (6, 1, 6, 8)


def test_image_folder_keeps_the_classes_of_training(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "test")
    split, names = from_image_folder(root, (3, 4), class_names=("blank", "light", "dark"))
    assert names == ("blank", "light", "dark")
    assert split.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert "has the subfolders dark, light; expected those of dark, bright" in refused(
        lambda: from_image_folder(root, (3, 4), class_names=("dark", "bright"))
    )


def test_image_folder_refusals(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "train")
    assert "no such folder; expected one subfolder a class" in refused(
        lambda: from_image_folder(tmp_path / "no", (3, 4))
    )
    assert "has the subfolders (none); expected at least two, one a class" in refused(
        lambda: from_image_folder(root / "dark", (3, 4))
    )
    torn = root / "light" / "1.png"
    content = torn.read_bytes()
    torn.write_bytes(content[:40])
    message = refused(lambda: from_image_folder(root, (3, 4)))
    assert f"data {torn}: is no readable image (" in message
    assert message.endswith("; replace or remove it")
    torn.write_bytes(b"")
    assert "is no readable image (UnidentifiedImageError)" in refused(
        lambda: from_image_folder(root, (3, 4))
    )
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(torn)
    assert "has I;16 pixels, more than 8 bits a channel; convert it to 8 bits" in refused(
        lambda: from_image_folder(root, (3, 4))
    )
    for path in root.rglob("*.png"):
        path.unlink()
    assert "holds no image; expected files in .png, .jpg" in refused(
        lambda: from_image_folder(root, (3, 4))
    )


@DAMAGED
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_damaged_image_is_read_or_refused(tmp_path: Path, place: int, flip: int) -> None:
    root = tmp_path / "images"
    if not root.exists():
        image_folder(root)
        noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "good.jpg")
    content = bytearray((tmp_path / "good.jpg").read_bytes())
    content[place % len(content)] ^= flip
    (root / "dark" / "damaged.jpg").write_bytes(content)
    try:
        from_image_folder(root, (3, 4))
    except DataError as refusal:
        assert "damaged.jpg" in str(refusal)


TRAIN = "age, job,city,pay\n20,smith,?,low\n40,baker,Rome,high\n,smith,Oslo,low\n60,,Rome,high\n"


def csv_file(folder: Path, text: str, name: str = "d.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_learns_on_train_alone(tmp_path: Path) -> None:
    train, columns = from_csv(csv_file(tmp_path, TRAIN), "pay")
    assert columns.class_names == ("high", "low")
    assert columns.numeric == {"age": 40.0}
    assert columns.categorical == {"job": ("baker", "smith"), "city": ("Oslo", "Rome")}
    np.testing.assert_array_equal(train.inputs["numeric"][:, 0], [20, 40, 40, 60])
    np.testing.assert_array_equal(train.inputs["categorical"], [[2, 0], [1, 2], [2, 1], [0, 2]])
    assert train.inputs["numeric"].dtype == np.float32
    assert train.labels.tolist() == [1, 0, 1, 0]
    test_file = csv_file(tmp_path, "job,age,city,pay\npilot,NA,Rome,low\n", "test.csv")
    test, _ = from_csv(test_file, "pay", columns)
    np.testing.assert_array_equal(test.inputs["numeric"], [[40]])
    np.testing.assert_array_equal(test.inputs["categorical"], [[0, 2]])
    assert test.labels.tolist() == [1]


def test_csv_columns_can_be_dropped_or_read_as_categories(tmp_path: Path) -> None:
    path = csv_file(tmp_path, TRAIN)
    split, columns = from_csv(path, "pay", categorical=("age",), drop=("job", "city"))
    assert list(split.inputs) == ["categorical"]
    assert columns.categorical == {"age": ("20", "40", "60")}


def test_csv_classes_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(["10", "9", "10", "2", "9", "2"]))
    _, columns = from_csv(csv_file(tmp_path, "x,y\n" + rows), "y")
    assert columns.class_names == ("2", "9", "10")


def test_one_csv_is_split_with_each_class_dealt_out_alike(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'ab'[i % 2]},{'no' if i % 4 else 'yes'}\n" for i in range(200))
    (train, validation, test), columns = split_csv(
        csv_file(tmp_path, "n,kind,y\n" + rows), "y", (0.6, 0.2, 0.2)
    )
    assert [len(part) for part in (train, validation, test)] == [120, 40, 40]
    assert [int((part.labels == 1).sum()) for part in (train, validation, test)] == [30, 10, 10]
    assert columns.numeric["n"] == float(np.median(train.inputs["numeric"]))


CSV_REFUSALS = {
    "empty": ("", "d.csv: is empty; expected a header line of column names"),
    "header alone": ("a,y\n", "d.csv: has no rows below its header; expected at least one"),
    "no header": ("1,2\n3,4\n", "its first line (1, 2, ...) is no header; expected the names"),
    "nameless column": ("a,,y\n1,2,3\n", "its first line (a, , y, ...) is no header"),
    "name twice": ("a,a,y\n1,2,3\n", "the header has 'a' twice; expected distinct names"),
    "short row": ("a,b,y\n1,2,c\n3,c\n", "d.csv, line 3: has 2 fields; expected 3, as in the"),
    "no label column": ("a,yy\n1,2\n", "has no column 'y', only a, yy; did you mean 'yy'?"),
    "no label": ("a,y\n1,c\n2,?\n", "d.csv, line 3: the label 'y' is missing ('?'); expected a"),
    "empty column": ("a,b,y\n,1,c\n?,2,c\n", "column 'a' has no value at all; drop it"),
    "label alone": ("y\nc\nd\n", "has no column beside the label 'y'"),
    "open quote": ('a,y\n"1,c\n', "d.csv: is no CSV file in UTF-8 (unexpected end of data)"),
    "a class a row": (
        "a,y\n" + "".join(f"{i},name {i}\n" for i in range(9)),
        "the label 'y' has 9 distinct values in 9 rows; expected a few classes, each many times",
    ),
    "a price for a class": (
        "a,y\n" + "".join(f"{i},{i % 250}.5\n" for i in range(1000)),
        "the label 'y' has 250 distinct values in 1000 rows; expected a few classes",
    ),
}


@pytest.mark.parametrize("name", CSV_REFUSALS)
def test_bad_csv_is_refused(tmp_path: Path, name: str) -> None:
    text, words = CSV_REFUSALS[name]
    path = csv_file(tmp_path, text)
    assert words in refused(lambda: from_csv(path, "y"))


def test_bad_csv_values_are_refused(tmp_path: Path) -> None:
    _, columns = from_csv(csv_file(tmp_path, TRAIN), "pay")

    def later(text: str) -> str:
        path = csv_file(tmp_path, text, "later.csv")
        return refused(lambda: from_csv(path, "pay", columns))

    assert "later.csv, line 2: age is 'old'; expected a number, as in the training rows" in later(
        "age,job,city,pay\nold,smith,Rome,low\n"
    )
    assert "line 2: label 'hihg'; expected one of high, low; did you mean 'high'?" in later(
        "age,job,city,pay\n1,smith,Rome,hihg\n"
    )
    assert "has no column 'age', only job, city, pay" in later("job,city,pay\nsmith,Rome,low\n")
    assert "has no column 'cty', only age, job, city, pay; did you mean 'city'?" in refused(
        lambda: from_csv(csv_file(tmp_path, TRAIN), "pay", drop=("cty",))
    )
    assert "no.csv: no such file" in refused(lambda: from_csv(tmp_path / "no.csv", "y"))
    path = tmp_path / "latin.csv"
    path.write_bytes("né,y\n1,2\n".encode("latin-1"))
    assert "latin.csv: is no CSV file in UTF-8" in refused(lambda: from_csv(path, "y"))


@given(
    st.lists(st.integers(0, 4), min_size=0, max_size=200),
    st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.5), (11 / 12, 1 / 12), (0.98, 0.01, 0.01)]),
    st.integers(0, 9),
)
def test_every_row_is_dealt_out_once(
    extra: list[int], fractions: tuple[float, ...], seed: int
) -> None:
    labels = np.array([*extra, *[0, 1, 2, 3, 4] * 3])
    parts = split_rows(labels, fractions, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = split_rows(labels, fractions, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    for part in parts:
        assert set(labels[part]) == set(range(5))


def test_holding_out_a_twelfth_is_exact() -> None:
    labels = np.arange(1200) % 10
    kept, held = split_rows(labels, (11 / 12, 1 / 12), seed=3)
    assert np.bincount(labels[held]).tolist() == [10] * 10
    assert len(kept) == 1100


def test_split_rows_refusals() -> None:
    assert "fractions are (0.5, 0.4); expected positive numbers that sum to 1" in refused(
        lambda: split_rows(10, (0.5, 0.4))
    )
    assert (
        "2 rows of class 7 are too few for 3 parts; add rows, or give stratified=False"
        in refused(lambda: split_rows(np.array([0, 0, 0, 0, 7, 7])))
    )
    assert "split_rows: 0 rows are too few for 3 parts" in refused(lambda: split_rows(0))


def test_shared_samples_are_dropped() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    train, test = Split({"x": rows}, np.arange(6)), Split({"x": rows[[1, 4]]}, np.zeros(2, int))
    kept = drop_shared(train, test)
    assert kept.labels.tolist() == [0, 2, 3, 5]
    assert len(drop_shared(train)) == 6
