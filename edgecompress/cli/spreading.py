"""Check `[accept] max_isa_spread` for an ONNX file that came from anywhere."""

from __future__ import annotations

from collections.abc import Callable

from edgecompress.bounds import conclude, unknown
from edgecompress.cli.data import Samples, as_scored, inputs_for
from edgecompress.measuring.host import describe_host, fleet_of
from edgecompress.profiles import Profile, isa_of
from edgecompress.recipe import AcceptSettings
from edgecompress.records import BudgetCheck, Verdict
from edgecompress.runtime import ModelFacts
from edgecompress.tasks.metrics import evaluate
from edgecompress.verifying.budget import NAME, PATIENCE_S, judge_spread
from edgecompress.verifying.emulators import Kits, default_cache
from edgecompress.verifying.fleet import Member, answers, members
from edgecompress.verifying.golden import evenly

Say = Callable[[str], None]


def with_isa_spread(
    verdict: Verdict,
    facts: ModelFacts,
    profile: Profile,
    accept: AcceptSettings | None,
    samples: Samples | None,
    say: Say,
) -> Verdict:
    """Return the verdict with a check of the spread over the profile's fleet, where it is asked."""
    if accept is None or accept.max_isa_spread is None:
        return verdict
    check = _check(facts, profile, accept, samples, say)
    return conclude([*verdict.checks, check])


def _check(
    facts: ModelFacts,
    profile: Profile,
    accept: AcceptSettings,
    samples: Samples | None,
    say: Say,
) -> BudgetCheck:
    limit = accept.max_isa_spread
    assert limit is not None
    if samples is None or samples.labels is None:
        return unknown(NAME, "", limit, "not scored; give data with labels")
    metric, kits = samples.metric, Kits(default_cache())
    rows = evenly(len(samples.labels), accept.isa_samples)
    labels = samples.labels[rows]
    part = {name: array[rows] for name, array in inputs_for(facts, samples).items()}

    def scores_on(member: Member) -> tuple[float, ...]:
        say(f"{facts.model.path.name}: scoring on {member.name}")
        found = answers(member, kits, facts, part, PATIENCE_S)
        return evaluate(metric, as_scored(facts, samples, found), labels, "test").scores

    own = isa_of(describe_host().isa)
    fleet = members(profile.device, fleet_of(profile.device), own, kits)
    return judge_spread(limit, metric.name, fleet, scores_on)
