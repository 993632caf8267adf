"""Show where a model's time goes and why it is slow: as text, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgecompress.cli.models import OpenModel
from edgecompress.cli.show import printable, table
from edgecompress.measuring.explain import explain
from edgecompress.measuring.explained import Explanation, Finding, Node, Profile
from edgecompress.report import words

LAYERS = 10  # rows of the table of layers; JSON has all
NAMED = 4  # layers named in a finding
NOTHING = "nothing found that makes it slow"


def explained(
    models: Sequence[OpenModel], threads: int, say: Callable[[str], None]
) -> list[Explanation]:
    """Return why each model is slow, in the order given."""
    return [explain(model.facts.model, model.inputs, threads, say) for model in models]


def explanation_text(label: str, explanation: Explanation) -> str:
    """Return the times by operator and by layer, then what was found."""
    profile = explanation.profile
    head = (
        f"{label}: a call takes {words.number(profile.call_ms)} ms; the profiler accounts for "
        f"{profile.accounted:.0%} of it, over {profile.runs} calls"
    )
    layers = _rows(profile, (((node.name, node.operator), [node]) for node in profile.nodes))
    parts = [
        head,
        table([("operator", "nodes", "ms", "share"), *_by_operator(profile)], right=(1, 2, 3)),
        table([("layer", "operator", "ms", "share"), *layers[:LAYERS]], right=(2, 3)),
        *(_finding(finding) for finding in explanation.findings),
    ]
    return "\n\n".join(parts if explanation.findings else [*parts, f"{label}: {NOTHING}"])


def explanation_json(explanation: Explanation) -> dict[str, object]:
    """Return all that is known; the layers in the order of running."""
    profile = explanation.profile
    return {
        "call_ms": profile.call_ms,
        "accounted_ratio": profile.accounted,
        "runs": profile.runs,
        "profiler_ms_per_node": profile.profiler_ms,
        "operators": [
            {"operator": operator, "nodes": len(nodes), **_time(profile, nodes)}
            for operator, nodes in _operators(profile)
        ],
        "layers": [
            {"layer": node.name, "operator": node.operator, **_time(profile, [node])}
            for node in profile.nodes
        ],
        "findings": [
            {
                "cause": finding.cause,
                "share": finding.share,
                "saving": finding.saving,
                "layers": list(finding.layers),
                "why": finding.why,
                "advice": finding.advice,
            }
            for finding in explanation.findings
        ],
    }


def _time(profile: Profile, nodes: Iterable[Node]) -> dict[str, float]:
    ms = sum(node.ms for node in nodes)
    return {"ms": ms, "share": profile.share(ms)}


def _operators(profile: Profile) -> list[tuple[str, list[Node]]]:
    """Return the operators with their nodes, the slowest first."""
    found: dict[str, list[Node]] = {}
    for node in profile.nodes:
        found.setdefault(node.operator, []).append(node)
    return sorted(found.items(), key=lambda item: -sum(node.ms for node in item[1]))


def _by_operator(profile: Profile) -> list[tuple[str, ...]]:
    named = ((operator, nodes) for operator, nodes in _operators(profile))
    return _rows(profile, (((operator, str(len(nodes))), nodes) for operator, nodes in named))


def _rows(
    profile: Profile, groups: Iterable[tuple[tuple[str, str], Sequence[Node]]]
) -> list[tuple[str, ...]]:
    """Return a row for each group of nodes, the slowest first."""
    timed = [(names, _time(profile, nodes)) for names, nodes in groups]
    timed.sort(key=lambda item: -item[1]["ms"])
    return [(*names, words.number(t["ms"]), f"{t['share']:.1%}") for names, t in timed]


def _finding(finding: Finding) -> str:
    """Return one finding: how much, where, why, what to do."""
    size = f"{finding.share:.0%} of the time"
    if finding.saving is not None:
        size += f", about {finding.saving:.0%} could be won"
    shown = ", ".join(finding.layers[:NAMED])
    more = len(finding.layers) - NAMED
    where = printable(f"{shown} and {more} more" if more > 0 else shown)
    why = printable(finding.why)  # names in it are the file's own
    return f"{finding.cause} ({size})\n  why: {why}\n  where: {where}\n  do: {finding.advice}"
