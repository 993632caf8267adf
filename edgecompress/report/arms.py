"""Lay out what distillation gained: its arms side by side, seed by seed, and their teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgecompress.distilling.choice import CODISTILLED, DISTILLED, compared
from edgecompress.distilling.tuning import choice_in_words
from edgecompress.records import Arm, Figures, Metric, Report, TrainedNetwork
from edgecompress.report import words
from edgecompress.report.tables import Table

_FIGURES = ("NLL", "calibration error", "agrees with the teacher", "membership AUC")


def training_lines(report: Report) -> Iterator[str]:
    """Yield a sentence for each training stage: what distillation gained and which arm goes on."""
    for training in report.trainings:
        yield f"{training.stage}: {_claim(training)}. {_who(training)}"


def short_line(training: TrainedNetwork) -> str | None:
    """Return in one sentence whether distillation helped; None where nothing was distilled."""
    found = compared(training.arms)
    return f"{training.stage}: {found.words}" if found else None


def _claim(training: TrainedNetwork) -> str:
    found = [compared(training.arms, name) for name in (DISTILLED, CODISTILLED)]
    claims = [comparison.words for comparison in found if comparison is not None]
    if not claims:
        return training.reason.rstrip(".")
    samples = next(comparison.samples for comparison in found if comparison is not None)
    split = training.arm.evaluation.metric.split
    return (
        f"{choice_in_words(training.trials)}{'; '.join(claims)} (one-sided 95 % bounds, paired "
        f"over {samples:,} {split} samples)"
    )


def _who(training: TrainedNetwork) -> str:
    several = len({arm.seed for arm in training.arms}) > 1
    seed = f" of seed {training.seed}" if several else ""
    return f"The {training.shipped} network{seed} goes on, {training.parameters:,} parameters."


def arm_table(training: TrainedNetwork) -> Table:
    """Return one row an arm, figures averaged over its seeds, and a row for the teacher.

    No rows where only one network was trained.
    """
    names = list(dict.fromkeys(arm.name for arm in training.arms))
    if len(names) < 2:
        return Table((), ())
    metric = training.arms[0].evaluation.metric
    rows = [_mean_row(training, name) for name in names]
    if training.teacher is not None:
        score = words.score(training.teacher.evaluation.metric)
        rows.append(("teacher", "", score, *_figures(training.teacher.figures)))
    return Table(("arm", "seeds", f"{metric.name} on {metric.split}", *_FIGURES), tuple(rows))


def seed_table(training: TrainedNetwork) -> Table:
    """Return one row a trained network; no rows where all were trained with one seed."""
    if len({arm.seed for arm in training.arms}) < 2:
        return Table((), ())
    metric = training.arms[0].evaluation.metric
    rows = (
        (_marked(arm, training), str(arm.seed), _score(arm), *_figures(arm.figures))
        for arm in training.arms
    )
    return Table(("arm", "seed", f"{metric.name} on {metric.split}", *_FIGURES), tuple(rows))


def reading_lines(training: TrainedNetwork) -> tuple[str, ...]:
    """Return how the figures are to be read."""
    teacher = training.teacher
    if teacher is None:
        return ()
    lines = [
        "membership AUC: how well a small loss tells a training sample from a validation sample; "
        "0.5 is no better than chance, 1 gives every one away (loss-threshold attack)."
    ]
    if not teacher.trained_here:
        lines.append(
            "The teacher came trained: unless that was on the very training split of this task, "
            "its membership AUC is no evidence of anything."
        )
    return tuple(lines)


def _mean_row(training: TrainedNetwork, name: str) -> tuple[str, ...]:
    arms = [arm for arm in training.arms if arm.name == name]
    shown = f"{name} (goes on)" if name == training.shipped else name
    if len(arms) == 1:
        return (shown, "1", _score(arms[0]), *_figures(arms[0].figures))
    return (shown, str(len(arms)), _mean_score(arms), *_mean_figures(arms))


def _mean_score(arms: Sequence[Arm]) -> str:
    values = [arm.evaluation.metric.value for arm in arms]
    metric = arms[0].evaluation.metric
    if words.is_share(metric.name, metric.value):
        return f"{100 * np.mean(values):.2f} % ± {100 * np.std(values, ddof=1):.2f}"
    return f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}"


def _mean_figures(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Return the mean of each figure; a dash where any network has none."""
    found = [arm.figures for arm in arms if arm.figures is not None]
    columns = (
        [f.nll for f in found],
        [f.calibration_error for f in found],
        [f.agreement for f in found],
        [f.membership_auc for f in found],
    )
    return tuple(_mean(column) if len(found) == len(arms) else words.NOTHING for column in columns)


def _mean(column: Sequence[float | None]) -> str:
    known = [value for value in column if value is not None]
    return _digits(float(np.mean(known))) if len(known) == len(column) else words.NOTHING


def _figures(figures: Figures | None) -> tuple[str, ...]:
    if figures is None:
        return (words.NOTHING,) * len(_FIGURES)
    return (
        _digits(figures.nll),
        _digits(figures.calibration_error),
        _digits(figures.agreement),
        f"{_digits(figures.membership_auc)} ({_digits(figures.membership_low)} to "
        f"{_digits(figures.membership_high)})",
    )


def _digits(value: float | None) -> str:
    return words.NOTHING if value is None or not np.isfinite(value) else f"{value:.4f}"


def _score(arm: Arm) -> str:
    metric: Metric = arm.evaluation.metric
    return words.score(metric)


def _marked(arm: Arm, training: TrainedNetwork) -> str:
    return f"{arm.name} (goes on)" if arm is training.arm else arm.name
