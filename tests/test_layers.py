"""The house stands as docs/architecture.md draws it: arrows point down, rooms stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgecompress"
LEVELS = (
    {"errors", "records", "statistics"},
    {
        "settings",
        "lessons",
        "quantization",
        "exports",
        "recipe",
        "profiles",
        "store",
        "runtime",
        "admission",
        "graphs",
        "bounds",
    },
    {"tasks", "teachers", "students"},
    {"distilling", "pruning", "exporting", "quantizing", "measuring", "verifying"},
    {"verdict", "baseline", "builtin", "estimator", "search"},
    {"pipeline"},
    {"report"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Files of the foundation that lean on one another, in this order.
FOUNDATION = (
    "settings",
    "lessons",
    "quantization",
    "exports",
    "recipe",
    "profiles",
    "store",
    "graphs",
    "admission",
    "runtime",
)
# Each third-party library lives in one room; most in one file of it.
OWNERS = {
    "accelerate": {"distilling/loop.py"},
    "filelock": {"store.py", "measuring/lock.py"},
    "jinja2": {"report/html.py"},
    "matplotlib": {"report/plots.py"},
    "PIL": {"tasks/loaders.py", "tasks/images.py"},
    "psutil": {"measuring/host.py", "cli/diagnosis.py"},
    "sklearn": {"builtin.py", "estimator.py"},
    "torch_pruning": {"pruning/graph.py", "pruning/importance.py"},
}
TORCHLESS = LEVELS[0] | LEVELS[1] | {"tasks", "measuring", "verifying", "verdict", "report"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def _imports(path: Path, top_level: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports at run time, not those for type checkers only."""
    tree = ast.parse(path.read_text())
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and top_level:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        pending.extend(ast.iter_child_nodes(node))


def _rooms_used(path: Path) -> set[str]:
    names = [n.split(".") for n in _imports(path) if n.startswith("edgecompress.")]
    return {parts[1] for parts in names} - {_room(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    for used in _rooms_used(path):
        if room in FOUNDATION and used in FOUNDATION:
            assert FOUNDATION.index(used) < FOUNDATION.index(room), f"{path} imports {used}"
        else:
            assert LEVEL[used] < LEVEL[room], f"{path} imports {used}"


def test_every_room_has_a_level() -> None:
    assert {_room(path) for path in SOURCES} - {"__init__"} == set(LEVEL)


def test_files_stay_small() -> None:
    root = PACKAGE.parent
    for path in (*SOURCES, *root.glob("tests/*.py"), *root.glob("benchmarks/**/*.py")):
        assert len(path.read_text().splitlines()) <= 400, path


def test_modules_of_a_room_form_no_circle() -> None:
    uses = {
        _dotted(path): {n for n in _imports(path) if n.startswith("edgecompress.")}
        for path in SOURCES
        if _room(path) != "__init__"
    }
    while uses:
        leaves = {name for name, used in uses.items() if not used & uses.keys() - {name}}
        assert leaves, f"circle among {sorted(uses)}"
        uses = {name: used for name, used in uses.items() if name not in leaves}


def _dotted(path: Path) -> str:
    return ".".join(("edgecompress", *path.relative_to(PACKAGE).with_suffix("").parts))


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_its_owner(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if any(name.split(".")[0] == library for name in _imports(path))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_that_need_no_torch_do_not_import_it(path: Path) -> None:
    if _room(path) in TORCHLESS:
        assert "torch" not in {name.split(".")[0] for name in _imports(path)}


def test_only_the_command_line_prints() -> None:
    for path in SOURCES:
        if _room(path) == "cli" or path.name in ("child.py", "admission.py"):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
        assert "print" not in names, path


def test_nothing_pickles() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "allow_pickle=True" not in text, path
        assert "pickle.load" not in text, path


def test_the_public_names_are_these() -> None:
    import edgecompress

    assert edgecompress.__all__ == [
        "__version__", "DistilledClassifier", "Evidence", "Metric", "Report", "Split", "Task",
        "compress", "distill", "export", "judge", "load_profile", "load_recipe", "measure",
        "onnx_model", "prune", "quantize", "write_report",
    ]  # fmt: skip
    for name in edgecompress.__all__:
        if name != "__version__":
            assert callable(getattr(edgecompress, name))
