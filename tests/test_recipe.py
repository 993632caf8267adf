import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import RecipeError
from edgecompress.recipe import Recipe, load_recipe, recipe_schema


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_built_in_recipe_runs_every_stage():
    recipe = load_recipe(None)
    assert recipe.task == "digits"
    assert all(
        getattr(recipe, stage) is not None
        for stage in ("teacher", "distill", "prune", "redistill", "quantize", "measure", "accept")
    )


def test_task_and_data_are_found_beside_the_recipe(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("")
    (tmp_path / "points.npz").write_bytes(b"")
    recipe = load_recipe(write(tmp_path, 'task = "code/mine.py:task"\ndata = "points.npz"\n'))
    assert recipe.task == f"{tmp_path / 'code' / 'mine.py'}:task"
    assert recipe.data == tmp_path / "points.npz"


def test_an_absent_section_is_a_stage_that_does_not_run(tmp_path):
    recipe = load_recipe(write(tmp_path, "seed = 3\n"))
    assert (recipe.seed, recipe.distill, recipe.quantize) == (3, None, None)
    assert recipe.measure is not None


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("distill.epochs=5", 5),
        ("distill.learning_rate = 0.5", 0.5),
        ("distill.optimizer=sgd", "sgd"),
        ("distill.optimizer='sgd'", "sgd"),
        ("quantize.schemes=['static']", ("static",)),
        ("quantize.per_channel=false", False),
    ],
)
def test_set_takes_toml_values_and_bare_words(override, value):
    recipe = load_recipe(None, [override])
    section, _, key = override.partition("=")[0].strip().partition(".")
    assert getattr(getattr(recipe, section), key) == value


def test_the_last_set_wins_and_opens_a_section(tmp_path):
    path = write(tmp_path, "seed = 1\n")
    recipe = load_recipe(path, ["prune.steps=2", "prune.steps=3"])
    assert recipe.prune is not None and recipe.prune.steps == 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "is empty, expected a recipe; 'edgecompress init' writes one"),
        ("a = \n", "not TOML: Invalid value (at line 1, column 5)"),
        ("[distill]\nepochs = 3\nepochs = 4\n", "line 3"),
        ("[distil]\nepochs = 3\n", "distil: unknown section; did you mean 'distill'?"),
        ("[distill]\ntemprature = 3\n", "distill.temprature: unknown key; did you mean 'temp"),
        ("[prune]\ntemperature = 3\n", "it belongs in [distill] or [redistill]"),
        ("temperature = 3\n", "temperature: unknown key; it belongs in [distill] or [redistill]"),
        ("[prune]\nseed = 3\n", "prune.seed: unknown key; it belongs at the top"),
        ("[distill]\nxyz = 1\nabc = 2\n", "(and 1 more)"),
        ("[export]\nxyz = 1\n", "export.xyz: unknown key, expected one of opset, normalize, "),
        ('[distill]\nepochs = "5"\n', 'given "5", expected a whole number, without quotes'),
        ("[distill]\nepochs = 2.5\n", "given 2.5, expected a whole number"),
        ("[distill]\nepochs = true\n", "given true, expected a whole number"),
        ("[distill]\nepochs = -1\n", "given -1, expected greater than or equal to 1"),
        ("[distill]\ntemperature = 0\n", "given 0, expected greater than 0"),
        ("[distill]\nkd_weight = 90\n", "distill.kd_weight: given 90, expected less than or equal"),
        ("[distill]\noptimizer = 'adam'\n", "given \"adam\", expected 'adamw' or 'sgd'; did you"),
        ("[prune]\npruning_ratio = 1.5\n", "prune.pruning_ratio: given 1.5, expected less than 1"),
        ("[prune]\npruning_ratio = nan\n", "given NaN, expected a finite number"),
        ("[prune]\npruning_ratio = inf\n", "given Infinity, expected a finite number"),
        ("[prune]\nignore = 'head'\n", 'prune.ignore: given "head", expected a list in brackets'),
        ("prune = 0.5\n", "prune: given 0.5, expected a section of keys"),
        ("[[prune]]\nsteps = 1\n", "expected a section of keys"),
        ("[redistill]\n", "[redistill] without [prune]: there is nothing to recover from"),
        ("[accept]\n", "accept.max_drop: missing, expected largest loss against the teacher"),
        ("[accept]\nmax_dropp = 0.1\n", "accept.max_dropp: unknown key; did you mean 'max_drop'?"),
        ("[measure]\nprocesses = [5, 3]\n", "given [5, 3], expected numbers that rise"),
        ("[measure]\nprocesses = []\n", "measure.processes: given [], expected have at least 1"),
        (
            "[quantize]\nschemes = ['sttic']\n",
            """quantize.schemes: given ['sttic'], expected "auto" or a list of static, """,
        ),
        ("task = 'my_task'\n", "given 'my_task', expected 'file.py:function' or 'digits'"),
        ("task = 'digit'\n", "did you mean 'digits'?"),
        ("task = 'gone.py:task'\n", "task: no file '"),
        ("data = 'gone.npz'\n", "data: no file or folder '"),
        ("task = 1979-05-27\n", "given '1979-05-27'"),
        (b"\x7fELF\0\0", "is no text file, expected a recipe; give a TOML file in UTF-8"),
        (b"# caf\xe9\n", "byte 0xe9 at offset 5 is not UTF-8"),
        ("seed = 1".encode("utf-16"), "byte 0xff at offset 0 is not UTF-8"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"#" * 1_000_001, "is no text file"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path, text, wanted):
    path = write(tmp_path, text)
    message = refusal(path)
    assert wanted in message
    assert message.startswith(f"{path}: ")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    assert load_recipe(write(tmp_path, b"\xef\xbb\xbfseed = 4\r\n")).seed == 4


def test_a_missing_recipe_names_the_one_beside_it(tmp_path):
    write(tmp_path, "seed = 1\n")
    assert "no such file" in refusal(tmp_path / "recipee.toml")
    assert "did you mean 'recipe.toml'?" in refusal(tmp_path / "recipee.toml")
    assert "'edgecompress init' writes one" in refusal(tmp_path / "gone" / "recipe.toml")
    assert "is a folder, expected a recipe" in refusal(tmp_path)
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))


def test_a_missing_task_file_names_the_one_beside_the_recipe(tmp_path):
    (tmp_path / "my_task.py").write_text("")
    assert "did you mean 'my_task.py'?" in refusal(write(tmp_path, 'task = "my_tsk.py:task"\n'))


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("distill", "--set distill: expected section.key=value"),
        ("=3", "--set =3: expected section.key=value"),
        ("a..b=3", "expected section.key=value, for example distill.epochs=5"),
        ("task.x=3", "--set task.x=3: 'task' is a value, it has no keys inside"),
        ("distill.temprature=2", "with --set distill.temprature=2: distill.temprature: unknown"),
        ("prune.pruning_ratio=1.5", "prune.pruning_ratio: given 1.5, expected less than 1"),
        ("prune.pruning_ratio=nan", "expected a finite number"),
        ("seed=1\ntask='x'", "with --set seed=1 task='x': seed: given"),
    ],
)
def test_a_wrong_set_is_refused_in_one_line(override, wanted):
    assert wanted in refusal(None, override)


@given(st.text(max_size=40))
def test_any_set_is_taken_or_refused_in_one_line(text):
    try:
        load_recipe(None, [text])
    except RecipeError as refused:
        assert len(str(refused).splitlines()) <= 1


def test_settings_from_python_are_checked_too():
    with pytest.raises(ValueError, match="finite"):
        Recipe.model_validate({"distill": {"temperature": float("nan")}})


def test_the_schema_takes_the_built_in_recipe_and_describes_every_key():
    schema = recipe_schema()
    recipe = json.loads(load_recipe(None).model_dump_json(exclude_none=True))
    jsonschema.validate(recipe, schema)
    with pytest.raises(jsonschema.ValidationError, match="temprature"):
        jsonschema.validate({"distill": {"temprature": 3}}, schema)
    assert "null" not in json.dumps(schema)
    for model in schema["$defs"].values():
        assert all("description" in field for field in model["properties"].values())
