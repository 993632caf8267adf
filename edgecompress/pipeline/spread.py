"""The shipped file's score on every processor of the profile's fleet, for recipes that ask."""

from __future__ import annotations

from edgecompress.bounds import conclude
from edgecompress.measuring.host import describe_host, fleet_of
from edgecompress.pipeline.candidates import TEST
from edgecompress.pipeline.folding import as_logits, inputs_of
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile, isa_of
from edgecompress.records import Candidate, Evaluation, Verdict
from edgecompress.runtime import admit
from edgecompress.store import StageCode
from edgecompress.tasks.metrics import evaluate
from edgecompress.verifying.budget import PATIENCE_S, judge_spread
from edgecompress.verifying.emulators import Kits, default_cache
from edgecompress.verifying.fleet import Member, answers, members
from edgecompress.verifying.golden import evenly

# By the name of the stage that reads the test split, so that these reads are counted with it.
ELSEWHERE = StageCode(TEST.name, ("tasks", "verifying", "runtime.py"), ("onnx", "onnxruntime"))


def with_isa_spread(run: Run, profile: Profile, chosen: Candidate, verdict: Verdict) -> Verdict:
    """Return the verdict with a check of `[accept] max_isa_spread`, where the recipe sets it.

    The chosen file is scored on an evenly spaced part of the test split, once for each member of
    the fleet, by ONNX Runtime's real kernels: on this host where that is one, else under qemu.
    """
    accept = run.recipe.accept
    if accept is None or accept.max_isa_spread is None:
        return verdict
    kits, device = Kits(default_cache()), profile.device
    fleet = members(device, fleet_of(device), isa_of(describe_host().isa), kits)
    check = judge_spread(
        accept.max_isa_spread,
        run.task.metric.name,
        fleet,
        lambda member: _scores(run, chosen, member, kits, accept.isa_samples),
    )
    return conclude([*verdict.checks, check])


def _scores(
    run: Run, chosen: Candidate, member: Member, kits: Kits, most: int
) -> tuple[float, ...]:
    """Return the scores of `most` test samples on one member, made once."""
    part = run.task.test.take(evenly(len(run.task.test), most))
    labels = part.labels
    assert labels is not None  # checked when the task was loaded
    key = {
        "model": chosen.model.sha256,
        "task": run.fingerprint,
        "processor": member.name,
        "samples": len(part),
    }

    def make(_: object) -> Evaluation:
        inputs = inputs_of(run, chosen, part.inputs)
        found = answers(member, kits, admit(chosen.model.path), inputs, PATIENCE_S)
        return evaluate(run.task.metric, as_logits(run, chosen, found), labels, "test")

    title = f"test score of {chosen.label} on {member.name}"
    return run.store.once(ELSEWHERE, Evaluation, key, make, title=title).scores
