"""Replay recorded sets through the product's judge and count right and wrong answers.

    python benchmarks/verdict/replay.py [--repeats 4000]

One repeat: draw one of the recorded sets of a model under a condition; draw twenty of its
processes with replacement and put them in the order of time, so that what changed during the set
changes here too; look after 5, 10 and 20, as `check` does, until the judge decides. The limit is
set so that the truth lies so far over or under it. Truth: the median over all quiet processes of
the model in other sets than the one that is drawn (a hundred and more). What the machine's usual
pace is, the judge knows from the quiet sets of all models that were recorded two minutes or more
before or after the one that is drawn; or not at all, as on a machine that is seen for the first
time.

`judge` and `decided` need the limit; what they read from the processes does not. So that 4,000
repeats of each cell take a minute, bounds and margins are taken once for each draw and asked for
every limit; every hundredth draw goes through `decided` and `judge` themselves, at one of the
limits, and has to get the same answer.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
from models import SIZES
from traces import CONDITIONS, FOLDER, Trace, load

from edgecompress.bounds import Bounds
from edgecompress.measuring.latency import running_ms
from edgecompress.measuring.pace import OCCASION_S, usual_of
from edgecompress.measuring.readings import Readings, read_processes, timing_bounds
from edgecompress.profiles import Budget, Device, Profile
from edgecompress.records import LatencySamples, OnnxModel, Status
from edgecompress.statistics import quantile, wilson
from edgecompress.verdict import LEVELS, LOOKS, Evidence, decided, judge

OVER = (
    1.10,
    1.08,
    1.05,
    1.03,
    1.02,
    1.00,
    0.95,
    0.92,
    0.90,
)  # the truth as a multiple of the limit
CHECKED = 100  # every so many draws one answer is compared with that of `judge` itself
ASKED = ("p50", "p95")
ALL = tuple(CONDITIONS)
# What is counted, the truth as a multiple of the limit, under which conditions, and what is asked.
REQUIRED: tuple[tuple[str, float, Status, tuple[str, ...], str], ...] = (
    ("false PASS", 1.00, "pass", ALL, "5 %"),
    ("false PASS", 1.02, "pass", ALL, "1 %"),
    ("false PASS", 1.03, "pass", ALL, "0.1 %"),
    ("false PASS", 1.05, "pass", ALL, "0.5 %"),
    ("false FAIL", 0.95, "fail", ALL, "0.5 %"),
    ("INCONCLUSIVE, idle", 0.95, "inconclusive", ("idle",), "5 %"),
    ("INCONCLUSIVE, idle", 1.05, "inconclusive", ("idle",), "5 %"),
    ("INCONCLUSIVE, one neighbour", 0.95, "inconclusive", ("one",), "15 %"),
    ("INCONCLUSIVE, one neighbour", 1.05, "inconclusive", ("one",), "15 %"),
    ("INCONCLUSIVE, two neighbours", 0.95, "inconclusive", ("two",), "printed"),
    ("INCONCLUSIVE, two neighbours", 1.05, "inconclusive", ("two",), "printed"),
    ("INCONCLUSIVE, idle", 0.92, "inconclusive", ("idle",), "-"),
    ("INCONCLUSIVE, idle", 1.08, "inconclusive", ("idle",), "-"),
    ("INCONCLUSIVE, one neighbour", 0.92, "inconclusive", ("one",), "-"),
    ("INCONCLUSIVE, one neighbour", 1.08, "inconclusive", ("one",), "-"),
    ("INCONCLUSIVE, idle", 0.90, "inconclusive", ("idle",), "-"),
    ("INCONCLUSIVE, idle", 1.10, "inconclusive", ("idle",), "-"),
)


@dataclass(frozen=True)
class Cell:
    """Hold the answers to one model, condition, quantile and distance from the limit."""

    model: str
    condition: str
    quantile: str
    over: float
    counts: Counter[Status]


def main() -> None:
    """Print the tables."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=4000)
    asked.add_argument("--traces", type=Path, default=FOLDER)
    given = asked.parse_args()
    traces = [load(path) for path in sorted(given.traces.glob("*.npz"))]
    cells = list(replay(traces, given.repeats))
    print("\n\n".join((describe(traces), table(cells), worst(cells))))


def replay(
    traces: Sequence[Trace],
    repeats: int,
    models: Iterable[str] = SIZES,
    drawn: Callable[[Trace], bool] = lambda _: True,
) -> Iterator[Cell]:
    """Yield the cells of every model, condition and quantile of which sets may be drawn."""
    for number, (model, condition) in enumerate((m, c) for m in models for c in CONDITIONS):
        sets = [t for t in of(traces, model, condition) if drawn(t)]
        for name in ASKED if sets else ():
            rng = np.random.default_rng((number, ASKED.index(name)))
            true = [truth(traces, one, name) for one in sets]
            yield from _cells(sets, name, true, repeats, rng)


def _cells(
    sets: Sequence[Trace], name: str, true: list[float], repeats: int, rng: np.random.Generator
) -> Iterator[Cell]:
    read = partial(_figure, name=name)
    readings = [read_processes(t.measurement, read) for t in sets]
    counts: dict[float, Counter[Status]] = {over: Counter() for over in OVER}
    for repeat in range(repeats):
        chosen = int(rng.integers(len(sets)))
        rows = np.sort(rng.integers(LOOKS[-1], size=LOOKS[-1]))
        looks = looked(readings[chosen], rows)
        for over, found in counts.items():
            status = answer(looks, true[chosen] / over)
            if repeat % CHECKED == 0 and over == OVER[repeat // CHECKED % len(OVER)]:
                again = whole(sets[chosen], rows, name, true[chosen] / over)
                assert status == again, (sets[chosen], name, over, status, again)
            found[status] += 1
    first = sets[0]
    yield from (Cell(first.model, first.condition, name, o, c) for o, c in counts.items())


def looked(readings: Readings, rows: np.ndarray) -> list[Bounds]:
    """Return what the judge holds after each look."""
    return [timing_bounds(readings.take(rows[:look]), LOOKS) for look in LOOKS]


def answer(looks: Sequence[Bounds], limit: float) -> Status:
    """Return the first answer that decides, or the last."""
    statuses = (bounds.status(limit) for bounds in looks)
    return next((s for s in statuses if s != "inconclusive"), "inconclusive")


def whole(trace: Trace, rows: np.ndarray, name: str, limit: float) -> Status:
    """Return the answer of `decided` and `judge` themselves."""
    profile = Profile(
        name="limit",
        device=Device(description="this machine", host=True),
        budget=Budget.model_validate({f"latency_ms.{name}": limit}),
    )
    settled, model = decided(profile), OnnxModel(Path("model.onnx"), "0" * 64, 1)
    for look in LOOKS:
        processes = tuple(trace.measurement.processes[row] for row in rows[:look])
        measurement = replace(trace.measurement, processes=processes)
        if settled("model", measurement):
            break
    return judge(profile, Evidence(model, measurement)).status


def knowing(
    traces: Sequence[Trace], occasions: int | None = None, latest: bool = False, seed: int = 0
) -> list[Trace]:
    """Return the traces with the usual pace as it is known at each of them.

    From all quiet sets at other times, or from so many occasions: drawn from these, or the latest
    before each set.
    """
    rng = np.random.default_rng(seed)
    quiet = [t for t in traces if t.condition == "idle"]
    found = []
    for trace in traces:
        apart = [t for t in quiet if abs(t.started - trace.started) >= OCCASION_S]
        seen: dict[int, list[tuple[float, float]]] = {}
        for t in apart:
            seen.setdefault(int(t.started // OCCASION_S), []).append((t.started, reference_ms(t)))
        drawn = sorted(seen)
        if latest:
            now = trace.started // OCCASION_S
            drawn = [occasion for occasion in drawn if occasion < now][-(occasions or 0) :]
        elif occasions is not None:
            drawn = list(rng.permutation(drawn)[:occasions])
        usual = usual_of([pair for occasion in drawn for pair in seen[occasion]])
        found.append(replace(trace, measurement=replace(trace.measurement, usual=usual)))
    return found


def reference_ms(trace: Trace) -> float:
    """Return what the product remembers of a set."""
    return median(median(p.reference_ms) for p in trace.measurement.processes)


def truth(traces: Sequence[Trace], drawn: Trace, name: str) -> float:
    """Return the median figure of the model's quiet processes in all other sets."""
    quiet = [t for t in of(traces, drawn.model, "idle") if t.started != drawn.started]
    return float(np.median([_figure(p, name) for t in quiet for p in t.measurement.processes]))


def of(traces: Sequence[Trace], model: str, condition: str) -> list[Trace]:
    """Return the sets of one model under one condition."""
    return [t for t in traces if (t.model, t.condition) == (model, condition)]


def _figure(samples: LatencySamples, name: str) -> float:
    return quantile(running_ms(samples), LEVELS[name])


def describe(traces: Sequence[Trace], models: Iterable[str] = SIZES) -> str:
    """Return a table of the sets' figures over the median of the model's other quiet sets.

    As they were, and, both, at the machine's usual pace.
    """
    heads = [f"{name}{pace}" for pace in ("", " at usual pace") for name in ASKED]
    lines = [f"| model | neighbours | sets | {' | '.join(heads)} | waited |"]
    lines += ["|---|---|--:|---|---|---|---|--:|"]
    for model, condition in ((m, c) for m in models for c in CONDITIONS):
        sets = of(traces, model, condition)
        quiet = of(traces, model, "idle")
        cells = []
        for paced, name in ((p, n) for p in (False, True) for n in ASKED):
            figures = {t.started: _figures(t, name, paced) for t in (*sets, *quiet)}
            off = [
                np.median(figures[t.started])
                / np.median([figures[q.started] for q in quiet if q.started != t.started])
                - 1
                for t in sets
            ]
            cells.append(f"{min(off):+.1%} to {max(off):+.1%}" if sets else "")
        if sets:
            row = (model, condition, str(len(sets)), *cells, f"{_waited(sets):.1%}")
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _figures(trace: Trace, name: str, paced: bool) -> np.ndarray:
    readings = read_processes(trace.measurement, partial(_figure, name=name))
    return (readings.at_usual_pace() if paced else readings).figure


def _waited(sets: Sequence[Trace]) -> float:
    walls, waits = (
        sum(sum(getattr(p, f)) for t in sets for p in t.measurement.processes)
        for f in ("wall_ms", "waited_ms")
    )
    return float(waits / walls)


def table(cells: Sequence[Cell]) -> str:
    """Return one row a model, condition and quantile: PASS / FAIL / INCONCLUSIVE in percent."""
    heads = [f"{over - 1:+.0%}" for over in OVER]
    lines = [f"| model | neighbours | quantile | {' | '.join(heads)} |"]
    lines += ["|---|---|---|" + "--:|" * len(OVER)]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        shares = (cell.counts[s] / cell.counts.total() for s in ("pass", "fail", "inconclusive"))
        key = (cell.model, cell.condition, cell.quantile)
        rows.setdefault(key, []).append(" / ".join(f"{100 * s:.3g}" for s in shares))
    lines += [f"| {' | '.join((*key, *found))} |" for key, found in rows.items()]
    return "\n".join(lines)


def worst(cells: Sequence[Cell]) -> str:
    """Return the required figures: all cells of a row together, and the worst of them.

    Wilson's bound speaks of the repeats alone; the sets behind them are few.
    """
    lines = ["| what | truth over the limit | asked | all cells | at most (Wilson, 95 %) | worst |"]
    lines += ["|---|--:|--:|--:|--:|---|"]
    for what, over, status, conditions, most in REQUIRED:
        those = [c for c in cells if c.over == over and c.condition in conditions]
        if not those:
            continue
        hits = sum(c.counts[status] for c in those)
        trials = sum(c.counts.total() for c in those)
        bad = max(those, key=lambda c: c.counts[status] / c.counts.total())
        share = bad.counts[status] / bad.counts.total()
        row = (
            what,
            f"{over - 1:+.0%}",
            most,
            f"{hits / trials:.3%}",
            f"{wilson(hits, trials, 0.90)[1]:.3%}",
            f"{share:.2%} ({bad.model} {bad.condition} {bad.quantile})",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def learning(traces: Sequence[Trace], repeats: int) -> str:
    """Return what is right and wrong of quiet sets when the pace is known from few occasions."""
    lines = ["| occasions | false PASS +0% | +2% | +3% | INCONCLUSIVE -5% | +5% |"]
    lines += ["|---|" + "--:|" * 5]
    asked: list[tuple[float, Status]] = [(over, "pass") for over in (1.00, 1.02, 1.03)]
    asked += [(over, "inconclusive") for over in (0.95, 1.05)]
    for occasions, latest in product((5, 7, 10), (False, True)):
        cells = [
            cell
            for seed in range(1 if latest else 10)
            for cell in replay(
                knowing(traces, occasions, latest, seed), repeats, drawn=_quiet_and_known
            )
        ]
        shares = []
        for over, status in asked:
            those = [c.counts for c in cells if c.over == over]
            shares.append(sum(c[status] for c in those) / sum(c.total() for c in those))
        words = f"{occasions}, {'the latest' if latest else 'drawn'}"
        lines.append(f"| {words} | {' | '.join(f'{share:.2%}' for share in shares)} |")
    return "\n".join(lines)


def _quiet_and_known(trace: Trace) -> bool:
    return trace.condition == "idle" and trace.measurement.usual is not None


if __name__ == "__main__":
    main()
