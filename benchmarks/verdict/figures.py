"""Make all figures that need no quiet machine: the replays and the simulations, as Markdown.

    python benchmarks/verdict/figures.py > benchmarks/verdict/figures.md

About three minutes on one core. The live runs need the machine to themselves: live.py.
"""

from __future__ import annotations

import replay
import simulate
from traces import FOLDER, load


def main() -> None:
    """Print the tables."""
    traces = [load(path) for path in sorted(FOLDER.glob("*.npz"))]
    print("# Replays of the recorded sets\n")
    print(replay.describe(traces), end="\n\n")
    cells = list(replay.replay(traces, repeats=4000))
    print("PASS / FAIL / INCONCLUSIVE in percent, with the truth so far over or under the limit:\n")
    print(replay.table(cells), end="\n\n")
    print(replay.worst(cells), end="\n\n")
    print("# Simulated noise\n")
    seeded = enumerate(simulate.SCENES.items())
    rows = {name: simulate.scene(slow, 1000, seed) for seed, (name, slow) in seeded}
    print("\n".join((*simulate.table(rows), "", *simulate.worst(rows))))


if __name__ == "__main__":
    main()
