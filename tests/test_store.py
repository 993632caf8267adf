import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecompress.errors import FolderLockedError, ResourceError
from edgecompress.records import Artifact
from edgecompress.store import (
    STAGE_FILE,
    Crew,
    StageCode,
    Store,
    artifact,
    digest_of,
    open_store,
    replace_folder,
    room_digest,
    sweep_killed,
    write_atomic,
)

CODE = StageCode("bake", ("store.py",), ("numpy",))


@dataclass(frozen=True)
class Cake:
    file: Artifact
    layers: tuple[float, ...]
    notes: dict[str, Artifact]


class Baker:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> Cake:
        self.times += 1
        path = folder / "cake.bin"
        write_atomic(path, b"sponge")
        return Cake(artifact(path, Artifact), (1.0, 0.1 + 0.2), {"again": artifact(path, Artifact)})


def bake(folder: Path, baker: Baker, **inputs: object) -> tuple[Cake, list[str]]:
    lines: list[str] = []
    with open_store(folder, lines.append) as store:
        return store.once(CODE, Cake, inputs, baker), lines


def test_a_finished_stage_is_found_again_unchanged(tmp_path: Path) -> None:
    baker = Baker()
    first, said = bake(tmp_path / "run", baker, sugar=1)
    again, said_again = bake(tmp_path / "run", baker, sugar=1)
    assert baker.times == 1
    assert again == first
    assert again.layers == (1.0, 0.1 + 0.2)
    assert said[0] == "bake: started"
    assert said[1].startswith("bake: done in ")
    assert said_again == ["bake: reused"]


def test_other_inputs_make_another_stage(tmp_path: Path) -> None:
    baker = Baker()
    bake(tmp_path, baker, sugar=1)
    bake(tmp_path, baker, sugar=2)
    assert baker.times == 2


def test_the_key_covers_source_and_library_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CODE.key({})
    monkeypatch.setattr("edgecompress.store.library_version", lambda name: "99")
    other_library = CODE.key({})
    monkeypatch.setattr("edgecompress.store.room_digest", lambda room: "edited")
    assert len({before, other_library, CODE.key({})}) == 3


def test_a_run_folder_may_be_moved(tmp_path: Path) -> None:
    baker = Baker()
    bake(tmp_path / "here", baker)
    (tmp_path / "here").rename(tmp_path / "there")
    cake, _ = bake(tmp_path / "there", baker)
    assert baker.times == 1
    assert cake.file.path.read_bytes() == b"sponge"
    assert cake.notes["again"].path.is_relative_to(tmp_path / "there")


@pytest.mark.parametrize("name", ["cake.bin", STAGE_FILE])
def test_a_flipped_byte_makes_the_stage_again(tmp_path: Path, name: str) -> None:
    baker = Baker()
    cake, _ = bake(tmp_path, baker)
    path = cake.file.path.parent / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    remade, said = bake(tmp_path, baker)
    assert baker.times == 2
    assert remade == cake
    assert "it is made again" in said[0]


def test_a_record_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    baker = Baker()
    cake, _ = bake(tmp_path / "run", baker)
    record = cake.file.path.parent / STAGE_FILE
    document = json.loads(record.read_text())
    document["value"]["file"]["path"] = "../../../elsewhere.bin"
    document["sha256"] = digest_of(document["value"])
    record.write_text(json.dumps(document))
    _, said = bake(tmp_path / "run", baker)
    assert "outside" in said[0]
    assert baker.times == 2


def test_an_unfinished_stage_is_swept_but_keeps_its_checkpoint(tmp_path: Path) -> None:
    def fail(folder: Path) -> Cake:
        (folder / "half.bin").write_bytes(b"half")
        (folder / "checkpoint.safetensors").write_bytes(b"state")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_store(tmp_path, lambda text: None) as store:
        store.once(CODE, Cake, {}, fail)
    (unfinished,) = (tmp_path / "stages").iterdir()

    def look(folder: Path) -> Cake:
        assert [p.name for p in folder.iterdir()] == ["checkpoint.safetensors"]
        return Baker()(folder)

    with open_store(tmp_path, lambda text: None) as store:
        store.once(CODE, Cake, {}, look)
    assert not (unfinished / "checkpoint.safetensors").exists()
    assert store.finished("bake") == 1


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        open_store(tmp_path, lambda text: None),
        pytest.raises(FolderLockedError, match="another run is working in it"),
        open_store(tmp_path, lambda text: None),
    ):
        pass
    with open_store(tmp_path, lambda text: None):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResourceError, match=r"cannot be written .*give another --out"),
        open_store(tmp_path / "file", lambda text: None),
    ):
        pass


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.bin"
    write_atomic(path, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_half_written_files_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    stray = tmp_path / "stages" / ".report.json.x7.partial"
    stray.parent.mkdir()
    stray.write_bytes(b"torn")
    with open_store(tmp_path, lambda text: None):
        assert not stray.exists()


def test_what_a_killed_process_left_goes_an_hour_later(tmp_path: Path) -> None:
    names = (
        ".out[1].aaaa_aa1.partial",
        ".out[1].bbbbbbb2.partial",
        ".other.aaaa_aa1.partial",
        "out[1]",
        ".out1.cccccccc.partial",
        ".out[1].old.partial",  # all there is, when the process was killed while replacing
        ".out[1].later.aaaa_aa1.partial",  # another bundle's
    )
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"torn")
    long_ago = time.time() - 3700
    for name in (*names[:1], *names[2:]):
        os.utime(tmp_path / name, (long_ago, long_ago))
    sweep_killed(tmp_path, "out[1]")
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])  # b may be at work


def test_sigkill_while_writing_never_tears_a_file(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    program = (
        "import pathlib, sys\n"
        "from edgecompress.store import write_atomic\n"
        "path, number = pathlib.Path(sys.argv[1]), 0\n"
        "while True:\n"
        "    write_atomic(path, bytes([number % 251]) * 3_000_000)\n"
        "    number += 1\n"
        "    print(number, flush=True)\n"
    )
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.stdout.readline()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_a_folder_takes_anothers_place(tmp_path: Path) -> None:
    old, new = tmp_path / "bundle", tmp_path / "new"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "model").write_text(text)
    replace_folder(new, old)
    assert (old / "model").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_follower_reads_what_the_leader_made(tmp_path: Path) -> None:
    baker = Baker()
    cake, _ = bake(tmp_path, baker)

    def never(folder: Path) -> Cake:
        raise AssertionError

    follower = Store(tmp_path, lambda text: None, Crew(rank=1, size=2, agree=lambda value: True))
    assert follower.once(CODE, Cake, {}, never) == cake


def test_a_changed_template_is_another_room(tmp_path, monkeypatch):
    monkeypatch.setattr("edgecompress.store.__file__", str(tmp_path / "store.py"))
    (tmp_path / "room").mkdir()
    (tmp_path / "room/code.py").write_text("x = 1")
    before = room_digest.__wrapped__("room")
    (tmp_path / "room/App.kt.template").write_text("class App")
    assert room_digest.__wrapped__("room") != before
