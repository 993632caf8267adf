"""Tell GitHub what a check found: annotations of the run and its summary. Only there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgecompress.cli.show import say
from edgecompress.records import Report
from edgecompress.report import words
from edgecompress.report.fleet import Fleet, fleet_table, headline
from edgecompress.report.markdown import escape, render_table

COMMANDS = {"fail": "error", "inconclusive": "warning"}


def tell_github(fleet: Fleet) -> None:
    """Annotate the run and add to its summary, if GitHub Actions runs this command.

    The annotations go to stderr, which GitHub reads like stdout; stdout carries the result alone.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for line in workflow_commands(fleet):
        say(line)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as summary:
                summary.write(f"{step_summary(fleet)}\n")
        except OSError as error:  # no reason to answer otherwise
            say(f"warning: GITHUB_STEP_SUMMARY={path}: cannot be written ({error.strerror})")


def workflow_commands(fleet: Fleet) -> Iterator[str]:
    """Yield GitHub's workflow commands: one for each check that did not pass, or one notice.

    GitHub shows ten of a kind for a step, so budgets that are met get none.
    """
    for report in fleet.reports:
        if command := COMMANDS.get(report.verdict.status):
            yield _command(command, words.headline(report), report.verdict.reason)
    for refusal in fleet.refusals:
        yield _command("error", f"REFUSED: {refusal.model}", refusal.reason)
    if fleet.verdict == "pass":
        title = words.headline(fleet.alone) if fleet.alone else headline(fleet)
        yield _command("notice", title, "; ".join(_reason(report) for report in fleet.reports))


def _reason(report: Report) -> str:
    return f"{report.chosen} on {report.profile}: {report.verdict.reason}"


def _command(name: str, title: str, message: str) -> str:
    """Return one workflow command, escaped as GitHub's own toolkit does."""
    return f"::{name} title={_escape(title, ':,')}::{_escape(message)}"


def _escape(text: str, also: str = "") -> str:
    for character in f"%\r\n{also}":  # the per cent sign first: the others become one
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def step_summary(fleet: Fleet) -> str:
    """Return the answer as Markdown: the verdict, a table, and why something did not pass."""
    lines = [
        f"- {escape(f'{report.chosen} on {report.profile}')}: {escape(report.verdict.reason)}"
        for report in fleet.reports
        if report.verdict.status != "pass"
    ]
    lines += [f"- {escape(refusal.reason)}" for refusal in fleet.refusals]
    title = f"### edgecompress: {escape(headline(fleet))}"
    return "\n\n".join(
        part for part in (title, render_table(fleet_table(fleet)), "\n".join(lines)) if part
    )
