"""Surveys of networks, and pruning to given widths."""

from __future__ import annotations

import pytest
import torch
from prunable import IMAGE, asked, residual, same, state
from torch import nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import count_macs
from edgecompress.pruning.plan import PruningPlan
from edgecompress.pruning.prune import prune_to
from edgecompress.pruning.widths import Survey, survey

SETTINGS = asked(importance="l2")


class Shapes(nn.Module):
    """Hold a grouped, a depthwise and a flattened layer, and one that gets two joined inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(1, 12, 1, 2)
        self.joined = nn.Conv2d(20, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.first(x), self.second(x)], 1)
        x = self.grouped(self.depthwise(torch.relu(self.joined(x))))
        return self.head(x.flatten(1))


def macs(found: Survey, widths: dict[str, int]) -> int:
    """Return the MACs that a survey tells for these widths."""
    shares = {g.path: widths[g.path] / g.width for g in found.groups}
    layers = found.layers
    return sum(x.positions * x.weights(x.inputs.at(shares), x.outputs.at(shares)) for x in layers)


@pytest.mark.parametrize("network", [residual, Shapes])
@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
def test_a_survey_foretells_the_work_at_any_width(network, share: float) -> None:
    net = network()
    before = state(net)
    found = survey(net, (IMAGE,), SETTINGS)
    widths = {g.path: round(g.width * share) // g.unit * g.unit for g in found.groups}
    if share < 1:
        pruned = prune_to(net, (IMAGE,), widths, SETTINGS)
        assert pruned.macs_after == macs(found, widths)
        kept = {entry.module: len(entry.kept) for entry in pruned.plan.channels}
        assert kept == widths
        assert pruned.requested_ratio == pytest.approx(pruned.achieved_ratio)
    else:
        assert macs(found, widths) == count_macs(net, (IMAGE,))[0]
    assert same(state(net), before)


def test_the_least_important_channels_go() -> None:
    net = residual()
    group = survey(net, (IMAGE,), SETTINGS).groups[0]
    assert list(group.scores) == sorted(group.scores)
    left = [group.surviving(width) for width in range(group.width, 0, -group.unit)]
    assert left[0] == 1
    assert left == sorted(left, reverse=True)
    pruned = prune_to(net, (IMAGE,), {group.path: group.width - group.unit}, SETTINGS)
    assert isinstance(pruned.plan, PruningPlan)
    assert [len(entry.kept) for entry in pruned.plan.channels] == [group.width - group.unit]


def test_widths_that_cannot_be_are_refused() -> None:
    net = residual()
    path, width = next((g.path, g.width) for g in survey(net, (IMAGE,), SETTINGS).groups)
    for given in (0, width + 1):
        with pytest.raises(PruningError) as caught:
            prune_to(net, (IMAGE,), {path: given}, SETTINGS)
        assert str(caught.value) == (
            f"widths: given {given} channels for {path!r}, expected a multiple of 1 from 1 to "
            f"{width}"
        )
    with pytest.raises(PruningError, match="no channels of 'nowhere' may be cut, expected one of"):
        prune_to(net, (IMAGE,), {"nowhere": 1}, SETTINGS)
    with pytest.raises(PruningError, match="leave every layer as wide as it was"):
        prune_to(net, (IMAGE,), {path: width}, SETTINGS)


def test_gradients_rank_too() -> None:
    by_gradient = asked(importance="taylor")
    with pytest.raises(PruningError, match="needs loss_batches"):
        survey(residual(), (IMAGE,), by_gradient)

    def loss(module: nn.Module) -> torch.Tensor:
        return module(IMAGE).logsumexp(1).sum()

    found = survey(residual(), (IMAGE,), by_gradient, (loss,))
    assert all(score >= 0 for group in found.groups for score in group.scores)
