"""Draw the report's figures as SVG: the only user of Matplotlib.

Colours are written as CSS variables, so that the page's light and dark themes reach them; text
stays text. The same report gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from numpy.typing import NDArray

from edgecompress.records import (
    Candidate,
    Metric,
    PruningSearch,
    Report,
    SplitName,
    StudentOffer,
    TrainedNetwork,
)
from edgecompress.report.figures import net_ms, process_medians
from edgecompress.report.searches import LESSON, cost_name, stops
from edgecompress.report.tables import Entry, entries
from edgecompress.report.words import is_share, shorten

# What Matplotlib writes and what the page reads instead.
_COLOURS = {
    "chosen": "#2f6fde",
    "teacher": "#c2741a",
    "control": "#7a5cc4",
    "candidate": "#667085",
    "dropped": "#a8b0bd",
    "ink": "#1d2433",
    "line": "#e3e6eb",
    "card": "#fffffe",
    "fail": "#c4314b",
}
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": _COLOURS["ink"],
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["ink"],
    "xtick.color": _COLOURS["ink"],
    "ytick.color": _COLOURS["ink"],
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "legend.frameon": False,
}
_ARM_COLOURS = {
    "distilled": "chosen",
    "control": "control",
    "pseudo": "control",
    "codistilled": "chosen",
    "teacher": "teacher",
}
_ARM_LINES = {"control": "--", "pseudo": ":", "codistilled": "-."}
# What can be drawn: calls between a nanosecond and eleven days, scores that leave floats room.
_LEAST_MS, _MOST_MS = 1e-6, 1e9
_LARGEST_SCORE = 1e12
_SHOWN_SHARE = 0.999
_POINTS = 250


Mark = tuple[Entry, Metric, tuple[float, ...]]


def draw_tradeoff(report: Report) -> str | None:
    """Draw score against median latency on this machine, each model marked by its tag.

    Bars are the score's 95 % interval and the spread of the processes' medians. Returns None where
    no model has both.
    """
    split = _common_split(report)
    found = [mark for entry in entries(report) if (mark := _mark(entry, split))]
    if not found:
        return None

    def paint(axes: Axes) -> None:
        for order, mark in enumerate(sorted(found, key=lambda m: m[0].role == "chosen")):
            _paint_mark(axes, mark, 3 + 3 * order)
        _log_axis(axes, [p50 for mark in found for p50 in mark[2]], margin=1.35)
        axes.set_xlabel("median latency on this machine, ms")
        axes.set_ylabel(f"{_short(found[0][1].name)} on {split}")
        axes.margins(y=0.15)

    return _svg("tradeoff", paint, percent=all(is_share(m.name, m.value) for _, m, _ in found))


def draw_latency(report: Report) -> str | None:
    """Draw how call times are spread: one line a process, for what ships and for the teacher."""
    shown = [e for e in entries(report) if e.role in ("chosen", "teacher")]
    lines = [(e.role, x) for e in shown for x in _call_times(e.candidate)]
    if not lines:
        return None

    def paint(axes: Axes) -> None:
        for role, times in lines:
            share = np.linspace(0, _SHOWN_SHARE, _POINTS)
            axes.plot(np.quantile(times, share), share, color=_COLOURS[role], lw=1, alpha=0.7)
        ends = [float(np.quantile(x, q)) for _, x in lines for q in (0, _SHOWN_SHARE)]
        _log_axis(axes, ends, margin=1.1)
        axes.set_xlabel("time of one call on this machine, ms")
        axes.set_ylabel("share of calls at most this long")
        axes.set_ylim(0, 1.02)

    return _svg("latency", paint, percent=True)


def draw_training(training: TrainedNetwork) -> str | None:
    """Draw the validation score over epochs, one line an arm and seed; None without a curve."""
    arms = [a for a in training.arms if a.curve and _are_drawable(p.validation for p in a.curve)]
    if not arms:
        return None
    first = {arm.name: arm for arm in reversed(arms)}  # seeds of an arm share colour and name

    def paint(axes: Axes) -> None:
        for arm in arms:
            axes.plot(
                [point.epoch for point in arm.curve],
                [point.validation for point in arm.curve],
                color=_COLOURS[_ARM_COLOURS.get(arm.name, "candidate")],
                linestyle=_ARM_LINES.get(arm.name, "-"),
                marker="o",
                markersize=2.5 if len(arm.curve) > 1 else 6,
                lw=1.5,
                label=_short(arm.name) if arm is first[arm.name] else None,
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{_short(arms[0].evaluation.metric.name)} on validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")

    metrics = [(arm.evaluation.metric.name, p.validation) for arm in arms for p in arm.curve]
    return _svg(f"training-{training.stage}", paint, percent=all(is_share(*m) for m in metrics))


def draw_search(report: Report, search: PruningSearch) -> str | None:
    """Draw score against cost of the networks that a search for a target tried.

    The line joins the unpruned network and those that had one short lesson; the last point is what
    was taught again. Returns None where no scores are known.
    """
    found = [stop for stop in stops(report, search) if stop.score is not None]
    shown = [(stop.cost, stop.score.value) for stop in found if stop.score is not None]
    if len(found) < 2 or not _are_drawable(value for pair in shown for value in pair):
        return None
    metric = found[0].score
    assert metric is not None

    def paint(axes: Axes) -> None:
        way = [point for stop, point in zip(found, shown, strict=True) if not stop.taught]
        colour = _COLOURS["candidate"]
        axes.plot(*zip(*way, strict=True), "o-", color=colour, lw=1.5, label=LESSON)
        for stop, point in zip(found, shown, strict=True):
            if stop.taught:
                axes.plot(*point, "o", color=_COLOURS["chosen"], markersize=9, label=stop.name)
            elif stop.name == "unpruned":
                axes.plot(*point, "D", color=_COLOURS["teacher"], markersize=8, label=stop.name)
        axes.axvline(search.target, color=_COLOURS["ink"], lw=1, ls="--", label="target")
        axes.set_xlabel(cost_name(search))
        axes.set_ylabel(f"{_short(metric.name)} on validation")
        axes.margins(0.1)
        axes.legend(loc="best")

    return _svg("search", paint, percent=is_share(metric.name, metric.value))


def draw_students(offers: Sequence[StudentOffer]) -> str | None:
    """Draw students that were judged before training, time against size, as an SVG file.

    The time is the one that the first latency budget limits; without such a budget the median.
    Returns None where no time is known.
    """
    found = [(offer, ms) for offer in offers if (ms := _offered_ms(offer)) is not None]
    if not found:
        return None
    checks = [c for offer, _ in found for c in offer.verdict.checks]
    limits = {c.budget: c.limit for c in checks if c.budget.startswith("latency_ms.")}
    name, limit = next(iter(limits.items()), ("median latency", None))

    def paint(axes: Axes) -> None:
        for status, (colour, words) in _OFFERED.items():
            those = [(ms, o.size_bytes / 1e6) for o, ms in found if o.verdict.status == status]
            if those:
                axes.plot(*zip(*those, strict=True), "o", color=_COLOURS[colour], label=words)
        if limit is not None:
            axes.axvline(limit, color=_COLOURS["ink"], lw=1, ls="--", label=f"limit {limit:g} ms")
        _log_axis(axes, [*(ms for _, ms in found), *([limit] if limit else [])], margin=1.3)
        axes.set_xlabel(f"{name} before training, ms")
        axes.set_ylabel("model file, MB")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="best")

    return _drawn("students", paint, percent=False, transparent=False)


_OFFERED = {
    "pass": ("chosen", "fits"),
    "inconclusive": ("teacher", "not decided"),
    "fail": ("dropped", "does not fit"),
}


def _offered_ms(offer: StudentOffer) -> float | None:
    budgets = (c.value for c in offer.verdict.checks if c.budget.startswith("latency_ms."))
    ms = next(budgets, offer.latency_ms.p50 if offer.latency_ms else None)
    return ms if ms is not None and _LEAST_MS <= ms <= _MOST_MS else None


def _svg(name: str, paint: Callable[[Axes], None], percent: bool) -> str:
    """Return the SVG element that `paint` fills, its ids made unique by `name`."""
    return _embed(_drawn(name, paint, percent), re.sub(r"\W", "-", name))


def _drawn(
    name: str, paint: Callable[[Axes], None], percent: bool, transparent: bool = True
) -> str:
    """Return the SVG document that `paint` fills."""
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser's fonts draw the text, so a glyph that Matplotlib's font lacks is no fault.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(4.9, 3.3), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(True)
        axes.set_axisbelow(True)
        paint(axes)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    return buffer.getvalue()


def _embed(svg: str, prefix: str) -> str:
    """Return Matplotlib's document as an element for a page: own ids, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for name, colour in _COLOURS.items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    return svg


def _paint_mark(axes: Axes, mark: Mark, order: int) -> None:
    entry, metric, medians = mark
    x, colour = float(np.median(medians)), _COLOURS[entry.role]
    axes.errorbar(
        x,
        metric.value,
        xerr=[[x - min(medians)], [max(medians) - x]],
        yerr=[[max(0.0, metric.value - metric.low)], [max(0.0, metric.high - metric.value)]],
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
        alpha=0.6,
        zorder=order,
    )
    axes.plot(
        x,
        metric.value,
        marker="D" if entry.role == "teacher" else "o",
        markersize=15 if entry.role == "chosen" else 12,
        color=colour,
        markeredgecolor=_COLOURS["card"],
        zorder=order + 1,
    )
    axes.text(
        x,
        metric.value,
        entry.tag,
        ha="center",
        va="center_baseline",
        color=_COLOURS["card"],
        fontweight="bold",
        fontsize=8,
        zorder=order + 2,
    )


def _log_axis(axes: Axes, values: Iterable[float], margin: float) -> None:
    """Make x logarithmic around `values`, with plain numbers on it."""
    values = list(values)
    axes.set_xscale("log")
    low, high = min(values) / margin, max(values) * margin
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(_locator(high / low))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _locator(span: float) -> Locator:
    if span < 6:
        return MaxNLocator(nbins=5)
    return LogLocator(subs=(1.0, 2.0, 5.0) if span < 300 else (1.0,))


def _common_split(report: Report) -> SplitName:
    """Return validation, on which all candidates were compared, else what there is."""
    splits = {e.metric.split for entry in entries(report) for e in entry.candidate.evaluations}
    return "validation" if "validation" in splits or not splits else sorted(splits)[0]


def _mark(entry: Entry, split: SplitName) -> Mark | None:
    evaluation, measurement = entry.candidate.evaluation(split), entry.candidate.measurement
    if evaluation is None or measurement is None:
        return None
    metric, medians = evaluation.metric, process_medians(measurement)
    scores = (metric.value, metric.low, metric.high)
    if not medians or not all(_LEAST_MS <= p50 <= _MOST_MS for p50 in medians):
        return None
    return (entry, metric, medians) if _are_drawable(scores) else None


def _are_drawable(scores: Iterable[float]) -> bool:
    return all(abs(score) <= _LARGEST_SCORE for score in scores)


def _call_times(candidate: Candidate) -> list[NDArray[np.float64]]:
    processes = candidate.measurement.processes if candidate.measurement else ()
    found = [net_ms(process) for process in processes]
    shown = [times[(times >= _LEAST_MS) & (times <= _MOST_MS)] for times in found]
    return [times for times in shown if len(times)]


def _short(text: str) -> str:
    return shorten(text, 30)
