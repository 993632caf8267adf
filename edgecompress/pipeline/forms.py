"""The forms in which the networks of a run may ship: float, 8 bits, the app's work folded in."""

from __future__ import annotations

from collections.abc import Sequence

from edgecompress.pipeline.aware import aware_candidate
from edgecompress.pipeline.candidates import export_network, scored
from edgecompress.pipeline.controlled import controlled
from edgecompress.pipeline.folding import folded_candidate
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.quantized import quantize_candidate
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.records import Candidate


def forms_of(
    run: Run, profile: Profile, teacher: TeacherInHand, networks: Sequence[Network]
) -> tuple[Candidate, ...]:
    """Return every candidate that the networks make, scored on validation.

    Accuracy control goes by the scores of the plain candidates; what is folded into a file makes
    another one, which is scored anew.
    """
    floats = [export_network(run, network, f"{network.label}-fp32") for network in networks]
    made = [small for whole in floats for small in quantize_candidate(run, profile, whole)]
    trained = [one for whole in floats for one in aware_candidate(run, profile, teacher, whole)]
    plain = tuple(scored(run, one, "validation") for one in (*floats, *made, *trained))
    folded = (folded_candidate(run, profile, one) for one in controlled(run, profile, plain))
    return tuple(scored(run, one, "validation") for one in folded)
