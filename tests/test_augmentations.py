"""Augmentations: what each changes and leaves, and that every draw comes from the generator."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgecompress.distilling.augmentations import (
    Chain,
    DropWords,
    Flip,
    Gain,
    Mask,
    Noise,
    Shift,
)

IMAGE = torch.arange(1, 8 * 2 * 5 * 6 + 1).reshape(8, 2, 5, 6).float()
WORDS = torch.arange(1, 401).reshape(40, 10)


def run(step: Callable[..., dict[str, Tensor]], values: Tensor, seed: int = 0) -> Tensor:
    batch = {"x": values.clone(), "other": values.clone()}
    seen = step(batch, torch.Generator().manual_seed(seed))
    assert torch.equal(batch["x"], values)
    assert torch.equal(seen["other"], values)
    assert (seen["x"].shape, seen["x"].dtype) == (values.shape, values.dtype)
    return seen["x"]


@pytest.mark.parametrize(
    ("step", "values"),
    [
        (Flip("x"), IMAGE),
        (Shift("x", 2), IMAGE),
        (Shift("x", 3), IMAGE[:, :, 0]),
        (Mask("x", -1, 3), IMAGE),
        (Gain("x", 2.0), IMAGE),
        (Noise("x", 0.1), IMAGE),
        (DropWords("x", 0.2), WORDS),
        (Chain((Flip("x"), Noise("x", 0.1))), IMAGE),
    ],
)
def test_the_generator_alone_decides(
    step: Callable[..., dict[str, Tensor]], values: Tensor
) -> None:
    assert torch.equal(run(step, values, 1), run(step, values, 1))
    assert not torch.equal(run(step, values, 1), run(step, values, 2))
    assert not torch.equal(run(step, values, 1), values)


def test_a_flip_mirrors_whole_images() -> None:
    for seen, image in zip(run(Flip("x"), IMAGE), IMAGE, strict=True):
        assert torch.equal(seen, image) or torch.equal(seen, image.flip(-1))
    assert torch.equal(run(Flip("x", 1.0), IMAGE), IMAGE.flip(-1))


def test_a_shift_moves_each_image_as_one_and_fills_with_zero() -> None:
    for seen, image in zip(run(Shift("x", 2), IMAGE), IMAGE, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        crops = [padded[:, top : top + 5, left : left + 6] for top in range(5) for left in range(5)]
        assert any(torch.equal(seen, crop) for crop in crops)


def test_a_mask_hides_one_stretch_of_one_axis() -> None:
    for axis in (2, -1):
        hidden = run(Mask("x", axis, 3), IMAGE) == 0
        across = hidden.movedim(axis, 1).flatten(2)
        assert torch.equal(across.all(dim=2), across.any(dim=2))
        places = across.all(dim=2)
        assert places.sum(dim=1).max() == 3
        for row in places:
            assert (row.int().diff().abs().sum() <= 2) and (row.int().diff() == 1).sum() <= 1


def test_gain_noise_and_dropped_words_are_as_large_as_asked() -> None:
    factor = (run(Gain("x", 2.0), IMAGE) / IMAGE).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert 0.5 <= factor.min() < 1 < factor.max() <= 2
    assert (run(Noise("x", 0.5), torch.zeros(100, 100)).std() - 0.5).abs() < 0.02
    words = run(DropWords("x", 0.2, token=0), WORDS)
    assert torch.equal(words[words > 0], WORDS[words > 0])
    assert abs(float((words == 0).float().mean()) - 0.2) < 0.06


def test_an_augmentation_says_what_it_is() -> None:
    assert repr(Chain((Shift("x", 2),))) == "Chain(steps=(Shift(name='x', most=2),))"
