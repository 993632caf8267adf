"""Show checks as JUnit XML, for the test reports of Jenkins, GitLab and GitHub's actions.

A suite is a model on a profile, a case is a budget. A budget that is exceeded is a `failure`. One
that is INCONCLUSIVE is an `error`, JUnit's word for a test that could not come to a result: a
reader shows `skipped` as harmless, and what is not known to fit must not look as if it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from xml.etree import ElementTree

from edgecompress.records import BudgetCheck, Measurement, Report
from edgecompress.report import words
from edgecompress.report.fleet import Fleet, Refusal

MEASURED = ("measured", "on-device", "host", "predicted")  # these rest on measured time
Element = ElementTree.Element


def junit_xml(fleet: Fleet) -> bytes:
    """Return the document: the same bytes for the same checks.

    `time` is the seconds that the model's calls took in all, shared alike among the suites and
    cases that rest on them; nothing in it is the judged latency, which stands in the properties.
    """
    root = Element("testsuites", name="edgecompress check")
    suites = Counter(id(_measurement(report)) for report in fleet.reports)
    root.extend(_suite(report, suites[id(_measurement(report))]) for report in fleet.reports)
    root.extend(_refused(refusal) for refusal in fleet.refusals)
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.attrib[count]) for suite in root)))
    root.set("time", _seconds(sum(float(suite.attrib["time"]) for suite in root)))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _suite(report: Report, sharing: int) -> Element:
    checks = report.verdict.checks
    model = report.chosen or "no model"
    name = f"{model} on {report.profile}"
    timed = sum(check.basis in MEASURED for check in checks)
    each = _measured_seconds(report) / sharing / max(1, timed)
    suite = _counted(name, [_case(check, name, each) for check in checks])
    best = report.best
    facts = {
        "model": model,
        "profile": report.profile,
        "verdict": report.verdict.status,
        **({"sha256": best.model.sha256} if best else {}),
        **report.environment,
    }
    suite.insert(0, _properties(facts))
    return suite


def _case(check: BudgetCheck, suite: str, seconds: float) -> Element:
    time = seconds if check.basis in MEASURED else 0.0
    case = _named_case(check.budget, suite, time)
    figures = {name: getattr(check, name) for name in ("value", "limit", "low", "high")}
    known = {name: repr(float(figure)) for name, figure in figures.items() if figure is not None}
    case.append(_properties({**known, "unit": check.unit, "basis": check.basis}))
    if check.status == "pass":
        ElementTree.SubElement(case, "system-out").text = words.clean(check.reason)
    else:
        _problem(case, "failure" if check.status == "fail" else "error", check.status, check.reason)
    return case


def _refused(refusal: Refusal) -> Element:
    case = _named_case("can be judged", refusal.model, 0.0)
    _problem(case, "error", "refused", refusal.reason)
    return _counted(refusal.model, [case])


def _counted(name: str, cases: list[Element]) -> Element:
    suite = Element("testsuite", name=words.clean(name), tests=str(len(cases)))
    for count, tag in (("failures", "failure"), ("errors", "error")):
        suite.set(count, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("skipped", "0")
    suite.set("time", _seconds(sum(float(case.attrib["time"]) for case in cases)))
    suite.extend(cases)
    return suite


def _named_case(name: str, suite: str, seconds: float) -> Element:
    attributes = {"name": words.clean(name), "classname": words.clean(suite)}
    return Element("testcase", attributes, time=_seconds(seconds))


def _problem(case: Element, tag: str, kind: str, reason: str) -> None:
    line = words.clean(reason)
    ElementTree.SubElement(case, tag, message=line, type=kind).text = line


def _properties(facts: Mapping[str, str]) -> Element:
    properties = Element("properties")
    for name, value in facts.items():
        pair = {"name": words.clean(name), "value": words.clean(value)}
        ElementTree.SubElement(properties, "property", pair)
    return properties


def _measurement(report: Report) -> Measurement | None:
    return (report.best.device or report.best.measurement) if report.best else None


def _measured_seconds(report: Report) -> float:
    if (found := _measurement(report)) is None:
        return 0.0
    return sum(p.cold_start_ms + sum(p.wall_ms) for p in found.processes) / 1e3


def _seconds(value: float) -> str:
    return f"{value:.3f}"
