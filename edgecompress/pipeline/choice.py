"""Which candidate ships: pure, on validation scores, verdicts and measured times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite

from edgecompress.measuring.readings import GUARD
from edgecompress.records import Candidate, Verdict
from edgecompress.verdict import ACCEPT, score_drop

WORTHWHILE = 0.10  # the speed-up from which on an accepted loss of score is worth giving


def choose(
    candidates: Sequence[Candidate], verdicts: Mapping[str, Verdict]
) -> tuple[Candidate | None, str]:
    """Return the candidate that ships and the reason in words; None when none passed parity.

    Of the candidates that meet their budgets (if none does, of those that come closest): those
    whose validation score ties with the most accurate one, paired on the same samples; of these
    the fastest by measured p50, and of equally fast ones the smallest. A less accurate one takes
    its place where `[accept]` allows the loss and it is faster by 10 % or more.
    """
    sound = [c for c in candidates if c.dropped is None and (not c.parity or c.parity.passed)]
    if not sound:
        return None, "no candidate passed parity"
    eligible, how = _closest(sound, verdicts)
    tied, best = _tied(eligible)
    chosen, why = _fastest(tied, best, len(eligible))
    bold = [
        c
        for c in eligible
        if _accepted(verdicts[c.label]) and median_ms(c) * (1 + WORTHWHILE) <= median_ms(chosen)
    ]
    if bold:
        careful, chosen = chosen, min(bold, key=median_ms)
        why = (
            f"is {median_ms(careful) / median_ms(chosen):.3g}x as fast as {careful.label}, "
            "for a loss of validation score that [accept] allows"
        )
    return chosen, f"{chosen.label}: {how}; {why}"


def _accepted(verdict: Verdict) -> bool:
    return any(c.budget == ACCEPT and c.status == "pass" for c in verdict.checks)


def _fastest(tied: Sequence[Candidate], best: Candidate | None, of: int) -> tuple[Candidate, str]:
    """Return the fastest of those that tie for the best score, the smallest where as fast."""
    fastest = min(median_ms(c) for c in tied)
    quick = [c for c in tied if median_ms(c) <= fastest * (1 + GUARD)]
    chosen = min(quick, key=lambda c: c.model.size_bytes)
    why = []
    if best is not None:
        score = "has the best" if chosen is best else f"ties with {best.label} for the best"
        why.append(f"{score} validation score of {of}")
    if len(tied) > 1:
        speed = f" ({median_ms(chosen):.3g} ms)" if isfinite(fastest) else ""
        size = ", then the smallest" if len(quick) > 1 else ""
        why.append(f"is the fastest{size} of the {len(tied)} that tie{speed}")
    return chosen, "; ".join(why)


def without_slower(
    candidates: Sequence[Candidate], verdicts: Mapping[str, Verdict], pruning_gains: bool = False
) -> list[Candidate]:
    """Drop what came out slower than the float model it was made from, pruned or quantized.

    Fewer channels or bits promise no speed, and some kernels lose by them. With `pruning_gains`, a
    pruned model must even beat its input by more than the noise. What went in must not have failed
    a budget itself.
    """
    sound = {
        c.label: c
        for c in candidates
        if c.dropped is None and c.measurement is not None and verdicts[c.label].status != "fail"
    }
    kept = []
    for one in candidates:
        network, _, scheme = one.label.partition("-")
        origins = [sound.get(f"{network}-fp32"), sound.get("student-fp32")]
        now = median_ms(one)
        whole = sound.get(f"student-{scheme}") if network == "pruned" else None
        reasons = [
            f"slower than {origin.label}: {now:.3g} ms against {median_ms(origin):.3g} ms"
            for origin in origins
            if origin is not None and median_ms(origin) * (1 + GUARD) < now < inf
        ]
        if pruning_gains and whole is not None and median_ms(whole) * (1 - GUARD) <= now < inf:
            figures = f"{now:.3g} ms against {median_ms(whole):.3g} ms"
            reasons.append(f"not faster than {whole.label} beyond the noise: {figures}")
        droppable = reasons and one.dropped is None
        kept.append(replace(one, dropped=reasons[0]) if droppable else one)
    return kept


def _closest(
    candidates: Sequence[Candidate], verdicts: Mapping[str, Verdict]
) -> tuple[list[Candidate], str]:
    """Return the candidates that come closest to their budgets, and how close in words."""
    for status, words in (
        ("pass", "meets every budget"),
        ("inconclusive", "exceeds no budget for certain"),
    ):
        those = [c for c in candidates if verdicts[c.label].status == status]
        if those:
            return those, words
    excess = {c.label: _excess(verdicts[c.label]) for c in candidates}
    least = min(excess.values())
    return [c for c in candidates if excess[c.label] <= least], "comes closest to its budgets"


def _excess(verdict: Verdict) -> float:
    """Return by how much the worst failed budget is exceeded, as a share of its limit."""
    failed = [c for c in verdict.checks if c.status == "fail" and c.value is not None]
    return max(((c.value or 0.0) - c.limit) / (c.limit or 1.0) for c in failed)


def _tied(candidates: list[Candidate]) -> tuple[list[Candidate], Candidate | None]:
    """Return the candidates that tie with the most accurate one on validation, and that one."""
    scores = {c.label: e for c in candidates if (e := c.evaluation("validation"))}
    scored = [c for c in candidates if c.label in scores]
    if not scored:
        return candidates, None

    def goodness(candidate: Candidate) -> float:
        metric = scores[candidate.label].metric
        return metric.value if metric.higher_is_better else -metric.value

    best = max(scored, key=goodness)
    tied = [c for c in scored if score_drop(scores[best.label], scores[c.label])[1] <= 0.0]
    return tied, best


def median_ms(candidate: Candidate) -> float:
    """Return the measured median latency; infinite for a candidate that was not measured."""
    return candidate.measurement.latency_ms.p50 if candidate.measurement else inf
