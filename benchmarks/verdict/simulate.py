"""Put noise of known kinds before the product's judge and count its answers.

    python benchmarks/verdict/simulate.py [--repeats 1000]

A model of 2 ms is called for half a second in each of twenty processes, one a second; its calls
have a tail of their own (gamma) and processes differ by 1 %. Then one of these is laid over it:

- bursts: all calls take twice as long, for 50 ms (or 1 s) on average, at random moments, for a
  given share of the time;
- drift: the machine's speed changes over the minutes: steadily by so much over the set, up or down;
  as a sine of two minutes from a random moment on; at once by so much at a random moment; as a
  random walk that tends back.

The machine's usual pace is unknown, or known; then the reference network, timed after each process,
feels the noise as the model does, or feels none of it.

Truth: the median over the processes of many such sets of each one's 95 % quantile; for steady drift
and for the step, which belong to a set, of the set's own processes. A set that met little of the
noise reads too low. The answers are counted at the limit, with the truth 2 and 5 % over it, and
10 % under.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from replay import answer, looked
from traces import as_measurement

from edgecompress.measuring.latency import running_ms
from edgecompress.measuring.readings import Readings, read_processes
from edgecompress.records import LatencySamples, Status, UsualPace
from edgecompress.statistics import quantile, wilson
from edgecompress.verdict import LOOKS

Floats = NDArray[np.float64]
Slowness = Callable[[Floats, np.random.Generator], Floats]  # at these moments (s): 1 = as usual
Usual = Literal["unknown", "felt", "unfelt"]
USUALS: tuple[Usual, ...] = get_args(Usual)

CALL_S, SAMPLED_S, EVERY_S = 0.002, 0.5, 1.0
REFERENCE_MS, REFERENCE_S = 0.25, 0.03
PROCESSES = LOOKS[-1]
LENGTH_S = PROCESSES * EVERY_S
OVER = (1.05, 1.02, 1.00, 0.90)  # the truth as a multiple of the limit


def quiet(at: Floats, _rng: np.random.Generator) -> Floats:
    return np.ones_like(at)


def bursts(at: Floats, rng: np.random.Generator, share: float, mean_s: float) -> Floats:
    """Alternate quiet and slow spells, both exponential, from a stationary start."""
    calm_s = mean_s * (1 - share) / share
    cycles = int(4 + 2 * at[-1] / (mean_s + calm_s)) + 20
    spells = np.empty(2 * cycles)
    slow_first = rng.random() < share
    means = (mean_s, calm_s) if slow_first else (calm_s, mean_s)
    spells[::2], spells[1::2] = (rng.exponential(m, cycles) for m in means)
    number = np.searchsorted(np.cumsum(spells), at)
    return np.where((number % 2 == 0) == slow_first, 2.0, 1.0)


def ramp(at: Floats, rng: np.random.Generator, change: float) -> Floats:
    sign = rng.choice((-1.0, 1.0))
    return 1 + sign * change * (at / LENGTH_S - 0.5)


def step(at: Floats, rng: np.random.Generator, change: float) -> Floats:
    moment, sign = rng.uniform(0, LENGTH_S), rng.choice((-1.0, 1.0))
    level = sign * change * (1 - moment / LENGTH_S)  # so that the set's mean stays 1
    return 1 - level + sign * change * (at > moment)


def sine(at: Floats, rng: np.random.Generator, change: float) -> Floats:
    return 1 + change / 2 * np.sin(2 * np.pi * (at / 120.0 + rng.random()))


def walk(at: Floats, rng: np.random.Generator, change: float) -> Floats:
    """Return an Ornstein-Uhlenbeck walk of that standard deviation, which forgets in a minute."""
    seconds = np.arange(int(at[-1]) + 2)
    keep = np.exp(-1 / 60.0)
    noise = rng.standard_normal(len(seconds))
    levels = np.empty(len(seconds))
    levels[0] = noise[0]
    for i in range(1, len(seconds)):
        levels[i] = keep * levels[i - 1] + np.sqrt(1 - keep**2) * noise[i]
    return 1 + change * np.interp(at, seconds, levels)


SCENES: dict[str, Slowness] = {
    "quiet": quiet,
    **{
        f"bursts of {1000 * mean_s:.0f} ms, {share:.1%} of the time": partial(
            bursts, share=share, mean_s=mean_s
        )
        for mean_s in (0.05, 1.0)
        for share in (0.005, 0.02, 0.06, 0.2)
    },
    **{f"steady drift of {c:.1%}": partial(ramp, change=c) for c in (0.005, 0.03, 0.06)},
    **{f"a step of {c:.0%}": partial(step, change=c) for c in (0.03, 0.06)},
    **{f"a sine of {c:.0%}": partial(sine, change=c) for c in (0.03, 0.06)},
    **{f"a walk of {c:.1%}": partial(walk, change=c) for c in (0.005, 0.015)},
}
SLIGHT = ("quiet", "bursts of 50 ms, 0.5%", "steady drift of 0.5%", "a walk of 0.5%")


def main() -> None:
    """Print the table and the required figures."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=1000)
    repeats = asked.parse_args().repeats
    for usual in USUALS:
        print(f"the usual pace is {usual}\n")
        rows = scenes(usual, repeats)
        print("\n".join((*table(rows), "", *worst(rows))), end="\n\n")


def scenes(usual: Usual, repeats: int) -> dict[str, dict[float, Counter[Status]]]:
    """Return the answers under every kind of noise."""
    seeded = enumerate(SCENES.items())
    return {name: scene(slow, usual, repeats, seed) for seed, (name, slow) in seeded}


def scene(slow: Slowness, usual: Usual, repeats: int, seed: int) -> dict[float, Counter[Status]]:
    """Return the answers under one kind of noise."""
    rng = np.random.default_rng(seed)
    sets = [read_set(slow, usual, rng) for _ in range(repeats)]
    everywhere = float(np.median([readings.figure for readings in sets]))
    counts: dict[float, Counter[Status]] = {over: Counter() for over in OVER}
    for readings in sets:
        true = float(np.median(readings.figure)) if is_of_set(slow) else everywhere
        looks = looked(readings, np.arange(PROCESSES))
        for over, found in counts.items():
            found[answer(looks, true / over)] += 1
    return counts


def is_of_set(slow: Slowness) -> bool:
    return getattr(slow, "func", None) in (ramp, step)


def read_set(slow: Slowness, usual: Usual, rng: np.random.Generator) -> Readings:
    measurement = as_measurement(tuple(simulate(slow, usual, rng)))
    if usual != "unknown":
        measurement = replace(measurement, usual=UsualPace(REFERENCE_MS, 20))
    return read_processes(measurement, _p95)


def simulate(slow: Slowness, usual: Usual, rng: np.random.Generator) -> Iterator[LatencySamples]:
    """Yield the processes of one set."""
    within = np.arange(0, SAMPLED_S + REFERENCE_S, CALL_S)
    starts = EVERY_S * np.arange(PROCESSES)
    at = (starts[:, None] + within).ravel()
    levels = slow(at, rng).reshape(PROCESSES, -1)
    calls = round(SAMPLED_S / CALL_S)
    for level in levels:
        wall = _calls(calls, rng) * level[:calls] * (1 + 0.01 * rng.standard_normal())
        felt = float(np.median(level[calls:])) if usual == "felt" else 1.0
        reference = REFERENCE_MS * felt * (1 + 0.005 * rng.standard_normal())
        yield LatencySamples(
            tuple(wall.tolist()), (0.0,) * len(wall), 0, 1.0, 1, 1, reference_ms=(reference,)
        )


def _calls(number: int, rng: np.random.Generator) -> Floats:
    return 2.0 * (0.96 + rng.gamma(4.0, 0.01, number))


def _p95(samples: LatencySamples) -> float:
    return quantile(running_ms(samples), 0.95)


def table(rows: dict[str, dict[float, Counter[Status]]]) -> Iterator[str]:
    """Yield one row a kind of noise: PASS / FAIL / INCONCLUSIVE in percent."""
    yield f"| noise | {' | '.join(f'{over - 1:+.0%}' for over in OVER)} |"
    yield "|---|" + "--:|" * len(OVER)
    for name, counts in rows.items():
        cells = [
            " / ".join(f"{100 * c[s] / c.total():.3g}" for s in ("pass", "fail", "inconclusive"))
            for c in counts.values()
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def worst(rows: dict[str, dict[float, Counter[Status]]]) -> Iterator[str]:
    """Yield the required figures."""
    for over in (1.00, 1.02, 1.05):
        name = max(rows, key=lambda n: rows[n][over]["pass"])
        found = rows[name][over]
        high = wilson(found["pass"], found.total(), 0.90)[1]
        share = found["pass"] / found.total()
        yield f"false PASS {over - 1:+.0%}, worst: {share:.2%} (at most {high:.2%}): {name}"
    slight = [n for n in rows if n.startswith(SLIGHT)]
    name = max(slight, key=lambda n: rows[n][0.90]["inconclusive"])
    found = rows[name][0.90]
    share = found["inconclusive"] / found.total()
    yield f"INCONCLUSIVE at -10% under slight noise, worst: {share:.2%}: {name}"


if __name__ == "__main__":
    main()
