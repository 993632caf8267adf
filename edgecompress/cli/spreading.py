"""Check `[accept] max_isa_spread` for ONNX files that came from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgecompress.bounds import conclude, unknown
from edgecompress.cli.data import Samples, as_scored, inputs_for
from edgecompress.errors import ChildFailedError
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
from edgecompress.verifying.machines import RefusedError

Say = Callable[[str], None]
Scores = tuple[float, ...]


@dataclass(frozen=True)
class Elsewhere:
    """Score one model on other processors: on each once, for profiles share them.

    `answered` holds the scores by processor, or how it ended there, which is as final.
    """

    facts: ModelFacts
    accept: AcceptSettings | None
    samples: Samples | None
    say: Say
    answered: dict[str, Scores | RefusedError | ChildFailedError] = field(default_factory=dict)

    def with_spread(self, verdict: Verdict, profile: Profile) -> Verdict:
        """Return the verdict with a check of the spread over the profile's fleet, if asked for."""
        if self.accept is None or self.accept.max_isa_spread is None:
            return verdict
        check = self._check(profile, self.accept.max_isa_spread)
        return conclude([*verdict.checks, check])

    def _check(self, profile: Profile, limit: float) -> BudgetCheck:
        if self.samples is None or self.samples.labels is None:
            return unknown(NAME, "", limit, "not scored; give data with labels")
        own, fleet = isa_of(describe_host().isa), fleet_of(profile.device)
        found = members(profile.device, fleet, own, Kits(default_cache()))
        return judge_spread(limit, self.samples.metric.name, found, self._scores_on)

    def _scores_on(self, member: Member) -> Scores:
        if member.name not in self.answered:
            self.say(f"{self.facts.model.path.name}: scoring on {member.name}")
            try:
                self.answered[member.name] = self._scored_on(member)
            except (RefusedError, ChildFailedError) as error:
                self.answered[member.name] = error
        found = self.answered[member.name]
        if isinstance(found, Exception):
            raise found
        return found

    def _scored_on(self, member: Member) -> Scores:
        samples, accept = self.samples, self.accept
        assert samples is not None
        assert samples.labels is not None
        assert accept is not None
        rows = evenly(len(samples.labels), accept.isa_samples)
        part = {name: array[rows] for name, array in inputs_for(self.facts, samples).items()}
        found = answers(member, Kits(default_cache()), self.facts, part, PATIENCE_S)
        logits = as_scored(self.facts, samples, found)
        return evaluate(samples.metric, logits, samples.labels[rows], "test").scores
