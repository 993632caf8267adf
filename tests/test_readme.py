"""What the README shows is what there is: its recipe, profile, Python, commands and links."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from edgecompress.cli.main import app
from edgecompress.profiles import load_profile
from edgecompress.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")])
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def block(language: str, word: str) -> str:
    return next(text for kind, text in BLOCKS if kind == language and word in text)


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text("def task(): ...")
    path = tmp_path / "recipe.toml"
    path.write_text(block("toml", "[distill]"))
    recipe = load_recipe(path)
    assert recipe.accept is not None
    assert len(path.read_text().splitlines()) <= 25


def test_the_profile_is_one(tmp_path: Path) -> None:
    path = tmp_path / "my-phone.toml"
    path.write_text(block("toml", "[budget]"))
    assert load_profile(str(path)).budget.latency_ms.p95 == 30


def test_the_python_makes_a_task() -> None:
    names: dict[str, object] = {"load_my_teacher": None}
    exec(block("python", "def task"), names)
    assert callable(names["task"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_takes_its_options(page: Path) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"edgecompress (\w[^`\n|]*)", "\n".join(_commands(text))):
        words = shlex.split(line.split("#")[0])
        command = known[words[0]]
        if words[0] == "profiles":
            command = command.commands[words[1]]
        options = {option for p in command.params for option in p.opts}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in options | {"--debug"}, f"{page}: {line}"


def _commands(text: str) -> list[str]:
    blocks = [body for _, body in re.findall(r"```(\w*)\n(.*?)```", text, re.S)]
    lines = [line for body in blocks for line in body.splitlines()]
    return [line for line in lines if re.match(r"(pip .*&& )?edgecompress [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page}: {target}"
