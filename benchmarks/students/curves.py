"""Measure this machine's channel curves and print what they say.

python benchmarks/students/curves.py [--keep DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgecompress.measuring.curves import Curve, Form, gaining_widths, kept_curves

SHOWN = (32, 48, 56, 63, 64, 72, 128)
FORMS: tuple[Form, ...] = ("float", "unsigned")


def row(curve: Curve) -> str:
    """Return times in microseconds, and the widths up to 64 and from there on that gain."""
    times = [f"{1000 * curve.timings[w].ms:.0f}" if w in curve.timings else "-" for w in SHOWN]
    gaining = sorted(gaining_widths(curve))
    few = ", ".join(str(w) for w in gaining if w <= 64) or "none"
    many = ", ".join(str(w) for w in gaining if 64 < w <= 128) or "none"
    name = f"{curve.kind}, {curve.size} x {curve.size}" if curve.size > 1 else curve.kind
    return " | ".join(["", name, *times, few, many, ""]).strip()


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--keep", type=Path, default=Path("curves"))
    folder = given.parse_args().keep
    for form in FORMS:
        print(f"\n{form}, microseconds\n")
        print(f"| layer | {' | '.join(map(str, SHOWN))} | gain, to 64 | gain, to 128 |")
        print(f"|---|{'--:|' * len(SHOWN)}---|---|")
        for curve in kept_curves(folder, form):
            print(row(curve))


if __name__ == "__main__":
    main()
