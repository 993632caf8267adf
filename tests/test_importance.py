"""What tells an important channel, and who competes with whom."""

import pytest
import torch
from prunable import IMAGE, asked, loss, residual
from pydantic import ValidationError
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.groups import Coupled, Heads
from edgecompress.pruning.importance import differentiate_
from edgecompress.pruning.prune import prune
from edgecompress.pruning.ranking import Ranked, choose_channels, choose_heads
from edgecompress.recipe import PruneSettings

SENSIBLE = ("l1", "l2", "group", "lamp", "fpgm", "bn_scale", "taylor", "hessian")
QUIET = (1, 4, 5, 9, 10, 11, 14, 15)


def half_idle() -> nn.Module:
    """Return a network of sixteen channels, eight of which do next to nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Tanh(), nn.Flatten(), nn.Linear(576, 3)
    )
    with torch.no_grad():
        net[0].weight[list(QUIET)] *= 1e-3
        net[0].bias[list(QUIET)] = 0
        net[1].weight[list(QUIET)] *= 1e-3
        net[4].weight.view(3, 16, 36)[:, list(QUIET)] *= 1e-3
    return net.eval()


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("importance", SENSIBLE)
def test_idle_channels_go_first(importance, scope):
    wanted = asked(importance=importance, scope=scope, round_to=1)
    (entry,) = prune(half_idle(), (IMAGE,), wanted, [loss]).plan.channels
    assert set(entry.kept) == set(range(16)) - set(QUIET)


def test_l1_asks_who_makes_a_channel_and_group_who_takes_it_too():
    net = half_idle()
    with torch.no_grad():
        net[0].weight[0] *= 0.01  # made small,
        net[4].weight.view(3, 16, 36)[:, 0] *= 1e4  # but taken for much
    kept = {
        importance: prune(net, (IMAGE,), asked(importance=importance, round_to=1)).plan
        for importance in ("l1", "l2", "group")
    }
    assert 0 in kept["group"].channels[0].kept
    fewer = asked(importance="l1", round_to=1, pruning_ratio=9 / 16)
    assert 0 not in prune(net, (IMAGE,), fewer).plan.channels[0].kept
    assert kept["l1"] == kept["l2"] == kept["group"]


def test_all_batches_count_for_the_hessian():
    # torch-pruning's own sum keeps only the last batch.
    net = half_idle()
    batches = [lambda m, s=s: m(IMAGE * s).logsumexp(1).sum() for s in (1.0, 3.0)]
    squares = torch.zeros_like(net[0].weight)
    for batch in batches:
        net.zero_grad()
        batch(net).backward()
        squares += net[0].weight.grad.square()
    differentiate_(net, tuple(batches), asked(importance="hessian"))
    torch.testing.assert_close(net[0].weight.grad, squares / 2)


def ranked(path: str, kind: str, *scores: float, parts: int = 1, heads: int = 0) -> Ranked:
    told = Heads(path, "num_heads", heads, 1) if heads else None
    one = Coupled(path, nn.Identity(), len(scores) * parts, parts, told, (kind,), None)
    return Ranked(one, Tensor(scores))


def lost(groups: list[Ranked], scope: str, ratio: float) -> dict[str, tuple[int, ...]]:
    widths = {r.one.path: r.one.width for r in groups}
    wanted = PruneSettings(scope=scope, round_to=1)
    return {one.path: channels for one, channels in choose_channels(groups, widths, wanted, ratio)}


def test_each_scope_lets_others_compete():
    groups = [
        ranked("low", "conv", 0.1, 0.2, 0.3, 0.4),
        ranked("high", "conv", 1, 2, 3, 4),
        ranked("other", "linear", 0.01, 0.02, 5, 6),
    ]
    assert lost(groups, "local", 0.5) == {"low": (0, 1), "high": (0, 1), "other": (0, 1)}
    assert lost(groups, "global", 0.5) == {"low": (0, 1, 2), "other": (0, 1)}
    assert lost(groups, "isomorphic", 0.5) == {"low": (0, 1, 2), "other": (0, 1)}
    assert lost(groups, "global", 0.25) == {"low": (0,), "other": (0, 1)}
    assert lost(groups, "isomorphic", 0.25) == {"low": (0, 1), "other": (0,)}


def test_parts_lose_alike_whatever_the_scope():
    groups = [ranked("a", "conv", 1, 2, parts=4), ranked("b", "conv", 3, 4, 5, 6)]
    assert lost(groups, "global", 0.5) == {"a": (0, 2, 4, 6), "b": (0, 1)}


def test_heads_compete_like_channels():
    attentions = [
        ranked("a", "mha", 1, 2, 3, 4, heads=4),
        ranked("b", "mha", 5, 6, 7, 8, heads=4),
    ]
    counts = {"a": 4, "b": 4}

    def cut(scope: str, ratio: float) -> dict[str, list[int]]:
        chosen = choose_heads(attentions, counts, PruneSettings(scope=scope), ratio)
        return {one.path: heads for one, heads in chosen}

    assert cut("local", 0.5) == {"a": [0, 1], "b": [0, 1]}
    assert cut("global", 0.5) == {"a": [0, 1, 2], "b": [0]}
    assert cut("global", 0.99) == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert cut("local", 0.1) == {}


def test_between_steps_the_network_may_recover():
    seen = []

    def recover(net: nn.Module) -> None:
        seen.append(net.stages[1].first[0].out_channels)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.01)

    wanted = asked(steps=3, round_to=1, schedule="cubic")
    pruned = prune(residual(), (IMAGE,), wanted, recover=recover)
    assert seen == [21, 17]  # of 32: 35 % and 48 % gone, then half
    assert pruned.module.stages[1].first[0].out_channels == 16
    assert pruned.plan.channels == prune(residual(), (IMAGE,), wanted).plan.channels


def test_weights_that_recovery_broke_are_named():
    def ruin(net: nn.Module) -> None:
        with torch.no_grad():
            net.head.bias[0] = float("inf")

    with pytest.raises(PruningError, match=r"'head.bias' holds values that are not finite"):
        prune(residual(), (IMAGE,), asked(steps=2), recover=ruin)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning_ratio": 0}, "pruning_ratio, head_ratio and block_ratio are all 0"),
        ({"kind": "unstructured", "importance": "l1"}, "importance is about channels; remove it"),
        ({"kind": "unstructured", "round_to": 8}, "round_to is about channels; remove it"),
        ({"kind": "unstructured", "block_ratio": 0.5}, "block_ratio is about channels"),
        ({"kind": "unstructured", "scope": "isomorphic"}, "expected scope global or local and"),
        ({"penalty_strength": 0.0}, "greater than 0"),
        ({"scope": "isomorphic_global"}, "'global', 'isomorphic' or 'local'"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changes, message):
    with pytest.raises(ValidationError) as caught:
        PruneSettings(**changes)
    assert message in str(caught.value)
