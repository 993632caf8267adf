"""Explain ten models made slow on purpose and ten sound ones; print what is named for each.

    python benchmarks/explain/run.py [NAME...]

Exits with 1 when a slow model's cause is not the first named, or a sound one is named anything.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slow import SLOW
from sound import OTHERS, SOUND

from edgecompress.measuring.explain import explain
from edgecompress.measuring.explained import Explanation
from edgecompress.runtime import admit, make_inputs


def explained(path: Path) -> Explanation:
    facts = admit(path)
    return explain(facts.model, make_inputs(facts))


def named(explanation: Explanation) -> str:
    """Return the causes with their shares and savings."""
    return ", ".join(
        f"{f.cause} {f.share:.0%}" + (f" (saving {f.saving:.0%})" if f.saving is not None else "")
        for f in explanation.findings
    )


def slow_models(wanted: Sequence[str], folder: Path) -> bool:
    print(
        "| model | ms | done soundly | expected | named: share of the time |\n|---|--:|--:|---|---|"
    )
    right = True
    for case in (case for case in SLOW if not wanted or case.name in wanted):
        slow = explained(case.slow(folder / case.name / "slow"))
        sound = explained(case.sound(folder / case.name / "sound"))
        first = slow.findings[0].cause if slow.findings else ""
        right &= first == case.cause
        print(
            f"| {case.name} | {slow.profile.call_ms:.3f} | {sound.profile.call_ms:.3f} "
            f"| {case.cause} | {named(slow) or 'nothing'} |",
            flush=True,
        )
    return right


def sound_models(
    models: Mapping[str, Callable[[Path], Path]], wanted: Sequence[str], folder: Path
) -> bool:
    print("\n| model | ms | named |\n|---|--:|---|")
    quiet = True
    for name, make in models.items():
        if wanted and name not in wanted:
            continue
        explanation = explained(make(folder / name))
        quiet &= not explanation.findings
        print(
            f"| {name} | {explanation.profile.call_ms:.3f} | {named(explanation) or 'nothing'} |",
            flush=True,
        )
    return quiet


def main(wanted: Sequence[str]) -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        right = slow_models(wanted, Path(folder))
        quiet = sound_models(SOUND, wanted, Path(folder))
        sound_models(OTHERS, wanted, Path(folder))
    return 0 if right and quiet else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
