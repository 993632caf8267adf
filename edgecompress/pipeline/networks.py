"""Networks on their way through the chain, and the teacher that all of them are compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgecompress.distilling.certainty import Certainty, calibrated
from edgecompress.distilling.choice import best_seed
from edgecompress.recipe import DistillSettings
from edgecompress.records import Artifact, PruningOutcome, TrainedNetwork
from edgecompress.store import digest_of
from edgecompress.teachers.adapters import CheckedTeacher
from edgecompress.teachers.weights import load_weights_


@dataclass(frozen=True)
class Network:
    """Hold a torch network on its way to ONNX; `digest` covers its weights and its plan."""

    label: str
    module: nn.Module
    digest: str
    training: TrainedNetwork | None = None
    pruning: PruningOutcome | None = None

    def trained(self, training: TrainedNetwork) -> Network:
        """Return the network with the weights of the arm that goes on."""
        weights = training.arm.weights
        module = self.loaded(weights)
        digest = digest_of([self.pruning.plan.sha256 if self.pruning else "", weights.sha256])
        return replace(self, module=module, digest=digest, training=training)

    def as_arm(self, name: str) -> Network:
        """Return the network as the arm `name` of its training ended, of the arm's best seed."""
        assert self.training is not None
        weights = best_seed(self.training.arms, name).weights
        return replace(self, label=name, module=self.loaded(weights), digest=weights.sha256)

    def loaded(self, weights: Artifact) -> nn.Module:
        """Return a copy of the module with other weights of the same layout."""
        return load_weights_(copy.deepcopy(self.module), weights.path).eval()


@dataclass(frozen=True)
class TeacherInHand:
    """Hold the teacher as a source of logits, and as a network or ONNX file where it is one.

    `certainty` is how far its logits can be trusted.
    """

    teacher: CheckedTeacher
    digest: str
    network: Network | None = None
    onnx: Path | None = None
    certainty: Certainty | None = None

    def calibrated(self, settings: DistillSettings) -> TeacherInHand:
        """Return the teacher with its certainty set right, where the settings ask for it."""
        teacher = calibrated(self.teacher, self.certainty, settings)
        if teacher is self.teacher:
            return self
        return replace(self, teacher=teacher, digest=digest_of([self.digest, teacher.temperature]))


def parameters(module: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in module.parameters())
