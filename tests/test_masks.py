"""Single weights at zero, and held there."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable import IMAGE, loss, residual
from torch import nn

from edgecompress.errors import PruningError
from edgecompress.pruning.masks import Masks, masks_of, prune_weights, smallest_masked
from edgecompress.pruning.plan import PruningPlan, apply_plan
from edgecompress.pruning.prune import prune
from edgecompress.recipe import PruneSettings


def asked(ratio: float = 0.8, **changes) -> PruneSettings:
    return PruneSettings(kind="unstructured", pruning_ratio=ratio, **changes)


def train(net: nn.Module, masks: Masks, optimizer: str = "AdamW", hold: bool = True) -> None:
    made = {
        "AdamW": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
        "SGD": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
    }[optimizer](net.parameters())
    for step in range(5):
        made.zero_grad()
        loss(net.train()).backward()
        if hold:
            masks(net, step)
        made.step()


@given(ratio=st.floats(0.01, 0.8), scope=st.sampled_from(["local", "global"]))
@settings(max_examples=10, deadline=None)
def test_the_smallest_go_and_no_more(ratio, scope):
    net, wanted = residual(), asked(ratio, scope=scope)
    masks = smallest_masked(net, ratio, wanted)
    assert masks.sparsity == pytest.approx(ratio, abs=0.01)
    assert all(net.get_parameter(name).dim() > 1 for name in masks.kept)
    pairs = [(net.get_parameter(name).detach().abs(), mask) for name, mask in masks.kept.items()]
    if scope == "global":
        pairs = [
            (torch.cat([a.flatten() for a, _ in pairs]), torch.cat([m.flatten() for _, m in pairs]))
        ]
    for sizes, mask in pairs:
        if not bool(mask.all()):
            assert sizes[~mask].max() <= sizes[mask].min()


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_zeros_stay_through_training(optimizer):
    net = residual()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wanted = asked(steps=4, schedule="cubic", scope="global")
    sparse = prune_weights(net, wanted, partial(train, optimizer=optimizer))
    assert sparse.sparsities == pytest.approx([0.4625, 0.7, 0.7875, 0.8], abs=1e-3)
    assert sum(
        int((p == 0).sum()) for n, p in sparse.module.named_parameters() if "weight" in n
    ) == (sum(int((~mask).sum()) for mask in sparse.masks.kept.values()))
    assert not torch.equal(before["head.weight"], sparse.module.head.weight)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_training_that_forgets_the_masks_is_noticed():
    with pytest.raises(PruningError) as caught:
        prune_weights(residual(), asked(), partial(train, hold=False))
    message = str(caught.value)
    assert message.startswith("parameter 'stem.0.0.weight': training moved weights that pruning")
    assert "\n" not in message


def test_the_masks_can_be_read_off_the_weights():
    sparse = prune_weights(residual(), asked(scope="global"))
    found = masks_of(sparse.module)
    assert found.kept.keys() == sparse.masks.kept.keys()
    assert all(torch.equal(found.kept[name], mask) for name, mask in sparse.masks.kept.items())


def test_ignored_layers_stay_dense():
    masks = smallest_masked(residual(), 0.5, asked(ignore=("stem", "head")))
    assert sorted({name.split(".")[0] for name in masks.kept}) == ["stages"]
    with pytest.raises(PruningError, match=r"has no convolution or linear layer outside of prune"):
        smallest_masked(residual(), 0.5, asked(ignore=("",)))


def test_a_layer_that_would_lose_all_is_named():
    net = residual()
    with torch.no_grad():
        net.stages[0].first[0].weight *= 1e-6
    wanted = asked(0.9, scope="global")
    with pytest.raises(PruningError) as caught:
        prune_weights(net, wanted)
    assert str(caught.value) == (
        "prune.pruning_ratio: without 90% of the weights, 'stages.0.first.0.weight' would have "
        'none left; lower it, set scope = "local", or name its module in prune.ignore'
    )


def test_prune_hands_out_a_sparse_network_that_costs_as_much():
    net = residual()
    pruned = prune(net, (IMAGE,), asked(0.8, scope="global"))
    assert pruned.achieved_ratio == pytest.approx(0.8, abs=1e-3)
    assert pruned.macs_after == pruned.macs_before
    assert pruned.parameters_after < 0.25 * pruned.parameters_before
    assert pruned.plan == PruningPlan()
    rebuilt = apply_plan(residual(), pruned.plan, (IMAGE,))
    rebuilt.load_state_dict(pruned.module.state_dict())
    assert torch.equal(rebuilt.eval()(IMAGE), pruned.module.eval()(IMAGE))


def test_training_between_steps_must_hold_the_zeros():
    seen = []

    def hold(net: nn.Module) -> None:
        seen.append(masks_of(net).sparsity)

    pruned = prune(residual(), (IMAGE,), asked(0.8, steps=3), recover=hold)
    assert len(seen) == 2  # after the last one, it is the caller who trains
    assert seen[0] < seen[1] < pruned.achieved_ratio

    def fill(net: nn.Module) -> None:
        with torch.no_grad():
            next(net.parameters()).fill_(0.1)

    with pytest.raises(PruningError, match="training moved weights that pruning had set to 0"):
        prune(residual(), (IMAGE,), asked(0.8, steps=2), recover=fill)
