"""`check` in a pipeline: a fleet in one answer, files and words for CI, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from command_line import document, quick_profile, result
from onnx import helper, numpy_helper
from sample_report import failing, passing, undecided
from tiny_models import save, save_mlp, value

from edgecompress.bounds import conclude
from edgecompress.cli.annotations import step_summary, workflow_commands
from edgecompress.cli.checking import Terms
from edgecompress.cli.main import main
from edgecompress.errors import ChildFailedError
from edgecompress.measuring import latency, lock
from edgecompress.measuring.targets.target import parse_target
from edgecompress.profiles import load_profile
from edgecompress.recipe import MeasureSettings
from edgecompress.records import OnnxModel
from edgecompress.report.document import report_schema
from edgecompress.report.fleet import Fleet, Refusal, deciding, fleet_json, headline, render_fleet

REFUSED = Refusal("torn.onnx", "torn.onnx: refused as an ONNX model: it has no outputs", 2)
MIXED = Fleet((passing(), failing(), undecided()), (REFUSED,))


@pytest.fixture
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch, measure_briefly: None) -> str:
    """Stand in a folder with models, outside of GitHub, with a profile that `model` fits."""
    monkeypatch.setattr(lock, "COMMON", folder)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return quick_profile(folder, "model_size_mb = 0.001")


# A fleet's answer


def test_a_fleet_is_a_table_and_then_what_did_not_pass() -> None:
    text = render_fleet(MIXED)
    lines = text.splitlines()
    assert lines[0] == "FAIL: of 3 checks 1 fails, 1 is open, 1 passes, 1 model refused"
    assert lines[2].split() == ["model", "profile", "verdict", "decided", "by", "limit", "value",
                                "interval", "how"]  # fmt: skip
    rows = [line.split()[:3] for line in lines[3:7]]
    assert [row[-1] for row in rows] == ["PASS", "FAIL", "INCONCLUSIVE", "REFUSED"]
    assert text.count("does not fit") == 1
    assert "is not decided" in text
    assert "\nPASS: " not in text
    assert text.endswith(
        "Refused, not judged:\n- torn.onnx: refused as an ONNX model: it has no outputs\n"
    )
    assert max(map(len, lines)) <= 102


@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        (Fleet((passing(), passing())), "PASS: of 2 checks all pass"),
        (Fleet((passing(), failing())), "FAIL: of 2 checks 1 fails, 1 passes"),
        (Fleet((undecided(), undecided())), "INCONCLUSIVE: of 2 checks all are open"),
        (Fleet((passing(),), (REFUSED,)), "INCONCLUSIVE: 1 passes, 1 model refused"),
        (Fleet((), (REFUSED, REFUSED)), "INCONCLUSIVE: 2 models refused"),
    ],
)
def test_the_overall_verdict_in_one_line(fleet: Fleet, words: str) -> None:
    assert headline(fleet) == words


def test_the_budget_that_decides_is_the_nearest_to_its_limit_or_farthest_beyond() -> None:
    checks = passing().verdict.checks
    near, far = (replace(checks[0], limit=10.0, value=v) for v in (9.0, 1.0))
    for status, expected in (("pass", near), ("fail", near)):
        both = tuple(replace(c, status=status) for c in (far, near))
        verdict = replace(passing().verdict, status=status, checks=both)
        assert deciding(replace(passing(), verdict=verdict)).value == expected.value
    unknown = replace(near, status="inconclusive", value=None)
    verdict = replace(passing().verdict, status="inconclusive", checks=(near, unknown))
    assert deciding(replace(passing(), verdict=verdict)) == unknown


def test_the_document_names_what_was_refused() -> None:
    found = fleet_json(MIXED)
    jsonschema.validate(found, report_schema())
    assert found["verdict"] == "fail"
    assert found["refused"] == [{"model": "torn.onnx", "reason": REFUSED.reason, "exit_code": 2}]
    assert fleet_json(Fleet((passing(),), (REFUSED,)))["verdict"] == "inconclusive"
    assert "refused" not in fleet_json(Fleet((passing(), passing())))
    assert "reports" not in fleet_json(Fleet((passing(),)))


def test_several_checks_for_people(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "model.onnx", "large.onnx", "--profile", quick]
    assert main([*arguments, "--profile", "android-cpu"]) == 1
    lines = result(capsys).splitlines()
    assert lines[0].startswith("FAIL: of 4 checks 1 fails, ")
    assert sum(line.startswith(("  model ", "  large ")) for line in lines[3:7]) == 4


# Bad models


def test_all_models_refused(folder: Path, quick: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("torn", "text"):
        Path(f"{name}.onnx").write_bytes(name.encode())
    command = ["check", "torn.onnx", "text.onnx", "--profile", quick, "--junit", "out/j.xml"]
    assert main([*command, "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    jsonschema.validate(found, report_schema())
    assert (found["verdict"], found["reports"]) == ("inconclusive", [])
    assert [r["model"] for r in found["refused"]] == ["torn.onnx", "text.onnx"]
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["error", "torn.onnx"],
        ["error", "text.onnx"],
    ]
    root = ElementTree.parse("out/j.xml").getroot()
    assert (root.attrib["tests"], root.attrib["errors"]) == ("2", "2")


def test_one_model_refused_is_one_line_and_its_junit_file(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("torn.onnx").write_bytes(b"torn")
    assert main(["check", "torn.onnx", "--profile", quick, "--junit", "j.xml"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert b'type="refused"' in Path("j.xml").read_bytes()


def _broken(path: Path) -> Path:
    """Write a model that loads, but cannot reshape what it gets."""
    shape = numpy_helper.from_array(np.array([7]), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph([node], "broken", [value("x", "n")], [value("y", "m")], [shape])
    return save(graph, path)


def test_a_model_that_does_not_run_leaves_the_others_judged(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _broken(folder / "broken.onnx")
    assert main(["check", "broken.onnx", "model.onnx", "--profile", quick, "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [r["chosen"] for r in found["reports"]] == ["model"]
    assert found["refused"][0]["model"].endswith("broken.onnx")
    assert "broken.onnx: does not run: " in found["refused"][0]["reason"]
    assert err.count("error: ") == 1


def test_a_model_that_the_data_cannot_score_leaves_the_others_judged(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_mlp(folder / "wide.onnx", width=9)
    np.savez("data.npz", x=np.eye(8, dtype=np.float32), labels=np.arange(8))
    command = ["check", "wide.onnx", "model.onnx", "--profile", quick, "--data", "data.npz"]
    assert main([*command, "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [r["chosen"] for r in found["reports"]] == ["model"]
    assert [r["model"].rpartition("/")[2] for r in found["refused"]] == ["wide.onnx"]
    assert err.startswith("error: --data data.npz: ")
    assert len(err.splitlines()) == 1


def test_two_profiles_of_one_name_cannot_be_told_apart(
    folder: Path, quick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(quick).read_text()
    Path("same.toml").write_text(text)
    Path("other.toml").write_text(text.replace("0.001", "0.002"))
    command = ["check", "model.onnx", "--profile", quick, "--profile", "same.toml", "--json"]
    assert main(command) == 0
    assert document(capsys)["profile"] == "quick"  # it is the same: one check
    assert main([*command, "--profile", "other.toml"]) == 2
    assert capsys.readouterr().err == (
        "error: --profile other.toml: is another profile of the name 'quick'; change its name, for "
        "answers are told apart by it\n"
    )


def test_a_reason_is_told_once() -> None:
    checks = (*failing().verdict.checks, *undecided().verdict.checks)
    report = replace(failing(), verdict=conclude(checks))
    text = " ".join(render_fleet(Fleet((report,))).split())
    reasons = {c.status: c.reason for c in checks}
    assert [text.count(reasons[status]) for status in ("fail", "inconclusive")] == [1, 1]


@pytest.mark.parametrize(
    ("failed", "budget", "code"),
    [
        ("large", "model_size_mb = 0.0001", 4),
        ("none", "model_size_mb = 0.0001", 1),
        ("none", "model_size_mb = 1", 0),
    ],
)
def test_the_gravest_code_wins(
    folder: Path, quick: str, monkeypatch: pytest.MonkeyPatch, failed: str, budget: str, code: int
) -> None:
    real: Callable[..., dict] = latency._run_child

    def run(model: OnnxModel, request: object) -> dict:
        if model.path.stem == failed:
            raise ChildFailedError(f"{model.path}: the measuring process died")
        return real(model, request)

    monkeypatch.setattr(latency, "_run_child", run)
    profile = quick_profile(folder, budget)
    assert main(["check", "model.onnx", "large.onnx", "--profile", profile]) == code
    if code == 4:
        Path("torn.onnx").write_bytes(b"torn")
        assert main(["check", "torn.onnx", "model.onnx", "large.onnx", "--profile", profile]) == 2


# JUnit


@pytest.mark.parametrize(("limit", "code", "failures"), [("1", 0, "0"), ("0.0001", 1, "1")])
def test_junit_is_written_whatever_the_verdict(
    folder: Path,
    quick: str,
    capsys: pytest.CaptureFixture[str],
    limit: str,
    code: int,
    failures: str,
) -> None:
    profile = quick_profile(folder, f"model_size_mb = {limit}")
    command = ["check", "model.onnx", "--profile", profile, "--junit", "reports/j.xml", "--json"]
    assert main(command) == code
    assert document(capsys)["chosen"] == "model"
    root = ElementTree.parse("reports/j.xml").getroot()
    assert (root.tag, root.attrib["failures"]) == ("testsuites", failures)
    assert [p.name for p in Path("reports").iterdir()] == ["j.xml"], "nothing else is left there"


def test_an_earlier_junit_file_is_no_answer(folder: Path, quick: str) -> None:
    Path("j.xml").write_text("<testsuites/>")
    command = ["check", "model.onnx", "--profile", quick, "--junit", "j.xml"]
    assert main([*command, "--data", "absent.npz"]) == 2
    assert not Path("j.xml").exists()


def test_one_measurement_serves_one_cluster_of_a_device() -> None:
    phone = parse_target("adb")
    fast, slow = load_profile("android-cpu"), load_profile("android-low")
    assert Terms(MeasureSettings()).place(fast) == Terms(MeasureSettings()).place(slow)
    there = Terms(MeasureSettings(), target=phone)
    assert there.place(fast) != there.place(slow)


def test_junit_into_a_folder(folder: Path, quick: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "model.onnx", "--profile", quick, "--junit", "."]) == 2
    assert capsys.readouterr().err == ("error: --junit .: is a folder, expected a file to write\n")


# GitHub


def test_what_did_not_pass_is_annotated() -> None:
    lines = list(workflow_commands(MIXED))
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::error"]
    name = f"{failing().chosen} does not fit {failing().profile}"
    assert lines[0].startswith(f"::error title=FAIL%3A {name}::")
    assert lines[2] == (
        "::error title=REFUSED%3A torn.onnx::torn.onnx: refused as an ONNX model: it has no outputs"
    )


def test_all_passing_is_one_notice() -> None:
    (line,) = workflow_commands(Fleet((passing(), passing())))
    assert line.startswith("::notice title=PASS%3A of 2 checks all pass::")
    (line,) = workflow_commands(Fleet((passing(),)))
    assert line.startswith(f"::notice title=PASS%3A {passing().chosen} fits ")


def test_no_name_or_reason_ends_an_annotation_early() -> None:
    odd = "a%b\r\n::error::c,d:e"
    report = replace(failing(), chosen=odd, verdict=replace(failing().verdict, reason=odd))
    (line,) = workflow_commands(Fleet((report,)))
    assert "\n" not in line
    assert "\r" not in line
    title, _, message = line.removeprefix("::error title=").partition("::")
    assert message == "a%25b%0D%0A::error::c,d:e"
    assert not {":", ","} & set(title)
    assert "a%25b%0D%0A%3A%3Aerror%3A%3Ac%2Cd%3Ae" in title


def test_the_summary_is_markdown() -> None:
    text = step_summary(MIXED)
    assert text.startswith("### edgecompress: FAIL: of 3 checks 1 fails, 1 is open, 1 passes, ")
    assert "| model | profile | verdict | decided by |" in text
    assert text.endswith("- torn.onnx: refused as an ONNX model: it has no outputs")


def test_nothing_of_it_outside_of_github(
    folder: Path, quick: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    assert main(["check", "large.onnx", "--profile", quick]) == 1
    out, err = capsys.readouterr()
    assert "::" not in out + err
    assert not (folder / "summary.md").exists()


def test_in_github_stdout_still_carries_the_result_alone(
    folder: Path, quick: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    (folder / "summary.md").write_text("before\n")
    assert main(["check", "large.onnx", "--profile", quick, "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "fail"
    assert err.startswith("::error title=FAIL%3A large does not fit quick::over budget: ")
    summary = (folder / "summary.md").read_text()
    assert summary.startswith("before\n### edgecompress: FAIL: 1 fails\n")


def test_a_summary_that_cannot_be_written_changes_no_answer(
    folder: Path, quick: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder))
    assert main(["check", "model.onnx", "--profile", quick]) == 0
    err = capsys.readouterr().err
    assert f"warning: GITHUB_STEP_SUMMARY={folder}: cannot be written (Is a directory)" in err
