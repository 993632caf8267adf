"""Choose temperature and weight on validation, by a given number of short trainings.

The trials come in one order that nothing but the recipe decides: its own two numbers first, then
the most telling others. So a run that is killed finds the trials it made, and T = 1 is always
among them: an uncalibrated teacher, or none worth softening, is seen by that.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecompress.lessons import Schedule
from edgecompress.recipe import DistillSettings
from edgecompress.records import Evaluation, Trial

EPOCHS_RATIO = 0.2
SPACE = (
    (1.0, 0.5), (4.0, 0.9), (2.0, 0.9), (1.0, 0.9), (4.0, 0.5), (2.0, 0.5), (8.0, 0.9),
    (8.0, 0.5), (4.0, 1.0), (2.0, 1.0), (1.0, 1.0), (4.0, 0.1), (1.0, 0.1),
)  # fmt: skip
"""Pairs of (temperature, kd_weight)."""


def tuned(
    settings: DistillSettings, train: Callable[[DistillSettings], Evaluation]
) -> tuple[DistillSettings, tuple[Trial, ...]]:
    """Return the settings with the best trial's numbers, and all trials.

    `train(settings)` trains one distilled student and scores it on validation. Of equals the
    earlier goes on, so the recipe's own numbers change only for better ones.
    """
    if not settings.tune:
        return settings, ()
    epochs = max(1, round(settings.epochs * EPOCHS_RATIO))
    trials = []
    for temperature, kd_weight in pairs(settings):
        numbers = {"temperature": temperature, "kd_weight": kd_weight}
        short = settings.model_copy(update={**numbers, "epochs": epochs, "tune": 0})
        trials.append(Trial(temperature, kd_weight, train(short).metric))
    best = max(trials, key=_quality)  # the first of equals
    chosen = {"temperature": best.temperature, "kd_weight": best.kd_weight, "tune": 0}
    return settings.model_copy(update=chosen), tuple(trials)


def pairs(settings: DistillSettings) -> tuple[tuple[float, float], ...]:
    """Return the pairs (temperature, kd_weight) to try, at most `settings.tune` and none twice.

    A loss that reads no temperature keeps the one it has.

    >>> pairs(DistillSettings(tune=3))
    ((4.0, 0.9), (1.0, 0.5), (2.0, 0.9))
    >>> pairs(DistillSettings(tune=3, loss="mse"))
    ((4.0, 0.9), (4.0, 0.5), (4.0, 1.0))
    """
    given, weight = settings.temperature, settings.kd_weight
    assert not isinstance(given, Schedule) and not isinstance(weight, Schedule)
    reads = settings.loss not in ("mse", "multi", "cosine")
    wanted = [(t if reads else given, w) for t, w in ((given, weight), *SPACE)]
    return tuple(dict.fromkeys(wanted))[: settings.tune]


def choice_in_words(trials: tuple[Trial, ...]) -> str:
    """Return what was chosen and among how many, or nothing without trials."""
    if not trials:
        return ""
    best = max(trials, key=_quality)
    softened = len({trial.temperature for trial in trials}) > 1  # else no loss reads it
    return (
        f"{f'T = {best.temperature:g} and ' if softened else ''}"
        f"kd_weight = {best.kd_weight:g}, the best of {len(trials)} "
        f"short trials ({best.metric.name} {best.metric.value:.4f} on {best.metric.split}); "
    )


def _quality(trial: Trial) -> float:
    return trial.metric.value if trial.metric.higher_is_better else -trial.metric.value
