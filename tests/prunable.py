"""Small networks to prune, and ways to compare them."""

import torch
from torch import Tensor, nn

from edgecompress.recipe import PruneSettings
from edgecompress.students.image import ResidualNet

IMAGE = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)


def residual() -> ResidualNet:
    """Return a small network whose layers, weights and batch norms all differ."""
    torch.manual_seed(0)
    net = ResidualNet(1, 10, (16, 32), (1, 1))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight)
            nn.init.uniform_(part.running_mean)
    return net


def asked(**changes) -> PruneSettings:
    return PruneSettings(**{"pruning_ratio": 0.5, "round_to": 4} | changes)


def loss(module: nn.Module) -> Tensor:
    return module(IMAGE).logsumexp(1).sum()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Fixed(nn.Module):
    """Write a size into its forward, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(-1, 16 * 64))


class Wrapped(nn.Module):
    """Hold a part with a size written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Fixed()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TwoHeads(nn.Module):
    """Return logits and the features that they are made from."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, 32)
        self.features = nn.Linear(32, 16)
        self.logits = nn.Linear(16, 5)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        features = self.features(self.hidden(x).relu()) + y
        return {"features": features, "logits": self.logits(features)}
