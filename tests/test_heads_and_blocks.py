"""Attention heads, and blocks that are dropped whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable import IMAGE, residual
from torch import Tensor, nn

from benchmarks.pruning.architectures import ARCHITECTURES, Bert
from edgecompress.errors import PruningError
from edgecompress.pruning.attention import SplitAttention, split_, splittable
from edgecompress.pruning.blocks import influences, residual_blocks
from edgecompress.pruning.graph import opened
from edgecompress.pruning.plan import apply_plan
from edgecompress.pruning.prune import prune
from edgecompress.recipe import PruneSettings
from edgecompress.students.text import text_encoder


def asked(**changes) -> PruneSettings:
    return PruneSettings(**{"pruning_ratio": 0.0, "round_to": 1} | changes)


# ---- attention as separate layers


@given(
    heads=st.sampled_from([1, 2, 4]),
    batch_first=st.booleans(),
    bias=st.booleans(),
    others=st.booleans(),
    padded=st.booleans(),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_split_attention_says_what_pytorch_says(heads, batch_first, bias, others, padded, causal):
    torch.manual_seed(heads)
    wide = {"kdim": 6, "vdim": 5} if others else {}
    whole = nn.MultiheadAttention(8, heads, bias=bias, batch_first=batch_first, **wide).eval()
    query = torch.randn(3, 3, 8)
    key, value = torch.randn(3, 3, wide.get("kdim", 8)), torch.randn(3, 3, wide.get("vdim", 8))
    masks = {
        "key_padding_mask": torch.tensor([[False, False, True]] * 3) if padded else None,
        "attn_mask": torch.triu(torch.ones(3, 3, dtype=torch.bool), 1) if causal else None,
    }
    split = SplitAttention(whole)
    for averaged in (True, False):
        expected = whole(query, key, value, average_attn_weights=averaged, **masks)
        got = split(query, key, value, average_attn_weights=averaged, **masks)
        torch.testing.assert_close(got, expected)
    assert split(query, key, value, need_weights=False)[1] is None


def test_a_mask_for_each_head_is_heard():
    torch.manual_seed(0)
    whole, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 4, 8)
    mask = torch.randn(6, 4, 4)
    expected = whole(x, x, x, attn_mask=mask)
    torch.testing.assert_close(SplitAttention(whole)(x, x, x, attn_mask=mask), expected)
    with pytest.raises(ValueError, match=r"attention over 2 dimensions, expected batches \(3\)"):
        SplitAttention(whole)(x[0], x[0], x[0])


def test_splitting_draws_no_random_numbers_and_keeps_training_as_it_was():
    whole = nn.MultiheadAttention(8, 2, dropout=0.5).requires_grad_(False).eval()
    before = torch.get_rng_state()
    split = SplitAttention(whole)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(p.requires_grad for p in split.parameters())
    assert not split.training
    assert split.dropout == 0.5


def test_pytorchs_own_encoder_runs_split():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 3 + [True]] * 2)
    expected = net(x, src_key_padding_mask=padding)
    paths = splittable(net)
    assert paths == ("layers.0.self_attn", "layers.1.self_attn")
    split_(net, paths)
    with torch.no_grad():  # where the original would take its fast path
        got = net(x, src_key_padding_mask=padding)
    torch.testing.assert_close(got[:, :3], expected[:, :3])


def test_what_cannot_be_split_is_left_as_it_is():
    shared = nn.MultiheadAttention(8, 2)
    net = nn.ModuleDict(
        {
            "bias": nn.MultiheadAttention(8, 2, add_bias_kv=True),
            "zero": nn.MultiheadAttention(8, 2, add_zero_attn=True),
            "shared": shared,
            "twice": shared,
            "plain": nn.MultiheadAttention(8, 2),
            "spared": nn.MultiheadAttention(8, 2),
        }
    )
    assert splittable(net, {net["spared"].out_proj}) == ("plain",)


# ---- heads


def texts() -> Tensor:
    return torch.randint(1, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def test_heads_that_say_nothing_are_the_ones_that_go():
    torch.manual_seed(0)
    net = text_encoder(50, 5, width=2.0, depth=0.5, max_length=16).eval()
    attention = net.layers[0].attention
    quiet = slice(32, 96)  # heads 1 and 2 of four
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value):
            part.weight[quiet], part.bias[quiet] = 0, 0
        attention.mix.weight[:, quiet] = 0
    pruned = prune(net, (texts(),), asked(head_ratio=0.5))
    assert pruned.plan.heads[0].kept == (0, 3)
    assert pruned.module.layers[0].attention.heads == 2
    assert pruned.module.layers[0].attention.query.channel_parts == 2
    torch.testing.assert_close(pruned.module(texts()), net(texts()))
    assert (pruned.heads.removed, pruned.heads.of) == (2, 4)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_one_head_stays_at_least(scope):
    net = ARCHITECTURES["vit_tiny"].network()
    inputs = (ARCHITECTURES["vit_tiny"].inputs(2),)
    pruned = prune(net, inputs, asked(head_ratio=0.9, scope=scope))
    assert min(len(entry.kept) for entry in pruned.plan.heads) >= 1
    assert pruned.heads.removed == {"local": 9}.get(scope, 9)


def test_heads_and_their_width_go_in_steps():
    net = ARCHITECTURES["bert_tiny"].network()
    inputs = ARCHITECTURES["bert_tiny"].inputs(2)
    wanted = asked(head_ratio=0.5, pruning_ratio=0.5, steps=3, schedule="cubic", importance="l1")
    pruned = prune(net, (inputs,), wanted)
    attention = pruned.module.layers[0].self_attn
    assert attention.num_heads == 2
    # Half would be 24. Whole heads that go after their channels did take a few more along.
    assert attention.query.out_features == 20
    assert pruned.achieved_ratio == pytest.approx(0.5, abs=0.03)
    assert attention.scale == 12**-0.5
    rebuilt = ARCHITECTURES["bert_tiny"].network(1)
    rebuilt = apply_plan(rebuilt, pruned.plan, (inputs,))
    rebuilt.load_state_dict(pruned.module.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(inputs), pruned.module(inputs))


def test_heads_where_there_are_none_are_refused():
    with pytest.raises(PruningError, match=r"prune.head_ratio: no attention with heads"):
        prune(residual(), (IMAGE,), asked(head_ratio=0.5))


# ---- blocks


def test_blocks_are_those_that_add_to_their_input():
    expected = {
        "residual": ("2", "4", "6"),
        "vgg": (),
        "mobilenet_v1": (),
        "mobilenet_v2": ("2", "4", "6"),
        "convnext": ("1", "2", "5"),
        "densenet": (),
        "vit_tiny": ("blocks.0", "blocks.1", "blocks.2"),
        "bert_tiny": ("layers.0", "layers.1", "layers.2"),
    }
    for name, blocks in expected.items():
        net, inputs = ARCHITECTURES[name].network(), (ARCHITECTURES[name].inputs(2),)
        with opened(net):
            assert residual_blocks(net, inputs) == blocks, name


def test_the_block_that_does_least_goes_first():
    net, inputs = ARCHITECTURES["residual"].network(), ARCHITECTURES["residual"].inputs(2)
    idle = net[4].branch[2][1]
    with torch.no_grad():
        idle.weight.zero_()
        idle.bias.zero_()
    with opened(net):
        found = influences(net, (inputs,), ("2", "4", "6"))
    assert found["4"] == pytest.approx(0, abs=1e-6)
    pruned = prune(net, (inputs,), asked(block_ratio=0.34))
    assert pruned.plan.blocks == ("4",)
    torch.testing.assert_close(pruned.module(inputs), net(inputs))
    assert pruned.plan.channels == ()


def test_ignored_blocks_stay():
    net, inputs = ARCHITECTURES["residual"].network(), ARCHITECTURES["residual"].inputs(2)
    pruned = prune(net, (inputs,), asked(block_ratio=0.9, ignore=("2", "4.branch.0")))
    assert pruned.plan.blocks == ("6",)
    assert pruned.blocks.of == 1


def test_layers_that_a_network_looks_into_are_no_blocks():
    # nn.TransformerEncoder asks its first layer for its attention, whatever stands there.
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(
        nn.Linear(4, 8), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    )
    net.append(nn.Linear(8, 3))
    with opened(net):
        assert residual_blocks(net, (torch.randn(2, 5, 4),)) == ("1.layers.1", "1.layers.2")


def test_blocks_where_there_are_none_are_refused():
    net, inputs = ARCHITECTURES["vgg"].network(), ARCHITECTURES["vgg"].inputs(2)
    with pytest.raises(PruningError, match=r"prune.block_ratio: Sequential has no block that adds"):
        prune(net, (inputs,), asked(block_ratio=0.5))


def test_an_encoder_without_layers_still_answers():
    torch.manual_seed(0)
    net, tokens = Bert(depth=2).eval(), texts()
    pruned = prune(net, (tokens,), asked(block_ratio=0.9))
    assert pruned.plan.blocks == ("layers.0", "layers.1")
    assert pruned.module(tokens).shape == (2, 10)
