"""A task out of the user's file, and how a changed one is told from an unchanged one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from edgecompress.errors import DataError, InputError, TaskError
from edgecompress.tasks.checks import check_task
from edgecompress.tasks.load import load_task, local_modules, task_file, task_fingerprint
from edgecompress.tasks.task import ACCURACY, Metric, Split, Task

TASK = """
    import numpy as np
    from edgecompress import Split, Task

    def make(files=()):
        x = np.arange(12, dtype=np.float32).reshape(6, 2)
        split = Split({"x": x}, np.arange(6) % 2, tuple(files))
        return Task("toy", split, split, split, teacher=teacher, student=student)

    def teacher():
        return "a teacher"

    def student():
        return "a student"

    def task():
        return make()
"""


def write(folder: Path, more: str = "", name: str = "my_task.py", text: str = TASK) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(dedent(text) + dedent(more), encoding="utf-8")
    return path


def refused(spec: str, base: Path, data: Path | None = None) -> str:
    with pytest.raises(InputError) as refusal:
        load_task(spec, base, data).student()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_task_comes_out_of_the_users_file(tmp_path: Path) -> None:
    write(tmp_path)
    path_before = list(sys.path)
    task = load_task("my_task.py:task", tmp_path)
    assert task.name == "toy"
    assert (task.teacher(), task.student()) == ("a teacher", "a student")
    assert sys.path == path_before


def test_task_is_handed_its_data(tmp_path: Path) -> None:
    more = """
        def with_data(data):
            return make([data])

        def with_default(data=None):
            return make([data] if data else [])
    """
    write(tmp_path, more)
    data = tmp_path / "data.npz"
    data.touch()
    assert load_task("my_task.py:with_data", tmp_path, data).train.files == (data,)
    assert load_task("my_task.py:with_default", tmp_path, data).train.files == (data,)
    assert load_task("my_task.py:with_default", tmp_path).train.files == ()
    assert refused("my_task.py:with_data", tmp_path) == (
        "task 'my_task.py:with_data': needs the path of its data; add data = \"...\" to the "
        "recipe, or --set data=PATH"
    )
    assert "no such file or folder; it is `data` in the recipe" in refused(
        "my_task.py:with_data", tmp_path, tmp_path / "no.npz"
    )
    assert "takes no argument, but the recipe gives data = " in refused(
        "my_task.py:task", tmp_path, data
    )


@pytest.mark.parametrize("spec", ["my_task.py", "my_task:task", ":task", "my_task.py:", "a.py:b c"])
def test_task_in_another_form_is_refused(tmp_path: Path, spec: str) -> None:
    write(tmp_path)
    assert refused(spec, tmp_path) == (
        f'task {spec!r}: expected file.py:function, e.g. task = "my_task.py:task"'
    )


def test_missing_file_and_function_name_the_near_miss(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert refused("my_taks.py:task", tmp_path) == (
        f"task 'my_taks.py:task': no file {tmp_path / 'my_taks.py'}; did you mean 'my_task.py'?"
    )
    assert "no file" in refused("no/my_task.py:task", tmp_path)
    assert refused("my_task.py:taks", tmp_path) == (
        f"task 'my_task.py:taks': {path} has no function 'taks'; did you mean 'task'?"
    )


FAILURES = {
    "a raise": (
        "def bad():\n    x = 1\n    raise KeyError('pixels')\n",
        "line 3: KeyError: 'pixels'",
    ),
    "a missing import": (
        "def bad():\n    import no_such_module\n",
        "line 2: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "a syntax error": ("def bad():\n    return (\n", "line 2: SyntaxError: '(' was never closed"),
    "an exit": ("import sys\ndef bad():\n    sys.exit(0)\n", "line 3: SystemExit: 0"),
    "a long message": (
        "def bad():\n    raise ValueError('a\\nb ' * 200)\n",
        "line 2: ValueError: a b a b",
    ),
    "deep in numpy": (
        "import numpy as np\ndef bad():\n    return np.zeros(3).reshape(2, 2)\n",
        "line 3: ValueError: cannot reshape array of size 3 into shape (2,2)",
    ),
    "nothing returned": (
        "def bad():\n    pass\n",
        "returned type NoneType; expected edgecompress.Task(...)",
    ),
    "two arguments": (
        "def bad(data, size):\n    pass\n",
        "takes 2 arguments (data, size); expected none, or one: the data's path",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failing_task_is_one_line(tmp_path: Path, name: str) -> None:
    text, words = FAILURES[name]
    path = write(tmp_path, text=text)
    message = refused("my_task.py:bad", tmp_path)
    assert message.startswith("task 'my_task.py:bad': ")
    assert words in message
    if words.startswith("line"):
        assert f"{path}, {words}" in message


def test_failing_student_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace('return "a student"', "return 1 / 0"))
    message = refused("my_task.py:task", tmp_path)
    assert f"task 'my_task.py:task', student: {path}, line 14: ZeroDivisionError" in message


def test_module_for_its_maker_is_seen_through_the_loading(tmp_path: Path) -> None:
    more = """
        from dataclasses import replace

        def wrong():
            return replace(make(), teacher="teacher.onnx")
    """
    write(tmp_path, more)
    with pytest.raises(TaskError, match="task 'toy': teacher has type str; expected a function"):
        check_task(load_task("my_task.py:wrong", tmp_path))


def test_what_a_loader_refuses_comes_through_as_it_is(tmp_path: Path) -> None:
    more = """
        from edgecompress.tasks.loaders import from_npz

        def absent():
            return from_npz("no.npz", ["x"])
    """
    write(tmp_path, more)
    assert refused("my_task.py:absent", tmp_path) == "data no.npz: no such file"


def test_neighbours_are_importable_and_read_afresh(tmp_path: Path) -> None:
    text = """
        def student():
            import toy_nets
            return toy_nets.ANSWER

        def early():
            return make()

        import toy_nets
    """
    for folder, answer in (("one", 1), ("two", 2)):
        write(tmp_path / folder, text)
        write(tmp_path / folder, name="toy_nets.py", text=f"ANSWER = {answer}\n")
        task = load_task("my_task.py:early", tmp_path / folder)
        assert task.student() == answer
    write(tmp_path / "two", name="toy_nets.py", text="ANSWER = 33\n")
    assert load_task("my_task.py:early", tmp_path / "two").student() == 33
    assert str(tmp_path / "two") not in sys.path


def test_loading_does_not_import_torch(tmp_path: Path) -> None:
    write(tmp_path)
    code = dedent("""
        import sys
        from pathlib import Path
        from edgecompress.tasks.checks import check_task
        from edgecompress.tasks.load import load_task
        load_task("my_task.py:task", Path(sys.argv[1]))
        assert "torch" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_local_modules_are_found_through_one_another_and_inside_functions(tmp_path: Path) -> None:
    file = write(tmp_path, "import first, os\n\ndef late():\n    from pack.nets import net\n")
    write(tmp_path, name="first.py", text="import second\nfrom numpy import zeros\n")
    write(tmp_path, name="second.py", text="import first\nimport my_task\n")
    write(tmp_path, name="unused.py", text="")
    write(tmp_path / "pack", name="__init__.py", text="")
    write(tmp_path / "pack", name="nets.py", text="import third\n")
    write(tmp_path, name="third.py", text="this is no Python\n")
    found = [str(path.relative_to(tmp_path)) for path in local_modules(file)]
    assert found == ["first.py", "pack/__init__.py", "pack/nets.py", "second.py", "third.py"]


def toy(tmp_path: Path, *files: Path) -> tuple[Task, Path]:
    file = write(tmp_path, "import helper\n")
    write(tmp_path, name="helper.py", text="A = 1\n")
    task = load_task("my_task.py:task", tmp_path)
    return replace(task, train=replace(task.train, files=files)), file


def test_fingerprint_changes_with_whatever_changes(tmp_path: Path) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"pixels")
    task, file = toy(tmp_path, data)
    before = task_fingerprint(task, file)
    assert before == task_fingerprint(task, file)
    assert set(before) == {
        "code my_task.py",
        "code helper.py",
        "data train",
        "data validation",
        "data test",
        "class names",
        "metric",
    }

    def changed(other: Task) -> set[str]:
        after = task_fingerprint(other, file)
        return {name for name in {*before, *after} if before.get(name) != after.get(name)}

    assert changed(replace(task, class_names=("a", "b"))) == {"class names"}
    assert changed(replace(task, metric=Metric("own", ACCURACY.per_sample))) == {"metric"}
    assert changed(replace(task, unlabelled=task.test)) == {"data unlabelled"}
    fewer = Split(task.test.inputs, 1 - task.test.labels)
    assert changed(replace(task, test=fewer)) == {"data test"}
    renamed = Split({"z": task.test.inputs["x"]}, task.test.labels)
    assert changed(replace(task, validation=renamed)) == {"data validation"}
    data.write_bytes(b"PIXELS")
    assert changed(task) == {"data train"}
    data.write_bytes(b"pixels")
    write(tmp_path, name="helper.py", text="A = 2\n")
    assert changed(task) == {"code helper.py"}
    assert "code my_task.py" not in task_fingerprint(task, None)


def test_data_digests_are_kept_by_size_and_time(tmp_path: Path) -> None:
    data, memo = tmp_path / "data.bin", tmp_path / "run" / "digests.json"
    data.write_bytes(b"pixels")
    os.utime(data, ns=(10**18, 10**18))
    task, file = toy(tmp_path, data)
    first = task_fingerprint(task, file, memo)
    (facts,) = json.loads(memo.read_text()).values()
    assert facts[:2] == [6, 10**18]
    data.write_bytes(b"PIXELS")  # unseen: same size and, by hand, the same time
    os.utime(data, ns=(10**18, 10**18))
    assert task_fingerprint(task, file, memo) == first
    os.utime(data, ns=(10**18, 10**18 + 1))
    assert task_fingerprint(task, file, memo) != first


@pytest.mark.parametrize("content", ["", "torn {", "[1]", '{"a": 1}'])
def test_damaged_memo_is_forgotten(tmp_path: Path, content: str) -> None:
    data, memo = tmp_path / "data.bin", tmp_path / "digests.json"
    data.write_bytes(b"pixels")
    memo.write_text(content)
    task, file = toy(tmp_path, data)
    assert task_fingerprint(task, file, memo) == task_fingerprint(task, file)


def test_file_that_was_just_written_is_not_kept(tmp_path: Path) -> None:
    data, memo = tmp_path / "data.bin", tmp_path / "digests.json"
    data.write_bytes(b"pixels")
    task, file = toy(tmp_path, data)
    task_fingerprint(task, file, memo)
    assert not memo.exists()


def test_data_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    task, file = toy(tmp_path, tmp_path / "gone.npz")
    with pytest.raises(DataError) as refusal:
        task_fingerprint(task, file)
    assert "gone.npz: cannot be read: No such file or directory; Split.files must name" in str(
        refusal.value
    )


def test_spec_gives_an_absolute_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    assert task_file("a/my_task.py:task", tmp_path) == (path, "task")
    assert task_file(f"{path}:task", Path()) == (path, "task")


SIX = Split({"x": np.arange(6, dtype=np.float32)[:, None]}, np.arange(6) % 2)


TINY = Task("tiny", SIX, SIX, SIX, teacher=object, student=object, class_names=("even", "odd"))


def test_another_augmentation_is_another_task_also_without_a_file() -> None:
    def mirror(batch, generator):
        return {name: tensor.flip(-1) for name, tensor in batch.items()}

    def leave(batch, generator):
        return dict(batch)

    mirrored, left = (replace(TINY, augment=augment) for augment in (mirror, leave))
    assert task_fingerprint(mirrored, None) != task_fingerprint(left, None)
    assert task_fingerprint(left, None) == task_fingerprint(replace(left), None)
