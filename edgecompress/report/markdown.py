"""Show the report as Markdown, for pull requests and archives."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgecompress.records import Report
from edgecompress.report import arms, searches, tables, words
from edgecompress.report.tables import Table


def render_markdown(report: Report) -> str:
    """Return the whole report as Markdown, the verdict first."""
    parts = [f"# {escape(words.headline(report))}", escape(report.verdict.reason)]
    for title, body in _sections(report):
        if body:
            parts += [f"## {title}", body]
    return "\n\n".join(parts) + "\n"


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    yield "Budgets", render_table(tables.budget_table(report))
    yield "Models", render_table(tables.candidate_table(report))
    yield "The device", _bullets(*words.device_lines(report))
    yield "Did distillation help?", _bullets(*arms.training_lines(report))
    for training in report.trainings:
        yield f"Arms of {escape(training.stage)}", render_table(arms.arm_table(training))
        yield "How to read them", _bullets(*arms.reading_lines(training))
        yield f"Seeds of {escape(training.stage)}", render_table(arms.seed_table(training))
    yield "Pruning: asked and got", render_table(tables.pruning_table(report))
    for search in searches.searches(report):
        table = render_table(searches.search_table(report, search))
        yield "The way to the target", f"{escape(search.reason)}\n\n{table}"
    yield "Parity", render_table(tables.parity_table(report))
    yield "What this does not say", _bullets(*words.limits(report), words.split_reads(report))
    yield "Notes", _bullets(*report.notes)
    yield "Files", render_table(tables.digest_table(report))
    yield "Environment", render_table(tables.environment_table(report))
    yield "Settings", render_table(tables.settings_table(report))


def render_table(table: Table) -> str:
    """Return a table, or nothing where it has no rows."""
    if not table.rows:
        return ""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines)


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def escape(text: str) -> str:
    r"""Return text that Markdown and the HTML inside it show as it is.

    >>> escape("a|b <i> latency_ms *x*")
    'a\\|b &lt;i> latency_ms \\*x\\*'
    """
    text = words.clean(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
