"""Every wrong thing a user can give ends in one line, the right exit code, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecompress import runtime
from edgecompress.cli.main import main
from edgecompress.runtime import ModelFacts

GOOD_PROFILE = 'name = "mine"\n[device]\ndescription = "mine"\n[budget]\n'
RUN = ("run", "recipe.toml", "--profile", "cpu-1core")
CHECK = ("check", "model.onnx", "--profile", "cpu-1core")
MINE = ("check", "model.onnx", "--profile", "mine.toml")
DATA = (*CHECK, "--data", "data.npz")


def recipe(text: str | bytes) -> Callable[[Path], None]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: void((folder / "recipe.toml").write_bytes(data))


def profile(budget: str, head: str = GOOD_PROFILE) -> Callable[[Path], None]:
    return lambda folder: void((folder / "mine.toml").write_text(head + budget))


def nothing(folder: Path) -> None:
    """Leave the folder empty."""


def void(_: object) -> None:
    """Make an expression a statement."""


def linear(
    rows: int | str = "n", kind: int = TensorProto.FLOAT, weights: int = 3
) -> onnx.ModelProto:
    """Return a model that maps (rows, 4) to (rows, 3)."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "linear",
            [helper.make_tensor_value_info("x", kind, [rows, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 3])],
            [numpy_helper.from_array(np.ones((4, weights), np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def good_model(folder: Path) -> None:
    onnx.save(linear(), folder / "model.onnx")


def model(made: onnx.ModelProto | bytes) -> Callable[[Path], None]:
    data = made if isinstance(made, bytes) else made.SerializeToString()
    return lambda folder: void((folder / "model.onnx").write_bytes(data))


def external(location: str) -> Callable[[Path], None]:
    made = linear()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model(made)


def data(**arrays: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        good_model(folder)
        np.savez(folder / "data.npz", **{k: np.asarray(v) for k, v in arrays.items()})

    return make


def raw_data(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        good_model(folder)
        (folder / "data.npz").write_bytes(content)

    return make


def file_in_the_way(folder: Path) -> None:
    (folder / "out").write_text("precious")


def record(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "out").mkdir()
        (folder / "out" / "record.json").write_bytes(content)

    return make


X = np.zeros((8, 4), np.float32)
Y = np.zeros(8, np.int64)

RECIPES = {
    "recipe missing": (nothing, RUN, 2, "no such file, expected a recipe"),
    "recipe is a folder": (lambda f: (f / "recipe.toml").mkdir(), RUN, 2, "is a folder"),
    "recipe empty": (recipe(""), RUN, 2, "is empty"),
    "recipe only comments": (recipe("# nothing\n"), RUN, 2, "is empty"),
    "recipe not TOML": (recipe("task 'x'\n"), RUN, 2, "not TOML: "),
    "recipe is JSON": (recipe('{"task": "x"}'), RUN, 2, "line 1, column 1"),
    "recipe key twice": (recipe("seed = 1\nseed = 2\n"), RUN, 2, "line 2"),
    "recipe binary": (recipe(b"\x7fELF\x00\x01"), RUN, 2, "is no text file"),
    "recipe Latin-1": (recipe(b"# caf\xe9\nseed = 1"), RUN, 2, "byte 0xe9 at offset 5"),
    "recipe UTF-16": (recipe("seed = 1".encode("utf-16")), RUN, 2, "save the file as UTF-8"),
    "recipe nested too deeply": (recipe("a = " + "[" * 5000), RUN, 2, "nested too deeply"),
    "section misspelt": (recipe("[distil]\nepochs = 1\n"), RUN, 2, "did you mean 'distill'?"),
    "key misspelt": (recipe("[distill]\ntemprature = 1\n"), RUN, 2, "did you mean 'temperature'?"),
    "key in the wrong section": (recipe("[prune]\nkd_weight = 1\n"), RUN, 2, "it belongs in"),
    "key with a line break": (recipe('"a\\nb" = 1\n'), RUN, 2, "unknown key"),
    "number in quotes": (recipe('[distill]\nepochs = "9"\n'), RUN, 2, "without quotes"),
    "half an epoch": (recipe("[distill]\nepochs = 0.5\n"), RUN, 2, "expected a whole number"),
    "negative epochs": (recipe("[distill]\nepochs = -1\n"), RUN, 2, "given -1, expected"),
    "too many epochs": (recipe("[distill]\nepochs = 99999999999\n"), RUN, 2, "less than or equal"),
    "temperature zero": (recipe("[distill]\ntemperature = 0\n"), RUN, 2, "greater than 0"),
    "weight over one": (recipe("[distill]\nkd_weight = 1.5\n"), RUN, 2, "less than or equal to 1"),
    "ratio over one": (recipe("[prune]\npruning_ratio = 1.5\n"), RUN, 2, "less than 1"),
    "ratio not a number": (recipe("[prune]\npruning_ratio = nan\n"), RUN, 2, "finite number"),
    "ratio infinite": (recipe("[prune]\npruning_ratio = inf\n"), RUN, 2, "finite number"),
    "drop negative": (recipe("[accept]\nmax_drop = -0.1\n"), RUN, 2, "greater than or equal to 0"),
    "drop missing": (recipe("[accept]\n"), RUN, 2, "accept.max_drop: missing"),
    "section is a number": (recipe("prune = 3\n"), RUN, 2, "expected a section of keys"),
    "unknown optimizer": (recipe("[distill]\noptimizer = 'adam'\n"), RUN, 2, "mean 'adamw'?"),
    "redistill without prune": (recipe("[redistill]\n"), RUN, 2, "[redistill] without [prune]"),
    "task without function": (recipe("task = 'my_task.py'\n"), RUN, 2, "'file.py:function'"),
    "task file missing": (recipe("task = 'gone.py:task'\n"), RUN, 2, "task: no file"),
    "data missing": (recipe("data = 'gone.npz'\n"), RUN, 2, "data: no file or folder"),
}
SETS = {
    name: (nothing, ("run", "--profile", "cpu-1core", "--set", text), 2, wanted)
    for name, text, wanted in (
        ("set without value", "distill.epochs", "expected section.key=value"),
        ("set without key", "=3", "expected section.key=value"),
        ("set misspelt", "distill.epoch=3", "did you mean 'epochs'?"),
        ("set out of range", "prune.pruning_ratio=1.5", "expected less than 1"),
        ("set not finite", "prune.pruning_ratio=nan", "expected a finite number"),
        ("set below a value", "task.name=3", "'task' is a value"),
    )
}
PROFILES = {
    "profile unknown": (good_model, (*CHECK[:3], "andriod-cpu"), 2, "mean 'android-cpu'?"),
    "profile nothing like it": (good_model, (*CHECK[:3], "toaster"), 2, "expected one of android"),
    "profile missing": (good_model, MINE, 2, "no such file, expected a device profile"),
    "profile empty": (profile("", head=""), MINE, 2, "is empty, expected a device profile"),
    "profile not TOML": (profile("", head="name: x"), MINE, 2, "not TOML"),
    "profile without budget": (profile(""), MINE, 2, "no budget is set"),
    "profile without device": (profile("", head="name = 'x'\n"), MINE, 2, "device: missing"),
    "budget negative": (profile("latency_ms.p95 = -5"), MINE, 2, "given -5, expected greater"),
    "budget in seconds": (profile("latency_s.p95 = 1"), MINE, 2, "'latency_ms' (mind the unit)?"),
    "budget in GB": (profile("peak_memory_gb = 1"), MINE, 2, "'peak_memory_mb' (mind the unit)?"),
    "budget with unit": (profile('model_size_mb = "5 MB"'), MINE, 2, "without quotes or unit"),
    "budget without quantile": (profile("latency_ms = 50"), MINE, 2, "expected a quantile"),
    "budget of accuracy": (profile("accuracy = 0.9"), MINE, 2, "unknown key"),
    "budget not a number": (profile("latency_ms.p95 = nan"), MINE, 2, "expected a finite number"),
    "host predicted": (
        profile(
            "[budget]\nmodel_size_mb = 1\n[prediction]\nhost_ratio = 2\nsource = 'x'\n",
            head="name = 'x'\n[device]\ndescription = 'x'\nhost = true\n",
        ),
        MINE,
        2,
        "[prediction] with device.host = true",
    ),
}
USAGE = {
    "no command": (nothing, (), 2, "missing command; see 'edgecompress --help'"),
    "command misspelt": (nothing, ("chekc",), 2, "did you mean 'check'?"),
    "subcommand misspelt": (nothing, ("profiles", "lst"), 2, "did you mean 'list'?"),
    "option misspelt": (nothing, (*CHECK, "--jsn"), 2, "no such option: --jsn"),
    "no profile": (nothing, ("run",), 2, "missing option '--profile'"),
    "no model": (nothing, ("measure",), 2, "missing argument 'MODEL.onnx'"),
    "option without value": (nothing, ("run", "--profile"), 2, "requires an argument"),
    "threads zero": (
        nothing,
        ("measure", "m.onnx", "--threads", "0"),
        2,
        "given '0', expected a whole",
    ),
    "threads no number": (
        nothing,
        ("measure", "m.onnx", "--threads", "two"),
        2,
        "given 'two', expected",
    ),
    "time negative": (nothing, (*RUN, "--max-time", "-1"), 2, "given '-1', expected a number of"),
    "time not a number": (nothing, (*RUN, "--max-time", "nan"), 2, "given 'nan', expected"),
    "target unknown": (nothing, (*RUN, "--target", "usb:x"), 2, "--target usb:x: expected host"),
    "data and recipe": (
        good_model,
        (*DATA, "--recipe", "recipe.toml"),
        2,
        "--data and --recipe: both given",
    ),
    "compare one run": (nothing, ("compare", "out"), 2, "given one run folder, out, expected two"),
    "quantize another section": (
        data(x=X),
        ("quantize", "model.onnx", "--data", "data.npz", "--set", "prune.steps=1"),
        2,
        "--set prune: expected quantize.KEY=VALUE",
    ),
    "new profile of a shipped name": (nothing, ("profiles", "new", "ios-cpu"), 2, "ships with"),
    "new profile with a bad name": (nothing, ("profiles", "new", "a b"), 2, "expected letters"),
    "new profile of a file": (nothing, ("profiles", "new", "x", "--from", "y"), 2, "unknown prof"),
}
MODELS = {
    "model missing": (nothing, CHECK, 2, "no such file"),
    "model is a folder": (lambda f: (f / "model.onnx").mkdir(), CHECK, 2, "is a folder"),
    "model empty": (model(b""), CHECK, 2, "0 bytes are no ONNX file"),
    "model is text": (model(b"hello, world"), CHECK, 2, "refused as an ONNX model"),
    "model cut off": (model(linear().SerializeToString()[:60]), CHECK, 2, "refused as an ONNX"),
    "model contradicts itself": (model(linear(weights=5)), CHECK, 2, "refused as an ONNX model"),
    "model refers outside": (external("../../etc/passwd"), CHECK, 2, "refused as an ONNX model"),
    "model without its data": (external("weights.bin"), CHECK, 2, "refused as an ONNX model"),
    "shape of another input": (good_model, (*CHECK, "--shape", "z:1x4"), 2, "no input 'z'"),
    "shape without name": (good_model, (*CHECK, "--shape", "1x4"), 2, "expected NAME:1x3x224x224"),
    "shape does not fit": (good_model, (*CHECK, "--shape", "x:1x5"), 2, "the model expects x:"),
    "inputs missing": (good_model, (*CHECK, "--inputs", "gone.npz"), 2, "not a readable npz"),
    "batch of a fixed model": (
        model(linear(rows=1)),
        ("measure", "model.onnx", "--batch", "4"),
        2,
        "fixes its batch",
    ),
}
SAMPLES = {
    "data no npz": (raw_data(b"1,2,3\n"), DATA, 2, "not a readable npz file"),
    "data a pickle": (raw_data(b"\x80\x04N."), DATA, 2, "not a readable npz file"),
    "data without labels": (data(x=X), DATA, 2, "has no labels; expected an array 'labels'"),
    "data without input": (data(X=X, y=Y), DATA, 2, "has no array 'x'"),
    "data of another type": (data(x=X.astype("f8"), y=Y), DATA, 2, "got x: float64 8x4"),
    "data of another shape": (data(x=X[:, :3], y=Y), DATA, 2, "got x: float32 8x3"),
    "data without samples": (data(x=X[:0], y=Y[:0]), DATA, 2, "holds no samples"),
    "labels too few": (data(x=X, y=Y[:5]), DATA, 2, "expected one for each of 8"),
    "labels out of range": (data(x=X, y=Y + 7), DATA, 2, "sample 0 is 7, expected 0 to 2"),
    "labels negative": (data(x=X, y=Y - 100), DATA, 2, "sample 0 is -100, expected 0 to 2"),
    "labels are floats": (data(x=X, y=Y / 1), DATA, 2, "expected whole numbers of shape"),
    "labels one-hot": (data(x=X, y=np.eye(8, 3, dtype="i8")), DATA, 2, "expected whole numbers"),
    "data not finite": (data(x=X * np.nan, y=Y), DATA, 2, "sample 0 of 'x' is not finite"),
}
FOLDERS = {
    "run folder is a file": (file_in_the_way, (*RUN[:1], *RUN[2:], "--out", "out"), 4, "out"),
    "report of no run": (nothing, ("report", "out"), 2, "holds no record.json"),
    "report damaged": (record(b'{"report": {'), ("report", "out"), 2, "run again to remake it"),
    "report of another program": (record(b"[]"), ("report", "out"), 2, "run again to remake it"),
    "compare no runs": (nothing, ("compare", "out", "out"), 2, "holds no record.json"),
    "init over files": (recipe("seed = 1\n"), ("init",), 2, "recipe.toml: there already"),
    "init into a file": (file_in_the_way, ("init", "out"), 2, "out: is a file, expected a folder"),
    "new profile over a file": (
        profile("latency_ms.p95 = 1"),
        ("profiles", "new", "mine"),
        2,
        "mine.toml: there already; add --force",
    ),
}
CASES = RECIPES | SETS | PROFILES | USAGE | MODELS | SAMPLES | FOLDERS

ADMITTED: dict[bytes, ModelFacts] = {}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.fixture(autouse=True)
def _admit_each_content_once(monkeypatch):
    """Keep the child that admits a model from running once a case for the same good model."""

    def admit(path: Path) -> ModelFacts:
        content = path.read_bytes() if path.is_file() else b""
        if content not in ADMITTED:
            ADMITTED[content] = runtime.admit(path)
        return replace(ADMITTED[content], model=runtime.onnx_model(path))

    monkeypatch.setattr("edgecompress.cli.models.admit", admit)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_in_one_line(name, tmp_path, monkeypatch, capsys):
    make, arguments, code, wanted = CASES[name]
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    before = contents(tmp_path)
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith(("no recipe", "measuring"))]
    assert len(errors) == 1, err
    assert errors[0].startswith("error: ")
    assert wanted in errors[0]
    assert "Traceback" not in err
    assert out == ""
    assert contents(tmp_path) == before


def test_there_are_enough_cases():
    assert len(CASES) >= 60
