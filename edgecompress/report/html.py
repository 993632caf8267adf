"""Show the report as one HTML file that opens offline: no script, no request, no font to fetch."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgecompress import __version__
from edgecompress.records import Candidate, Report
from edgecompress.report import arms, bars, tables, words
from edgecompress.report.figures import final_metric
from edgecompress.report.plots import draw_latency, draw_search, draw_tradeoff, draw_training
from edgecompress.report.searches import search_table, searches


def render_html(report: Report) -> str:
    """Return the whole report as a page, the verdict first."""
    template = _environment().get_template("report.html.jinja")
    return template.render(
        report=report,
        version=__version__,
        claim=words.claim(report),
        tiles=_tiles(report),
        budgets=[(check, bars.budget_bar(check)) for check in report.verdict.checks],
        sizes=bars.size_bars(report),
        entries=tables.entries(report),
        tradeoff=_drawn(draw_tradeoff(report)),
        latency=_drawn(draw_latency(report)),
        curves=[(t, _drawn(draw_training(t))) for t in report.trainings],
        ways=[
            (way, search_table(report, way), _drawn(draw_search(report, way)))
            for way in searches(report)
        ],
        training_lines=list(arms.training_lines(report)),
        arms=arms,
        limits=[*words.limits(report), words.split_reads(report)],
        tables=tables,
        words=words,
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("edgecompress.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _clean(value: object) -> object:
    """Return foreign text without control characters; what we drew or rendered stays as it is."""
    return words.clean(value) if type(value) is str else value


def _drawn(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Return the headline figures of what ships: name, figure, and what the teacher makes of it."""
    best, teacher = report.best, report.teacher
    if best is None:
        return []
    tiles = [("model size", words.size(best.model.size_bytes), _smaller(best, teacher))]
    there = best.device is not None
    if latency := tables.latency(best, there):
        faster = tables.speedups(best, teacher, there)[0] if teacher else ""
        place = "on the device" if there else "here"
        p50 = words.quantity(latency.p50, "ms")
        tiles.append((f"median latency {place}", p50, _beside(faster)))
    if metric := final_metric(best):
        kept = words.kept(metric, final_metric(teacher))
        tiles.append((f"{metric.name} on {metric.split}", words.score(metric), _beside(kept)))
    return tiles


def _smaller(best: Candidate, teacher: Candidate | None) -> str:
    if teacher is None:
        return ""
    found = words.times(teacher.model.size_bytes, best.model.size_bytes, "smaller", "larger")
    return _beside(found)


def _beside(comparison: str) -> str:
    """Return a comparison as a phrase about the teacher, or nothing where there is none."""
    if comparison in ("", words.NOTHING):
        return ""
    if comparison == "same":
        return "same as the teacher"
    if comparison.endswith("kept"):
        return f"{comparison} of the teacher's"
    return f"{comparison} than the teacher" if comparison[-1] == "r" else f"{comparison} against it"
