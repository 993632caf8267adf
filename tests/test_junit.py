"""JUnit XML: the structure that Jenkins, GitLab and GitHub's actions read, whatever the words."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_report import ALL, failing, nothing, passing, undecided

from edgecompress.records import BudgetCheck, Report, Verdict
from edgecompress.report.fleet import Fleet, Refusal
from edgecompress.report.junit import junit_xml

REFUSED = Refusal("torn.onnx", "torn.onnx: refused as an ONNX model: it has no outputs", 2)
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"properties", "failure", "error", "system-out"},
    "properties": {"property"},
}
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"name", "classname", "time"},
    "property": {"name", "value"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
}


def parsed(*reports: Report, refusals: tuple[Refusal, ...] = ()) -> ElementTree.Element:
    """Return the document after holding it to JUnit's structure."""
    text = junit_xml(Fleet(reports, refusals))
    assert text.startswith(b"<?xml version='1.0' encoding='utf-8'?>\n")
    root = ElementTree.fromstring(text)
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        assert set(element.attrib) == ATTRIBUTES.get(element.tag, set())
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases)
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error"))
        total = sum(float(case.attrib["time"]) for case in cases)
        assert float(suite.attrib["time"]) == pytest.approx(total, abs=0.01)
    for count in ("tests", "failures", "errors"):
        assert int(root.attrib[count]) == sum(int(suite.attrib[count]) for suite in root)
    return root


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_report_has_a_suite_and_each_budget_a_case(name: str) -> None:
    report = ALL[name]()
    (suite,) = parsed(report)
    assert suite.attrib["name"] == f"{report.chosen or 'no model'} on {report.profile}"
    cases = suite.findall("testcase")
    assert [case.attrib["name"] for case in cases] == [c.budget for c in report.verdict.checks]
    for case, check in zip(cases, report.verdict.checks, strict=True):
        found = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        assert (found["unit"], found["basis"]) == (check.unit, check.basis)
        for figure in ("value", "limit", "low", "high"):
            known = getattr(check, figure)
            assert (figure in found) == (known is not None)
            assert known is None or float(found[figure]) == known


def test_what_is_exceeded_is_a_failure_and_what_is_open_an_error() -> None:
    failed, opened = parsed(failing(), undecided())
    (failure,) = failed.findall("testcase/failure")
    check = next(c for c in failing().verdict.checks if c.status == "fail")
    assert failure.attrib == {"message": check.reason, "type": "fail"}
    assert failure.text == check.reason
    errors = opened.findall("testcase/error")
    assert errors
    assert {error.attrib["type"] for error in errors} == {"inconclusive"}
    assert not opened.findall("testcase/skipped"), "a reader shows skipped as harmless"


def test_a_budget_that_is_met_says_why() -> None:
    (suite,) = parsed(passing())
    reasons = [case.findtext("system-out") for case in suite.findall("testcase")]
    assert reasons == [check.reason for check in passing().verdict.checks]
    facts = {p.attrib["name"]: p.attrib["value"] for p in suite.findall("properties/property")}
    assert facts["verdict"] == "pass"
    assert facts["sha256"] == passing().best.model.sha256  # type: ignore[union-attr]


def test_a_refused_file_is_an_error_of_its_own() -> None:
    for reports in ((), (passing(),)):
        root = parsed(*reports, refusals=(REFUSED,))
        suite = root[-1]
        assert suite.attrib["name"] == "torn.onnx"
        error = suite.find("testcase/error")
        assert error is not None
        assert error.attrib == {"message": REFUSED.reason, "type": "refused"}


def test_time_is_what_the_calls_took() -> None:
    measured, unmeasured = parsed(failing(), nothing())
    processes = failing().best.measurement.processes  # type: ignore[union-attr]
    seconds = sum(p.cold_start_ms + sum(p.wall_ms) for p in processes) / 1e3
    assert float(measured.attrib["time"]) == pytest.approx(seconds, abs=0.01)
    assert float(unmeasured.attrib["time"]) == 0


def test_profiles_that_rest_on_one_measurement_share_its_time() -> None:
    report = passing()
    alone, both = (
        float(ElementTree.fromstring(junit_xml(Fleet(reports))).attrib["time"])
        for reports in ((report,), (report, report))
    )
    assert both == pytest.approx(alone, abs=0.01)


def test_the_same_checks_give_the_same_bytes() -> None:
    fleet = Fleet((passing(), failing()), (REFUSED,))
    assert junit_xml(fleet) == junit_xml(Fleet((passing(), failing()), (REFUSED,)))


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_text_breaks_the_document(name: str, reason: str) -> None:
    check = BudgetCheck(name, reason, 1.0, 2.0, None, None, "fail", "exact", reason)
    report = replace(passing(), chosen=name, verdict=Verdict("fail", (check,), reason))
    root = parsed(report, refusals=(Refusal(name, reason, 2),))
    text = ElementTree.tostring(root, encoding="unicode")
    assert all(c.isprintable() or c in "\n " for c in text)
