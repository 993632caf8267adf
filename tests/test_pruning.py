"""Pruning: each trap of torch-pruning has its test here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable import IMAGE, Fixed, TwoHeads, Wrapped, asked, loss, residual, same, state
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.graph import count_macs
from edgecompress.pruning.plan import apply_plan
from edgecompress.pruning.prune import prune, reestimate_batchnorm_
from edgecompress.recipe import PruneSettings
from edgecompress.students.image import DepthwiseNet, ResidualNet

IMPORTANCES = ("l1", "l2", "group", "lamp", "fpgm", "bn_scale", "taylor", "hessian", "random")

# ---- what pruning keeps and what it changes


@pytest.mark.parametrize("family", [ResidualNet, DepthwiseNet])
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_macs_fall_and_outputs_keep_their_shape(family, importance, scope):
    torch.manual_seed(0)
    net = family(1, 10, (16, 32), (1, 2))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight)
    wanted = asked(importance=importance, scope=scope, steps=2)
    pruned = prune(net, {"image": IMAGE}, wanted, [loss])
    assert pruned.module(IMAGE).shape == (2, 10)
    assert pruned.macs_after < pruned.macs_before
    assert pruned.parameters_after < pruned.parameters_before
    assert pruned.requested_ratio == 0.5
    assert 0.4 < pruned.achieved_ratio < 0.8


def test_widths_are_multiples_of_round_to():
    pruned = prune(residual(), (IMAGE,), asked(pruning_ratio=0.3, round_to=8))
    convs = [m for m in pruned.module.modules() if isinstance(m, nn.Conv2d)]
    assert {conv.out_channels for conv in convs} == {8, 24}
    assert pruned.requested_ratio == 0.3
    assert pruned.achieved_ratio == 1 - 64 / 96  # 16 of 32 and 48 of 64 channels are left


def test_the_given_module_is_not_touched():
    net = residual().train()
    net.head.weight.requires_grad_(False)
    before = state(net)
    prune(net, (IMAGE,), asked(importance="taylor"), [loss])
    assert same(before, net.state_dict())
    assert all(part.training for part in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_modes_and_frozen_parameters_come_back():
    net = residual().train()
    net.stem.eval()
    net.stages.requires_grad_(False)
    pruned = prune(net, (IMAGE,), asked(importance="taylor"), [loss]).module
    assert not pruned.stem.training
    assert not pruned.stem[0].training
    assert pruned.stages.training
    assert not any(p.requires_grad for p in pruned.stages.parameters())
    assert all(p.requires_grad for p in pruned.stem.parameters())
    assert all(p.grad is None for p in pruned.parameters())


def test_a_frozen_network_is_pruned_like_any_other():
    free, frozen = residual(), residual().requires_grad_(False)
    first, second = (prune(net, (IMAGE,), asked()) for net in (free, frozen))
    assert first.plan == second.plan


def test_every_output_is_protected():
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 8), "y": torch.randn(3, 16)}
    pruned = prune(TwoHeads(), inputs, asked())
    outputs = pruned.module(*inputs.values())
    assert outputs["features"].shape == (3, 16)
    assert outputs["logits"].shape == (3, 5)
    assert [entry.module for entry in pruned.plan.channels] == ["hidden"]
    assert pruned.achieved_ratio == 0.5  # of the channels that may go


def test_outputs_made_by_a_function_are_protected():
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.ELU())
    pruned = prune(net, (IMAGE,), asked())
    assert [entry.module for entry in pruned.plan.channels] == ["0"]


def test_an_ignored_part_keeps_its_channels():
    pruned = prune(residual(), (IMAGE,), asked(ignore=("stages.1",)))
    assert pruned.module.stages[1].first[0].out_channels == 32
    assert pruned.module.stages[0].first[0].out_channels == 8


def test_random_importance_follows_the_seed():
    plans = [
        prune(residual(), (IMAGE,), asked(importance="random"), seed=s).plan for s in (1, 1, 2)
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def grouped() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.GroupNorm(4, 32),
        nn.Conv2d(32, 16, 3, groups=4),
        nn.Flatten(),
        nn.Linear(256, 3),
    )


@pytest.mark.parametrize("scope", ["local", "global"])
def test_groups_stay_equal(scope):
    pruned = prune(grouped(), (IMAGE,), asked(scope=scope)).module
    assert pruned(IMAGE).shape == (2, 3)
    assert pruned[0].out_channels % 4 == 0
    assert 4 <= pruned[0].out_channels < 32
    assert pruned[1].num_groups == pruned[2].groups == 4


def test_parameters_outside_layers_follow():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 16, 3)
            self.scale = nn.Parameter(torch.rand(16, 1, 1), requires_grad=False)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.first(x) * self.scale).mean((2, 3)))

    pruned = prune(Scaled(), (IMAGE,), asked()).module
    assert pruned.scale.shape == (8, 1, 1)
    assert not pruned.scale.requires_grad


def test_two_pruners_in_one_process_do_not_meet():
    # Groups are what torch-pruning's pruner notes in dicts that all pruners of a process share.
    alone = prune(residual(), (IMAGE,), asked()).plan
    first = prune(grouped(), (IMAGE,), asked()).plan
    assert prune(residual(), (IMAGE,), asked()).plan == alone
    assert prune(grouped(), (IMAGE,), asked()).plan == first


def test_attention_heads_stay_equal():
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(4, 16)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    pruned = prune(Attend(), (torch.randn(2, 5, 4),), asked()).module
    assert pruned.attention.mix.out_features == pruned.attention.query.in_features == 8
    assert pruned.attention.query.out_features == 8  # two of the four in each head
    assert pruned.attention.num_heads == 4
    assert pruned(torch.randn(2, 5, 4)).shape == (2, 3)


def test_macs_are_those_of_one_sample():
    linear = nn.Linear(6, 4, bias=False)
    assert count_macs(linear, (torch.randn(5, 6),)) == (24, 24)
    assert count_macs(linear, {"x": torch.randn(1, 6)}) == (24, 24)


@given(
    ratio=st.floats(0.05, 0.9),
    round_to=st.sampled_from([1, 2, 4, 8]),
    scope=st.sampled_from(["local", "global"]),
    steps=st.integers(1, 3),
)
@settings(max_examples=15, deadline=None)
def test_it_shrinks_or_says_why(ratio, round_to, scope, steps):
    wanted = PruneSettings(pruning_ratio=ratio, round_to=round_to, scope=scope, steps=steps)
    net = residual()
    try:
        pruned = prune(net, (IMAGE,), wanted)
    except PruningError as error:
        assert "removed nothing" in str(error)
        return
    assert pruned.macs_after < pruned.macs_before
    rebuilt = apply_plan(net, pruned.plan, (IMAGE,))
    assert same(state(rebuilt), state(pruned.module))


# ---- what is refused, and the one line that says so


def refused(net: nn.Module, wanted: PruneSettings, losses=None, inputs=(IMAGE,)) -> str:
    with pytest.raises(PruningError) as caught:
        prune(net, inputs, wanted, losses)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_a_size_in_forward_is_found_and_its_module_named():
    message = refused(Wrapped(), asked())
    assert message.startswith("'body.fc' (Linear) inside Wrapped no longer runs when pruned")
    assert "flatten(1)" in message
    one = (IMAGE[:1],)
    assert refused(Fixed(), asked(), inputs=one).startswith("Fixed no longer runs when pruned")
    assert refused(Wrapped(), asked(), inputs=one).startswith("'body' (Fixed) inside Wrapped no")


def test_a_cut_that_reaches_an_output_is_caught_whatever_protects_it(monkeypatch):
    monkeypatch.setattr("edgecompress.pruning.groups._ends", lambda graph, outputs: [])
    message = refused(residual(), asked())
    assert message.startswith("pruning changed the output shapes of ResidualNet from [(2, 10)] to")


def test_layers_that_rounding_leaves_whole_are_named():
    message = refused(residual(), asked(round_to=64))
    assert "rounded to multiples of round_to = 64, every layer keeps all its channels: " in message
    assert "stem.0.0 (16)" in message
    assert message.endswith("lower prune.round_to or raise prune.pruning_ratio")
    assert "stem.0.0 (16)" in refused(residual(), asked(pruning_ratio=0.05, round_to=8))


def test_nothing_left_to_prune_is_said():
    message = refused(residual(), asked(ignore=("",)))
    assert message.endswith("layer is in prune.ignore or makes an output; shorten prune.ignore")
    message = refused(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), asked())
    assert message.endswith("every layer makes an output; leave pruning out")


def test_blocks_and_heads_that_round_to_none_are_told():
    message = refused(residual(), asked(pruning_ratio=0, block_ratio=0.1))
    assert message == "pruning removed nothing: 0.1 of 1 blocks rounds to none; ask for more"


def test_what_went_stands_beside_what_was_asked_in_words():
    pruned = prune(residual(), (IMAGE,), asked(pruning_ratio=0.3, round_to=16, block_ratio=0.5))
    assert pruned.in_words() == (
        "40.0% of the channels went (30.0% asked); 1 of 1 blocks (50.0% asked); "
        "'stem.0.0' stays whole: it rounds to all of its 16 channels (multiples of 16)"
    )


def test_an_unknown_path_meets_its_neighbour():
    assert refused(residual(), asked(ignore=("stages.1.frist",))) == (
        "prune.ignore: the network has no module 'stages.1.frist', expected the path of one, such "
        "as 'stem'; did you mean 'stages.1.first'?"
    )


def test_taylor_needs_losses():
    wanted = asked(importance="taylor")
    assert "needs loss_batches" in refused(residual(), wanted)
    assert "needs loss_batches" in refused(residual(), wanted, [])
    assert "not finite" in refused(residual(), wanted, [lambda m: loss(m) * float("nan")])
    assert "no gradient for 'stages.0.first.0.weight'" in refused(
        residual(), wanted, [lambda m: m.stem(IMAGE).sum()]
    )


def test_batch_norm_scales_must_exist():
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    assert "'bn_scale' needs batch-norm layers" in refused(net, asked(importance="bn_scale"))
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3))
    net.extend((nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)))
    words = prune(net, (IMAGE,), asked(importance="bn_scale")).in_words()
    assert words.endswith(
        "'2' stays whole: it has nothing that importance 'bn_scale' could rank it by"
    )


def test_weights_that_are_not_finite_are_named():
    net = residual()
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    assert refused(net, asked()).startswith("parameter 'head.bias' holds values that are not")


def test_a_network_that_does_not_run_is_named():
    message = refused(residual(), asked(), inputs=(torch.randn(1, 3, 8, 8),))
    assert message.startswith("'stem.0.0' (Conv2d) inside ResidualNet does not run before pruning:")


def test_outputs_without_gradients_are_refused():
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).argmax(1)

    message = refused(Classes(), asked(), inputs=(torch.randn(2, 4),))
    assert message.startswith("Classes returns nothing that depends on its parameters")


def test_what_torch_pruning_cannot_follow_is_one_line(monkeypatch):
    def lost(*_, **__):
        raise KeyError("node\nand more")

    monkeypatch.setattr("edgecompress.pruning.graph.DependencyGraph.build_dependency", lost)
    message = refused(residual(), asked())
    assert message.startswith("torch-pruning cannot follow ResidualNet: 'node")
    assert message.endswith("or leave pruning out")


# ---- batch-norm statistics


def test_statistics_are_those_of_the_batches():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(50, 3))  # what was counted before must not weigh in
    batches = [torch.randn(50, 3) * 2 + 5, torch.randn(50, 3) * 2 + 7]
    reestimate_batchnorm_(norm, ((batch,) for batch in batches))
    mean = torch.stack([b.mean(0) for b in batches]).mean(0)
    variance = torch.stack([b.var(0) for b in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.1


def test_nothing_but_statistics_changes():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    net[0].eval().requires_grad_(False)
    before = state(net)
    reestimate_batchnorm_(net, [{"x": torch.randn(8, 4)}])
    after = state(net)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert [part.training for part in net] == [False, True, True]
    assert not net[0].weight.requires_grad
    assert net[1].weight.requires_grad


def test_statistics_need_a_batch():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(7)
    with pytest.raises(PruningError, match="need at least one batch; none was given"):
        reestimate_batchnorm_(norm, [])
    assert norm.running_mean.tolist() == [7, 7, 7]
