"""The small families: their shapes, their scaling, their limits; export and pruning of each."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import check_parity
from edgecompress.pruning.prune import prune
from edgecompress.recipe import PruneSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run
from edgecompress.store import artifact
from edgecompress.students.image import (
    DepthwiseNet,
    ResidualNet,
    ds_cnn,
    keras_parameters,
    mobilenet_v1,
    resnet8,
)
from edgecompress.students.sequence import audio_net, sensor_net
from edgecompress.students.stacking import deepened, scaled
from edgecompress.students.tabular import TabularNet, tabular_net
from edgecompress.students.text import HashedBag, TextEncoder, hashed_bag, text_encoder

FAMILIES = [ResidualNet, DepthwiseNet]


@dataclass(frozen=True)
class Family:
    """Hold a family that takes multipliers, and what makes inputs of a batch size for it."""

    make: Callable[..., nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]


def floats(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {"x": torch.randn(batch, *shape)}


def table(batch: int) -> dict[str, Tensor]:
    codes = torch.stack([torch.randint(0, size, (batch,)) for size in (3, 7)], dim=1)
    return {"numeric": 100 + 10 * torch.randn(batch, 4), "categorical": codes}


def texts(batch: int) -> dict[str, Tensor]:
    tokens = torch.randint(1, 50, (batch, 12))
    for row, length in enumerate(torch.randint(1, 13, (batch,)).tolist()):
        tokens[row, length:] = 0
    return {"tokens": tokens}


MULTIPLIED = {
    "resnet8": Family(lambda **m: resnet8(3, 5, **m), floats(3, 16, 16)),
    "ds_cnn": Family(lambda **m: ds_cnn(1, 5, **m), floats(1, 49, 10)),
    "mobilenet_v1": Family(
        lambda width=1.0, depth=1.0: mobilenet_v1(3, 5, width / 4, depth), floats(3, 32, 32)
    ),
    "sensor_net": Family(lambda **m: sensor_net(6, 5, **m), floats(6, 50)),
    "audio_net": Family(lambda **m: audio_net(1, 5, **m), floats(1, 1600)),
    "tabular_net": Family(lambda **m: tabular_net(4, (3, 7), 5, **m), table),
    "hashed_bag": Family(lambda **m: hashed_bag(5, buckets=64, **m), texts),
    "text_encoder": Family(lambda **m: text_encoder(50, 5, max_length=16, **m), texts),
}
each_family = pytest.mark.parametrize("family", MULTIPLIED.values(), ids=MULTIPLIED)
SLOW = ("ds_cnn", "mobilenet_v1", "audio_net")  # of the same parts as the others, and larger


def seen(family: Family, **multipliers: float) -> nn.Module:
    """Return a network whose batch norms have seen data."""
    torch.manual_seed(0)
    net = family.make(**multipliers)
    with torch.no_grad():
        net.train()(*family.inputs(16).values())
    return net.eval()


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@given(
    channels=st.integers(1, 4),
    classes=st.integers(1, 12),
    size=st.integers(5, 17),
    depths=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    stem_stride=st.integers(1, 2),
)
@settings(max_examples=15, deadline=None)
def test_logits_have_one_row_a_sample(family, channels, classes, size, depths, stem_stride):
    widths = [4 * (i + 1) for i in range(len(depths))]
    net = family(channels, classes, widths, depths, stem_stride).eval()
    assert net(torch.randn(3, channels, size, size + 1)).shape == (3, classes)


@pytest.mark.parametrize("family", FAMILIES)
def test_wider_and_deeper_is_bigger(family):
    small = family(1, 10, (8, 16), (1, 1))
    assert parameters(small) < parameters(family(1, 10, (16, 32), (1, 1)))
    assert parameters(small) < parameters(family(1, 10, (8, 16), (1, 2)))


def test_separable_convolutions_are_cheaper():
    size = ((32, 64), (2, 2))
    assert parameters(DepthwiseNet(3, 10, *size)) < parameters(ResidualNet(3, 10, *size)) / 4


@pytest.mark.parametrize("family", FAMILIES)
def test_one_seed_makes_one_network(family):
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(family(1, 10, (8, 16), (1, 1)))
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family):
    net = family(2, 3, (4, 8), (2, 1))
    net(torch.randn(4, 2, 6, 6)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"widths \(8, 16\) and blocks \(1,\) must have the same"):
        ResidualNet(1, 10, (8, 16), (1,))
    with pytest.raises(ValueError, match="must be >= 1"):
        DepthwiseNet(1, 10, (8, 0), (1, 1))


@given(st.lists(st.integers(1, 512), min_size=1), st.floats(0.01, 4), st.integers(1, 16))
def test_scaled_widths_are_multiples(widths, factor, multiple):
    for width, narrow in zip(widths, scaled(widths, factor, multiple), strict=True):
        assert narrow % multiple == 0
        assert narrow >= multiple
        assert abs(narrow - width * factor) <= multiple


# ---- families with multipliers


@each_family
def test_multiplied_families_give_a_row_of_logits_a_sample(family):
    net = seen(family)
    for batch in (1, 3):
        assert net(*family.inputs(batch).values()).shape == (batch, 5)


@each_family
def test_a_sample_does_not_depend_on_its_batch(family):
    net, inputs = seen(family), family.inputs(3)
    alone = torch.cat([net(*(x[i : i + 1] for x in inputs.values())) for i in range(3)])
    torch.testing.assert_close(net(*inputs.values()), alone, rtol=1e-4, atol=1e-5)


@each_family
def test_multipliers_widen_and_deepen(family):
    base = parameters(family.make())
    assert 3 * base < parameters(family.make(width=4.0)) < 16 * base
    assert base < parameters(family.make(depth=2.0)) < 3 * base
    assert parameters(family.make(width=0.5)) < base
    assert parameters(family.make(width=1e-3, depth=1e-3)) > 0


@each_family
def test_a_batch_can_be_learned(family):
    net, inputs, labels = seen(family, width=0.5).train(), family.inputs(8), torch.arange(8) % 5
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(*inputs.values()), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MULTIPLIED],
)
def test_export_agrees_at_every_batch_size(name, tmp_path):
    family = MULTIPLIED[name]
    net, inputs = seen(family, width=0.5, depth=0.5), family.inputs(7)
    arrays = {name: x.numpy() for name, x in inputs.items()}
    model = export(net, {n: a[:1] for n, a in arrays.items()}, tmp_path / "m.onnx")
    with torch.no_grad():
        parity = check_parity(net(*inputs.values()).numpy(), model, arrays, "torch")
    assert parity.passed, parity.reason
    assert parity.max_rel_error <= 1e-4


@each_family
@pytest.mark.parametrize("scope", ["local", "global"])
def test_each_family_can_be_pruned(family, scope):
    net, inputs = seen(family, width=2.0), family.inputs(2)
    pruned = prune(net, inputs, PruneSettings(pruning_ratio=0.5, round_to=4, scope=scope))
    assert pruned.macs_after < 0.7 * pruned.macs_before
    assert pruned.module(*inputs.values()).shape == (2, 5)


def test_what_is_too_narrow_to_prune_is_named():
    net = sensor_net(3, 5, width=0.5)
    with pytest.raises(PruningError, match=r"every layer keeps all its channels: .*stem.0.0 \(8\)"):
        prune(net, {"x": torch.randn(1, 3, 50)}, PruneSettings(pruning_ratio=0.2, round_to=32))


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_impossible_multipliers_are_refused(factor):
    with pytest.raises(ValueError, match=rf"width multiplier is {factor}, expected a finite"):
        resnet8(width=factor)
    with pytest.raises(ValueError, match=rf"depth multiplier is {factor}, expected a finite"):
        deepened((2,), factor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ds_cnn(classes=0), "classes is 0, expected >= 1"),
        (lambda: mobilenet_v1(in_channels=0), "in_channels is 0, expected >= 1"),
        (lambda: sensor_net(0, 3), "in_channels is 0, expected >= 1"),
        (lambda: tabular_net(0, (), 3), "numeric is 0 and vocabularies (): expected columns"),
        (lambda: tabular_net(2, (3, 0), 3), "vocabularies (3, 0) must be >= 1 each"),
        (lambda: TabularNet(2, (), 3, (0,)), "widths is 0, expected >= 1"),
        (lambda: HashedBag(0, 3, 8), "buckets is 0, expected >= 1"),
        (lambda: TextEncoder(9, 3, 0, 1), "heads is 0, expected >= 1"),
    ],
)
def test_impossible_families_are_refused(make, message):
    with pytest.raises(ValueError) as refused:
        make()
    assert message in str(refused.value)


# ---- images: the networks of MLPerf Tiny


@pytest.mark.parametrize(
    ("make", "shape", "features", "published"),
    [
        (resnet8, (3, 32, 32), (64, 8, 8), 78_666),
        (ds_cnn, (1, 49, 10), (64, 25, 5), 24_908),
        (mobilenet_v1, (3, 96, 96), (256, 3, 3), 221_794),
    ],
)
def test_published_networks_have_their_published_size(make, shape, features, published):
    net = make().eval()
    assert keras_parameters(net) == published
    assert net.stages(net.stem(torch.randn(1, *shape))).shape == (1, *features)


def test_depth_multiplies_the_blocks():
    assert len(resnet8(depth=2).stages) == 6
    assert len(mobilenet_v1(depth=0.5).stages) == 1 + 1 + 1 + 3 + 1
    assert mobilenet_v1(width=0.5).head.in_features == 512


# ---- tables


def test_tables_of_one_kind_of_column():
    assert tabular_net(4, (), 3).eval()(torch.randn(2, 4)).shape == (2, 3)
    assert tabular_net(0, (3, 7), 3).eval()(torch.ones(2, 2, dtype=torch.int64)).shape == (2, 3)
    with pytest.raises(ValueError, match="zip"):
        tabular_net(4, (3,), 3).eval()(torch.randn(2, 4))


@pytest.mark.parametrize("stranger", [-1, 3, 10**6])
def test_a_code_outside_the_vocabulary_counts_as_unseen(stranger):
    net = tabular_net(0, (3, 7), 5).eval()
    assert torch.equal(net(torch.tensor([[stranger, 2]])), net(torch.tensor([[0, 2]])))


def test_columns_do_not_share_rows():
    embed = tabular_net(0, (3, 7), 5).readers[0]
    rows = {tuple(embed(torch.tensor([[a, 0]]))[0, :8].tolist()) for a in range(3)}
    rows |= {tuple(embed(torch.tensor([[0, b]]))[0, 8:].tolist()) for b in range(7)}
    assert len(rows) == 10


# ---- texts


@pytest.mark.parametrize("name", ["hashed_bag", "text_encoder"])
def test_padding_changes_nothing(name):
    net, tokens = seen(MULTIPLIED[name]), torch.tensor([[3, 9, 4]])
    padded = torch.tensor([[3, 9, 4, 0, 0]])
    torch.testing.assert_close(net(tokens), net(padded))
    assert not torch.allclose(net(tokens), net(torch.tensor([[3, 9, 5]])))
    assert net(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all()


def test_word_order_matters_to_the_encoder_alone():
    forth, back = torch.tensor([[3, 9, 4]]), torch.tensor([[4, 9, 3]])
    bag, encoder = (seen(MULTIPLIED[name]) for name in ("hashed_bag", "text_encoder"))
    torch.testing.assert_close(bag(forth), bag(back))
    assert not torch.allclose(encoder(forth), encoder(back))


def test_ids_of_any_size_are_hashed_alike_in_torch_and_onnx(tmp_path):
    net = hashed_bag(5, buckets=101).eval()
    ids = np.array([[1, 2**31 - 1, 2**40], [2**63 - 1, -1, -(2**63)]])
    model = export(net, {"tokens": ids}, tmp_path / "m.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(
            run(model, {"tokens": ids}), net(torch.tensor(ids)).numpy(), atol=1e-6
        )


def test_two_hashes_tell_most_ids_apart():
    net = HashedBag(buckets=64, classes=3, width=8)
    vectors = [net(torch.tensor([[i]])) for i in range(1, 257)]
    assert len({tuple(v[0].tolist()) for v in vectors}) > 200


def test_texts_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="texts of 17 tokens, expected at most max_length = 16"):
        text_encoder(50, 3, max_length=16)(torch.ones(1, 17, dtype=torch.int64))


@pytest.mark.slow
def test_the_encoder_can_take_any_length_in_onnx(tmp_path):
    net, path = seen(MULTIPLIED["text_encoder"]), tmp_path / "m.onnx"
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=16)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net, (texts(2)["tokens"],), dynamo=True, dynamic_shapes=(free,), verbose=False
        )
    program.save(path)
    model = artifact(path, OnnxModel)
    for length in (1, 5, 16):
        tokens = torch.randint(1, 50, (3, length))
        with torch.no_grad():
            expected = net(tokens).numpy()
        name = program.model_proto.graph.input[0].name
        np.testing.assert_allclose(run(model, {name: tokens.numpy()}), expected, atol=1e-5)


def test_pruning_takes_the_same_from_every_head():
    net = seen(MULTIPLIED["text_encoder"], depth=0.5)
    with torch.no_grad():
        net.layers[0].attention.value.weight[:32] *= 0.1  # or the first head would lose all
    entries = prune(net, texts(2), PruneSettings(pruning_ratio=0.25)).plan.channels
    (kept,) = (entry.kept for entry in entries if ".attention.value" in entry.module)
    assert kept[:24] == tuple(channel - 32 for channel in kept[24:])


def test_channels_that_say_nothing_are_not_missed():
    net, inputs = seen(MULTIPLIED["text_encoder"], depth=0.5), texts(4)
    attention = net.layers[0].attention
    dead = torch.cat([torch.arange(16) + 32 * head for head in range(attention.heads)])
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value):
            part.weight[dead], part.bias[dead] = 0, 0
        attention.mix.weight[:, dead] = 0
    feed_forward = ("layers.0.feed_forward.1", "layers.0.feed_forward.3")
    asked = PruneSettings(pruning_ratio=0.5, ignore=(*feed_forward, "layers.0.attention.mix"))
    pruned = prune(net, inputs, asked).module
    assert pruned.layers[0].attention.key.out_features == 32
    torch.testing.assert_close(pruned(*inputs.values()), net(*inputs.values()))
