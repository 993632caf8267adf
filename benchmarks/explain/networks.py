"""Small networks, most in two shapes: one that runs slowly, one that does the same work well."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Pointwise(nn.Module):
    """Stack 1x1 convolutions with this activation."""

    def __init__(self, activation: Callable[[], nn.Module], width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), activation()]
        for _ in range(4):
            layers += [nn.Conv2d(width, width, 1), activation()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Rows(nn.Module):
    """Run layers over the rows of a table at once."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Mixing(nn.Module):
    """Mix channels by linear layers on rows of points, as ports from channels-last code do.

    Or, not `transposing`, by 1x1 convolutions, which compute the same.
    """

    def __init__(self, transposing: bool, width: int = 16) -> None:
        super().__init__()
        self.transposing = transposing
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        mixer = nn.Linear(width, width) if transposing else nn.Conv2d(width, width, 1)
        self.mixers = nn.ModuleList(copy.deepcopy(mixer) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for mixer, conv in zip(self.mixers, self.convs, strict=True):
            batch, channels, height, width = x.shape
            if self.transposing:
                x = mixer(x.permute(0, 2, 3, 1).reshape(batch, height * width, channels))
                x = x.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
            else:
                x = mixer(x)
            x = torch.relu(conv(torch.relu(x)))
        return x


class Upsampling(nn.Module):
    """Halve an image and double it: by a transposed convolution, or by a plain one and Resize."""

    def __init__(self, transposed: bool, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.up = (
            nn.ConvTranspose2d(width, width, 3, 2, 1, 1)
            if transposed
            else nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.Upsample(scale_factor=2))
        )
        self.end = nn.Conv2d(width, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.relu(self.up(torch.relu(self.stem(x)))))


class Grouped(nn.Module):
    """Stack convolutions in groups."""

    def __init__(self, groups: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Unrolled(nn.Module):
    """Step a recurrent cell by hand, as a loop traced by an exporter becomes."""

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.steps = steps
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in range(self.steps):
            state = torch.tanh(self.inner(x[:, step]) + self.outer(state))
        return state


class Passes(nn.Module):
    """Go over a large map several times after a convolution."""

    def __init__(self, passes: int, width: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.scales = nn.ParameterList(torch.rand(1, width, 1, 1) for _ in range(passes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for scale in self.scales:
            x = torch.abs(x * scale)
        return x.mean((2, 3))
