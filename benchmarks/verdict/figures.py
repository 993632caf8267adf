"""Make all figures that need no quiet machine: the replays and the simulations, as Markdown.

    python benchmarks/verdict/figures.py > benchmarks/verdict/figures.md

About three minutes on one core. The live runs need the machine to themselves: live.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import replay
import simulate
from models import SIZES
from others import OTHERS
from traces import FOLDER, Trace, load

WORDS: dict[simulate.Usual, str] = {
    "unknown": "usual pace not known",
    "felt": "usual pace known, the reference feels it",
    "unfelt": "usual pace known, the reference does not feel it",
}


def main() -> None:
    """Print the tables."""
    traces = [load(path) for path in sorted(FOLDER.glob("*.npz"))]
    known = replay.knowing(traces)
    print("# Replays of the recorded sets\n")
    print(replay.describe(known), end="\n\n")
    print("PASS / FAIL / INCONCLUSIVE in percent, with the truth so far over or under the limit.")
    _replayed("On a machine whose usual pace is known", known, SIZES)
    _replayed("On a machine that is seen for the first time", traces, SIZES)
    print("\n# Other kinds of models\n")
    print(replay.describe(known, OTHERS))
    _replayed("On a machine whose usual pace is known", known, OTHERS)
    print("\n# How many occasions make a pace known\n")
    print(replay.learning(traces, repeats=400))
    for usual in simulate.USUALS:
        print(f"\n# Simulated noise, {WORDS[usual]}\n")
        rows = simulate.scenes(usual, repeats=1000)
        print("\n".join((*simulate.table(rows), "", *simulate.worst(rows))))


def _replayed(title: str, traces: Sequence[Trace], models: Iterable[str]) -> None:
    cells = list(replay.replay(traces, 4000, models))
    print(f"\n## {title}\n", replay.table(cells), replay.worst(cells), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
