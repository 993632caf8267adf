"""Cuts that would change more than the channels that go are refused, whatever hides them."""

import pytest
import torch
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.pruning.prune import prune
from edgecompress.recipe import PruneSettings

MAP = torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6)


def pruned(net: nn.Module, inputs: Tensor = MAP, ratio: float = 0.5, **changes):
    settings = PruneSettings(pruning_ratio=ratio, round_to=1, importance="random", **changes)
    return prune(net.eval(), (inputs,), settings)


class Shuffled(nn.Module):
    """Move channels between two halves, as ShuffleNet does (arXiv:1707.01083)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.second = nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        batch, channels, high, wide = x.shape
        x = x.view(batch, 2, channels // 2, high, wide).transpose(1, 2).reshape(x.shape)
        return self.head(self.second(x).relu().mean((2, 3)))


def test_a_channel_shuffle_is_noticed():
    torch.manual_seed(0)
    with pytest.raises(PruningError) as caught:
        pruned(Shuffled())
    message = str(caught.value)
    assert message.startswith("cutting channels of 'first' changes more than them: forward()")
    assert message.endswith("name the module in prune.ignore")
    smaller = pruned(Shuffled(), ignore=("first",))
    assert smaller.module.second.out_channels == 8


class WrittenDown(nn.Module):
    """Know the width of a head by heart, and count heads by what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.embed = nn.Linear(6, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (
            part(x).unflatten(-1, (-1, 8)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.head(self.mix(mixed.transpose(1, 2).flatten(2)).mean(1))


def test_a_width_of_heads_that_is_written_down_is_noticed():
    # Two channels less in each of four heads of eight: three heads of eight, with no error.
    torch.manual_seed(0)
    sequence = torch.randn(2, 5, 6)
    with pytest.raises(PruningError, match="cutting channels of 'value' changes more"):
        pruned(WrittenDown(), sequence, 0.25, ignore=("embed", "mix"))
    heads = pruned(WrittenDown(), sequence, 0.0, head_ratio=0.5)
    assert heads.module.query.out_features == 16
    assert heads.module.num_heads == 2


class Unnamed(nn.Module):
    """Attend without telling how many heads there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        scores = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        return self.head((scores @ self.value(x)).mean(1))


def test_an_attention_that_tells_no_heads_stays_whole():
    smaller = pruned(Unnamed(), torch.randn(2, 5, 6))
    assert smaller.module.query.out_features == 16
    assert smaller.module.embed.out_features == 8
    assert smaller.whole["value"] == "is an attention whose number of heads is not told"


class Gated(nn.Module):
    """Multiply one half of the channels with the other."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.both = nn.Conv2d(3, 32, 3)
        self.hidden = nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x)
        value, gate = (both[:, ::2], both[:, 1::2]) if self.interleaved else both.chunk(2, dim=1)
        return self.head(self.hidden(value * gate.sigmoid()).relu().mean((2, 3)))


def test_both_halves_of_a_gate_lose_alike():
    smaller = pruned(Gated(interleaved=False))
    (both,) = (entry for entry in smaller.plan.channels if entry.module == "both")
    assert both.kept[:8] == tuple(channel - 16 for channel in both.kept[8:])
    assert smaller.module.hidden.in_channels == 8


def test_channels_that_cannot_be_followed_stay_whole():
    smaller = pruned(Gated(interleaved=True))
    assert smaller.whole["both"] == "has channels that torch-pruning cannot follow"
    assert smaller.module.both.out_channels == 32
    assert smaller.module.hidden.out_channels == 8


PARTS = {
    "grouped": (nn.Conv2d(16, 16, 3, groups=4), 16),
    "depthwise": (nn.Conv2d(16, 16, 3, groups=16), 16),
    "transposed": (nn.ConvTranspose2d(16, 8, 3), 8),
    "prelu": (nn.PReLU(16), 16),
    "instance norm": (nn.InstanceNorm2d(16, affine=True), 16),
    "group norm": (nn.GroupNorm(4, 16), 16),
    "batch norm": (nn.BatchNorm2d(16), 16),
    "dropout": (nn.Dropout2d(0.5), 16),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_handles_channels_soundly_is_cut(part):
    torch.manual_seed(0)
    middle, width = PARTS[part]
    net = nn.Sequential(nn.Conv2d(3, 16, 3), middle, nn.ReLU(), nn.Conv2d(width, 8, 1))
    net.extend((nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)))
    smaller = pruned(net).module
    assert smaller[0].out_channels == 8
    assert smaller(MAP).shape == (2, 5)


def test_embeddings_lose_dimensions_like_any_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    smaller = pruned(net, torch.randint(0, 9, (2, 5))).module
    assert smaller[1].out_features == 8
    assert smaller(torch.randint(0, 9, (2, 5))).shape == (2, 5, 4)


def test_filters_that_make_two_of_each_channel_stay_and_are_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, groups=16), nn.Conv2d(32, 8, 1))
    net.extend((nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    smaller = pruned(net)
    assert smaller.whole["0"] == "rounds to all of its 16 channels (multiples of 16)"
    assert smaller.module[1].out_channels == 16  # one of each two: depthwise from here on
    with pytest.raises(PruningError, match=r"could not be rebuilt from its plan \('1' would lose"):
        pruned(net, ratio=0.7, steps=2)
