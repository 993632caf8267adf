"""The small image families: their shapes, their scaling, their limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecompress.students.image import DepthwiseNet, ResidualNet, scaled

FAMILIES = [ResidualNet, DepthwiseNet]


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
