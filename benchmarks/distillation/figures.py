"""Compute what the distillation benchmark claims from its results, and print it as Markdown.

python benchmarks/distillation/figures.py [results.jsonl]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Line = Mapping[str, Any]
Scores = Sequence[float]
LEAD_ERRORS, GAP_SHARE = 4.0, 0.5
LOSS_LIMIT, WORSE_P = 0.5, 0.01
PAIRS = 5  # of a set count where sets are pooled, the first ones, so that each weighs alike


@dataclass(frozen=True)
class Comparison:
    """Hold one set's scores, higher is better, paired by seed, and the teacher's lead.

    `lead_error` is the standard error of the lead: that of the test samples, on which teacher and
    control are paired, and that of the control's seeds, together.
    """

    name: str
    metric: str
    teacher: float
    distilled: tuple[float, ...]
    control: tuple[float, ...]
    lead_error: float
    control_ships: tuple[bool, ...]
    pseudo: tuple[float, ...] = ()

    @property
    def lead(self) -> float:
        """Return by how much the teacher leads the mean control."""
        return self.teacher - float(np.mean(self.control))

    @property
    def closed(self) -> float:
        """Return the share of the gap between mean control and teacher that distillation closes."""
        return float(np.mean(self.distilled) - np.mean(self.control)) / self.lead

    @property
    def worse_p(self) -> float:
        """Return the one-sided p of a paired t-test that the distilled arm is worse."""
        return paired_p(self.control, self.distilled)

    @property
    def losses(self) -> tuple[float, ...]:
        """Return what each pair lost by distillation, in standard deviations of the control."""
        spread = float(np.std(self.control, ddof=1))
        pairs = zip(self.control, self.distilled, strict=True)
        return tuple((c - d) / spread for c, d in pairs)


def paired_p(better: Scores, worse: Scores) -> float:
    """Return the one-sided p that `better` only seems to be better, pair by pair.

    >>> paired_p([1.0, 1.1, 1.2], [0.9, 1.0, 1.1]) < 0.01, paired_p([1.0, 2.0], [1.0, 2.0])
    (True, 1.0)
    """
    differences = np.subtract(better, worse)
    if np.ptp(differences) < 1e-12:  # a t-test has nothing to divide by
        return 0.0 if differences[0] > 1e-12 else 1.0
    return float(stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue)


def upper_bound(losses: Scores) -> float:
    """Return the one-sided 95 % bound of the mean loss, by Student's t.

    >>> round(upper_bound([-1.0, 0.0, 1.0]), 3)
    1.686
    """
    values = np.asarray(losses)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() + stats.t.ppf(0.95, len(values) - 1) * error)


def compared(name: str, lines: Sequence[Line]) -> Comparison:
    """Return the comparison of one set out of its lines of both arms."""
    arms = {arm: by_seed(lines, arm) for arm in ("distilled", "control")}
    seeds = sorted(arms["distilled"].keys() & arms["control"].keys())
    ours, theirs = ([arms[arm][s] for s in seeds] for arm in ("distilled", "control"))
    seeds_error = np.var([line["value"] for line in theirs], ddof=1) / len(seeds)
    samples_error = np.mean([line["lead_error"] ** 2 for line in theirs])
    return Comparison(
        name=name,
        metric=theirs[0]["metric"],
        teacher=theirs[0]["teacher"],
        distilled=tuple(line["value"] for line in ours),
        control=tuple(line["value"] for line in theirs),
        lead_error=float(np.sqrt(seeds_error + samples_error)),
        control_ships=tuple(
            c["validation"] > d["validation"] for d, c in zip(ours, theirs, strict=True)
        ),
        pseudo=tuple(line["value"] for line in by_seed(lines, "pseudo").values()),
    )


def by_seed(lines: Sequence[Line], arm: str) -> dict[int, Line]:
    """Return an arm's lines by their seed."""
    return {line["seed"]: line for line in lines if line["arm"] == arm}


def table(found: Sequence[Comparison]) -> str:
    """Return one row a set: mean scores, the teacher's lead, the share of the gap closed."""
    rows = [
        "| set | metric | teacher | control | pseudo | distilled | teacher leads by | gap closed |"
        " p worse | control ships |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        leads = one.lead / one.lead_error
        closed = f"{one.closed:.0%}" if leads >= LEAD_ERRORS else f"({one.closed:.0%})"
        closed = closed if one.lead > 0 else "no gap"
        cells = (
            one.name, one.metric, f"{one.teacher:.4f}", spread(one.control),
            spread(one.pseudo) if one.pseudo else "-", spread(one.distilled),
            f"{one.lead:.4f}, {leads:.1f} errors", closed, f"{one.worse_p:.3f}",
            f"{sum(one.control_ships)} of {len(one.control_ships)}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def spread(scores: Scores) -> str:
    """Return mean and standard deviation.

    >>> spread([0.9, 1.0])
    '0.9500 ± 0.0707'
    """
    return f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1) if len(scores) > 1 else 0:.4f}"


def seeds_table(lines: Sequence[Line]) -> str:
    """Return every arm of every seed of every set."""
    arms = [(name, arm) for name in names(lines) for arm in names(lines, "arm")]
    seeds = sorted({line["seed"] for line in lines})
    head = " | ".join(f"seed {seed}" for seed in seeds)
    rows = [f"| set | arm | {head} |", "|---|---|" + "--:|" * len(seeds)]
    for name, arm in arms:
        scores = by_seed([line for line in lines if line["set"] == name], arm)
        cells = [f"{scores[s]['value']:.4f}" if s in scores else "" for s in seeds]
        if any(cells):
            rows.append(f"| {name} | {arm} | {' | '.join(cells)} |")
    return "\n".join(rows)


def names(lines: Sequence[Line], key: str = "set") -> list[str]:
    """Return the distinct values of a key in the order in which they first stand."""
    return list(dict.fromkeys(line[key] for line in lines))


def does_not_lose(found: Sequence[Comparison]) -> str:
    """Return in words what distillation costs where it does not help, all pairs together."""
    losses = [loss for one in found for loss in one.losses[:PAIRS]]
    worse = [one.name for one in found if one.worse_p < WORSE_P]
    ships = [ship for one in found for ship in one.control_ships]
    return "\n".join(
        [
            f"- {len(losses)} pairs: mean loss {np.mean(losses):+.2f} standard deviations of the "
            f"control, one-sided 95 % bound {upper_bound(losses):+.2f} (asked: at most "
            f"{LOSS_LIMIT:+.2f}).",
            f"- Worse at p < {WORSE_P}: {', '.join(worse) or 'no set'}.",
            f"- The control would have shipped in {sum(ships)} of {len(ships)} pairs "
            f"({np.mean(ships):.0%}), chosen on validation.",
        ]
    )


def gains(found: Sequence[Comparison]) -> str:
    """Return in words on which sets there is a gap, and on which at least half of it closes."""
    leading = [one for one in found if one.lead / one.lead_error >= LEAD_ERRORS]
    closing = [one.name for one in leading if one.closed >= GAP_SHARE]
    return (
        f"- The teacher leads by {LEAD_ERRORS:g} standard errors or more in {len(leading)} of "
        f"{len(found)} rows; at least {GAP_SHARE:.0%} of the gap is closed in {len(closing)}: "
        f"{', '.join(closing) or 'none'}."
    )


def main(path: Path) -> None:
    """Print the tables and verdicts of a file of results."""
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["set"])
    found = [compared(n, [line for line in lines if line["set"] == n]) for n in names(lines)]
    sets = [one for one in found if "-" not in one.name]  # the others are variants of a set
    variants = [one for one in found if "-" in one.name]
    for title, part in (("The sets", sets), ("Variants", variants)):
        if part:
            print(f"## {title}\n", table(part), "", sep="\n")
    print(does_not_lose(sets or variants), gains(found), sep="\n")
    print("\n## Every seed\n", seeds_table(lines), sep="\n")


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("results.jsonl")
    main(given)
