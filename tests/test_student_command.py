"""The students command: its table, its JSON, its plot, its exit codes, its refusals."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from command_line import quick_profile

from edgecompress.cli.main import main
from edgecompress.report.document import report_schema

ASKED = ["students", "--profile", "quick.toml"]
IMAGE = [*ASKED, "--input", "1x12x12", "--classes", "3"]

pytestmark = pytest.mark.usefixtures("measure_briefly")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_students_are_listed_with_what_they_cost(place, capsys):
    quick_profile(place, "latency_ms.p95 = 1e5\npeak_memory_mb = 1e5\nmodel_size_mb = 1e5")
    table = [*ASKED, "--input", "6", "--classes", "3"]
    assert main([*table, "--limit", "2", "--plot", "drawn.svg"]) == 0
    out = capsys.readouterr().out
    head, *rows = out.splitlines()
    assert re.split(r"  +", head) == [
        *("student", "parameters", "MACs", "file", "latency_ms.p95", "between", "basis"),
        *("size", "memory", "fits", "why"),
    ]
    shown = r"tabular_net-w0.25-d0.5 +\d{3} +[\d.]+ M  (fp32|int8-\w+) .* measured .* yes"
    assert re.fullmatch(shown, rows[0])
    assert rows[1].startswith("tabular_net-w16-d3 ")
    assert rows[-1] == "2 of 2 students fit"
    drawn = (place / "drawn.svg").read_text()
    assert "latency_ms.p95 before training, ms" in drawn
    assert "var(--" not in drawn
    assert "mathdefault" not in drawn


def test_without_a_size_that_fits_nothing_is_measured(place, capsys):
    quick_profile(place, "model_size_mb = 1e-4")
    assert main([*IMAGE, "--limit", "1", "--json", "--plot", "drawn.svg"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    (student,) = found.pop("students")
    assert found == {
        "schema_version": 1,
        "profile": "quick",
        "modality": "image",
        "inputs": {"x": [1, 12, 12]},
        "outputs": 3,
        "vocabularies": [],
        "fitting": 0,
    }
    schema = report_schema()
    jsonschema.validate(student, {"$ref": "#/$defs/offer", "$defs": schema["$defs"]})
    assert (student["verdict"], student["latency_ms"]) == ("fail", None)
    assert err == "warning: drawn.svg: not drawn, for no student's time is known\n"
    assert not (place / "drawn.svg").exists()


def test_what_cannot_be_told_ends_in_3(place, capsys):
    quick_profile(place, "latency_ms.p95 = 1", host=False)  # neither here nor predicted
    asked = [*ASKED, "--input", "4", "--classes", "2", "--vocabulary", "3", "--limit", "1"]
    assert main(asked) == 3
    row = capsys.readouterr().out.splitlines()[1]
    assert row.startswith("tabular_net-w0.25-d0.5 ")
    assert row.endswith("not decided  latency_ms.p95 not known")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "1x2x3x4"], "--input 1x2x3x4: expected the sizes of one sample without the"),
        (["--input", "0x2"], "--input 0x2: expected the sizes of one sample"),
        (["--input", "3x9999x9999"], "--input 3x9999x9999: 299,940,003 values, expected at most "),
        (["--input", "3", "--modality", "image"], "--modality image: given --input 3, but such an"),
        (["--input", "3", "--modality", "words"], "--modality words: expected image, signal, "),
        (["--input", "1x8x8", "--vocabulary", "9"], "--vocabulary: given for image inputs, which"),
        (
            ["--input", "9", "--modality", "text", "--vocabulary", "9", "--vocabulary", "8"],
            "--vocabulary: given more than once; a text has one",
        ),
        (["--input", "1x8x8", "--plot", "no/drawn.svg"], "--plot no/drawn.svg: expected a file "),
        (["--input", "1x8x8", "--plot", "drawn.png"], "--plot drawn.png: expected a file "),
        (["--input", "1x8x8", "--limit", "0"], "invalid value for '--limit': given '0', expected"),
    ],
)
def test_bad_options_are_refused_in_one_line(place, capsys, options, words):
    quick_profile(place, "latency_ms.p95 = 1e5")
    assert main([*ASKED, "--classes", "3", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words}")
