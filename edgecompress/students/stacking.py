"""What the families share: multipliers of width and depth, stages of blocks, layers of a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

Block = Callable[[int, int, int], nn.Module]
"""Given the channels that come in, those that go out, and a stride, returns a block."""


def scaled(widths: Sequence[int], factor: float, multiple: int = 8) -> tuple[int, ...]:
    """Return the widths times `factor`, each rounded to a multiple and at least one multiple.

    >>> scaled((32, 64, 128), 0.3)
    (8, 16, 40)
    """
    _check_factor("width", factor)
    return tuple(max(multiple, round(w * factor / multiple) * multiple) for w in widths)


def deepened(blocks: Sequence[int], factor: float) -> tuple[int, ...]:
    """Return the numbers of blocks times `factor`, each rounded and at least one.

    >>> deepened((1, 2, 6), 0.5)
    (1, 1, 3)
    """
    _check_factor("depth", factor)
    return tuple(max(1, round(count * factor)) for count in blocks)


class StagedNet(nn.Module):
    """Run a stem, stages of blocks, a global average pool and a linear layer."""

    def __init__(self, stem: nn.Module, stages: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.stem = stem
        self.stages = stages
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits (batch, classes)."""
        logits: Tensor = self.head(self.pool(self.stages(self.stem(x))))
        return logits


def stages(block: Block, width: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    """Stack `blocks[i]` blocks at `widths[i]` channels on a stem of `width` channels.

    Every stage after the first halves the resolution.
    """
    stacked: list[nn.Module] = []
    for stage, (wider, depth) in enumerate(zip(widths, blocks, strict=True)):
        for i in range(depth):
            stacked.append(block(width, wider, 2 if i == 0 and stage > 0 else 1))
            width = wider
    return nn.Sequential(*stacked)


def perceptron(inputs: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them, and one for the classes."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def check_sizes(**sizes: int) -> None:
    """Raise ValueError naming the first size that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, expected >= 1")


def _check_factor(name: str, factor: float) -> None:
    if not 0 < factor < float("inf"):
        raise ValueError(f"{name} multiplier is {factor}, expected a finite number > 0")
