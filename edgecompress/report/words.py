"""Put numbers into words: the same way in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import math

from edgecompress.measuring.readings import is_near, pace_in_words
from edgecompress.records import BudgetCheck, Metric, Report

NOTHING = "-"
_PASSED_HERE = ("measured", "pass")

BASES = {
    "measured": "measured here",
    "on-device": "measured on the device",
    "predicted": "predicted, not measured",
    "exact": "exact",
    "host": "measured here, not on the device",
    "none": "not known",
}

SHORT_BASES = {
    "measured": "measured",
    "on-device": "on the device",
    "predicted": "predicted",
    "exact": "exact",
    "host": "on this host",
    "none": "not known",
}


def clean(text: str) -> str:
    r"""Return text on one line and without control characters, fit for a terminal.

    >>> clean("a\nb"), clean("\x1b[31mred")
    ('a b', '?[31mred')
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def shorten(text: str, length: int) -> str:
    """Return at most `length` characters of a clean text, its middle left out where too long.

    >>> shorten("student-int8-static", 12)
    'stude..tatic'
    """
    text = clean(text)
    if len(text) <= length:
        return text
    half = (length - 2) // 2
    return f"{text[:half]}..{text[len(text) - half :]}"


def number(value: float | None) -> str:
    """Return three significant digits without an exponent where that reads well.

    >>> number(0.10234), number(12345.6), number(None), number(float("nan")), number(20.0)
    ('0.102', '12,346', '-', '-', '20')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def quantity(value: float | None, unit: str) -> str:
    """Return a number with its unit, or a dash.

    >>> quantity(1.5, "ms"), quantity(None, "ms"), quantity(0.25, "")
    ('1.5 ms', '-', '0.25')
    """
    return f"{number(value)} {unit}".strip() if number(value) != NOTHING else NOTHING


def size(count: float | None) -> str:
    """Return bytes in decimal units, as in the budgets.

    >>> size(812), size(118_300), size(2_830_000), size(None)
    ('812 B', '118 kB', '2.83 MB', '-')
    """
    if count is None or not math.isfinite(count):
        return NOTHING
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= scale:
            return f"{number(count / scale)} {unit}"
    return f"{count:.0f} B"


def is_share(name: str, value: float) -> bool:
    """Return whether a score is a share of samples, best read in per cent."""
    return "accuracy" in name.lower() and 0.0 <= value <= 1.0


def score(metric: Metric | None) -> str:
    """Return a score: accuracies in per cent, others with four digits.

    >>> score(Metric("accuracy", 0.98714, 0.98, 0.99, "test"))
    '98.71 %'
    >>> score(Metric("rmse", 1.23456, 1.0, 2.0, "test"))
    '1.235'
    """
    if metric is None or not math.isfinite(metric.value):
        return NOTHING
    if is_share(metric.name, metric.value):
        return f"{100 * metric.value:.2f} %"
    return f"{metric.value:.4g}"


def times(before: float | None, after: float | None, better: str, worse: str) -> str:
    """Return how many times smaller or faster `after` is.

    >>> times(10, 2.5, "smaller", "larger"), times(1, 2, "faster", "slower"), times(1, 1, "", "")
    ('4x smaller', '2x slower', 'same')
    """
    if not before or not after or not math.isfinite(before) or not math.isfinite(after):
        return NOTHING
    ratio = before / after
    if abs(ratio - 1) < 0.005:
        return "same"
    return f"{number(ratio)}x {better}" if ratio > 1 else f"{number(1 / ratio)}x {worse}"


def kept(best: Metric | None, teacher: Metric | None) -> str:
    """Return how much of the teacher's score is left.

    >>> kept(Metric("accuracy", 0.9, 0, 1, "test"), Metric("accuracy", 0.96, 0, 1, "test"))
    '93.75 % kept'
    """
    if best is None or teacher is None or best.name != teacher.name or best.split != teacher.split:
        return NOTHING
    if not math.isfinite(best.value) or not math.isfinite(teacher.value):
        return NOTHING
    if is_share(best.name, best.value) and is_share(best.name, teacher.value) and teacher.value:
        return f"{100 * best.value / teacher.value:.2f} % kept"
    return f"{best.value - teacher.value:+.3g}"


def interval(check: BudgetCheck) -> str:
    """Return a check's interval, or a dash where it has none that can be seen."""
    ends = (number(check.low), number(check.high))
    return NOTHING if NOTHING in ends or ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def headline(report: Report) -> str:
    """Return the verdict in one plain sentence."""
    return f"{report.verdict.status.upper()}: {claim(report)}"


def claim(report: Report) -> str:
    """Return what the verdict says about the model that ships."""
    if report.chosen is None:
        return f"no model is left to judge on {report.profile}"
    return {
        "pass": f"{report.chosen} fits {report.profile}",
        "fail": f"{report.chosen} does not fit {report.profile}",
        "inconclusive": f"whether {report.chosen} fits {report.profile} is not decided",
    }[report.verdict.status]


def limits(report: Report) -> tuple[str, ...]:
    """Return what the verdict does not say, in plain words."""
    checks = report.verdict.checks
    predicted = [c.budget for c in checks if c.basis == "predicted"]
    hosted = [c.budget for c in checks if c.basis == "host"]
    unknown = [c.budget for c in checks if c.basis == "none"]
    found = []
    if predicted:
        found.append(
            f"{', '.join(predicted)}: predicted for {report.profile}, not measured on it; "
            "it passes only when the upper end of the interval fits."
        )
    if hosted:
        found.append(
            f"{', '.join(hosted)}: measured on this machine, which is not {report.profile}."
        )
    if unknown:
        found.append(f"{', '.join(unknown)}: neither measured nor predicted.")
    measurement = report.best.measurement if report.best else None
    for condition in measurement.uncontrolled if measurement else ():
        found.append(f"On this machine: {condition.rstrip('.')}.")
    device = report.best.device if report.best else None
    for condition in device.uncontrolled if device else ():
        found.append(f"On the device: {condition.rstrip('.')}.")
    return tuple(found)


def pace_lines(report: Report) -> tuple[str, ...]:
    """Say why a latency that passes is not the one in the tables, which is as it was measured."""
    measurement = report.best.measurement if report.best else None
    pace = measurement.pace if measurement else None
    passing = [c.budget for c in report.verdict.checks if (c.basis, c.status) == _PASSED_HERE]
    judged = [budget for budget in passing if budget.startswith("latency_ms.")]
    if pace is None or not judged or not is_near(pace):
        return ()
    ran = f"it ran {pace_in_words(pace)} meanwhile"
    return (f"{', '.join(judged)}: judged at this machine's usual pace; {ran}",)


def device_lines(report: Report) -> tuple[str, ...]:
    """Return what device the model that ships was measured on, and how it was found and left."""
    device = report.best.device if report.best else None
    return (f"measured on {device.host}", *device.conditions) if device else ()


def split_reads(report: Report) -> str:
    """Return how often the test split was read, in one sentence."""
    if report.test_reads == 0:
        return "The test split was not read."
    count = "once" if report.test_reads == 1 else f"{report.test_reads} times"
    return f"The test split was read {count}, at the end; candidates were compared on validation."
