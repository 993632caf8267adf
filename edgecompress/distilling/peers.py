"""Codistillation: two students with different first weights that learn from labels and each other.

(Zhang, Xiang, Hospedales, Lu 2018, "Deep Mutual Learning"; Anil et al. 2018, "Large scale
distributed distillation through online codistillation", whose burn-in is taken over: until peers
know something, each would teach the other its noise.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.distilling.hints import Answer
from edgecompress.distilling.kinds import soft_part
from edgecompress.distilling.lesson import Lesson, Moment
from edgecompress.distilling.loop import logits_of
from edgecompress.errors import TrainingError
from edgecompress.recipe import DistillSettings

BURN_IN_RATIO = 0.2
"""Share of the steps in which peers learn from the labels alone."""

TEMPERATURE = 1.0
"""Peers are trained with the same labels, so that their certainty is of one kind already."""

_START = Moment()
_PLAIN = DistillSettings()  # each kind's own soft loss


class Pair(nn.Module):
    """Run two peers on the same batch; their logits come stacked, shape (2, batch, ...)."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other
        ours, theirs = (list(peer.state_dict().values()) for peer in (one, other))
        if all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            raise TrainingError(
                "distill.peers: both peers begin with the same weights, so that neither knows "
                "anything that the other does not; expected a function that makes students with "
                "weights drawn from torch's generator"
            )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits of both peers."""
        return torch.stack([logits_of(self.one(*inputs)), logits_of(self.other(*inputs))])


def each_peer(adjust: Callable[[nn.Module, int], None]) -> Callable[[nn.Module, int], None]:
    """Return what changes both peers' gradients as `adjust` changes one network's."""

    def both(pair: nn.Module, step: int) -> None:
        assert isinstance(pair, Pair)
        for peer in (pair.one, pair.other):
            adjust(peer, step)

    return both


@dataclass(frozen=True)
class PeerLesson(Lesson):
    """Teach a `Pair`: each peer from the labels and, after the burn-in, from the other's answers.

    The losses of both are added, so that each peer's gradient is its own. Unlabelled samples take
    part in what the peers teach each other.
    """

    def loss(
        self,
        answer: Answer,
        word: Answer | None,
        labels: Tensor,
        label_smoothing: float = 0.0,
        moment: Moment = _START,
    ) -> Tensor:
        """Return the sum of both peers' losses: NLL + KL(other ‖ own) (Zhang et al., eq. 4)."""
        one, other = answer.logits
        loss = self._hard(one, labels, label_smoothing, moment)
        loss = loss + self._hard(other, labels, label_smoothing, moment)
        if moment.done < BURN_IN_RATIO:
            return loss
        for peer, teaching in ((one, other.detach()), (other, one.detach())):
            loss = loss + soft_part(self.aim, _PLAIN, peer, teaching, labels, TEMPERATURE)
        return loss
