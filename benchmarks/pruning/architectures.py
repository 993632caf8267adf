"""Small networks of eleven kinds, each with the parts that make its kind hard to prune.

Inputs are images (batch, 3, 16, 16), signals (batch, 4, 64) or token ids (batch, 12); each network
returns logits (batch, 10). `times` makes each as many times as wide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 10
Shape = tuple[int, ...]


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def pooled(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class Residual(nn.Module):
    """Two convolutions added to the input (arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv(inputs, outputs, 3, stride), nn.ReLU(), conv(outputs, outputs, 3)
        )
        self.shortcut = (
            nn.Identity() if (inputs, 1) == (outputs, stride) else conv(inputs, outputs, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def residual_net(times: int) -> nn.Module:
    narrow, middle, wide = 16 * times, 32 * times, 64 * times
    blocks = [Residual(narrow, narrow), Residual(narrow, middle, 2), Residual(middle, middle)]
    blocks += [Residual(middle, wide, 2)]
    stem = (conv(3, narrow, 3), nn.ReLU())
    return nn.Sequential(*stem, *blocks, Residual(wide, wide), pooled(wide))


def vgg_like(times: int) -> nn.Module:
    """Plain convolutions, and a flattened map before the first linear layer (arXiv:1409.1556)."""
    layers: list[nn.Module] = []
    width, wide = 3, 64 * times
    for outputs in (16 * times, 32 * times, wide):
        layers += [conv(width, outputs, 3), nn.ReLU(), nn.MaxPool2d(2)]
        width = outputs
    layers += [nn.Flatten(), nn.Linear(wide * 4, wide), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(wide, CLASSES))


def mobilenet_v1(times: int) -> nn.Module:
    """Depthwise separable convolutions (arXiv:1704.04861)."""
    layers: list[nn.Module] = [conv(3, 16 * times, 3), nn.ReLU()]
    sizes = ((16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2))
    for inputs, outputs, stride in ((i * times, o * times, s) for i, o, s in sizes):
        layers += [conv(inputs, inputs, 3, stride, groups=inputs), nn.ReLU()]
        layers += [conv(inputs, outputs, 1), nn.ReLU()]
    return nn.Sequential(*layers, pooled(128 * times))


class Squeeze(nn.Module):
    """Scale channels by what the whole image says (arXiv:1709.01507)."""

    def __init__(self, width: int, inner: int, gate: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, inner, 1)
        self.expand = nn.Conv2d(inner, width, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        scale = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * self.gate(scale)


class Inverted(nn.Module):
    """Widen, filter each channel, narrow; added to the input where sizes agree (1801.04381)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: nn.Module, gate: nn.Module | None
    ) -> None:
        super().__init__()
        wide = 4 * inputs
        self.branch = nn.Sequential(
            *(conv(inputs, wide, 1), activation),
            *(conv(wide, wide, 3, stride, groups=wide), activation),
            Squeeze(wide, max(8, inputs // 2), gate) if gate else nn.Identity(),
            conv(wide, outputs, 1),
        )
        self.adds = (inputs, 1) == (outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.adds else self.branch(x)


def inverted_net(times: int, activation: nn.Module, gate: nn.Module | None) -> nn.Module:
    sizes = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1))
    blocks = [Inverted(i * times, o * times, s, activation, gate) for i, o, s in sizes]
    first, last = conv(3, 16 * times, 3), conv(40 * times, 96 * times, 1)
    return nn.Sequential(first, activation, *blocks, last, activation, pooled(96 * times))


def mobilenet_v2(times: int) -> nn.Module:
    return inverted_net(times, nn.ReLU6(), None)


def mobilenet_v3(times: int) -> nn.Module:
    """The same blocks with hard swish and squeeze-excite (arXiv:1905.02244)."""
    return inverted_net(times, nn.Hardswish(), nn.Hardsigmoid())


def efficientnet(times: int) -> nn.Module:
    """The same blocks with SiLU and a sigmoid gate (arXiv:1905.11946)."""
    return inverted_net(times, nn.SiLU(), nn.Sigmoid())


class ConvNext(nn.Module):
    """Depthwise 7x7, then a layer norm and two linear layers over channels (arXiv:2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.filter(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(nn.functional.gelu(self.widen(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext(times: int) -> nn.Module:
    narrow, wide = 16 * times, 32 * times
    return nn.Sequential(
        *(nn.Conv2d(3, narrow, 2, 2), ConvNext(narrow), ConvNext(narrow)),
        *(nn.BatchNorm2d(narrow), nn.Conv2d(narrow, wide, 2, 2), ConvNext(wide)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(wide), nn.Linear(wide, CLASSES)),
    )


class Dense(nn.Module):
    """Append what is new to what came in (arXiv:1608.06993)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.mix = conv(inputs, 2 * growth, 1)
        self.filter = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(torch.relu(self.mix(torch.relu(self.norm(x)))))
        return torch.cat([x, y], 1)


def densenet(times: int) -> nn.Module:
    width = growth = 16 * times
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for stage in range(2):
        for _ in range(3):
            layers.append(Dense(width, growth))
            width += growth
        if stage == 0:
            layers += [conv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), pooled(width))


class FusedAttention(nn.Module):
    """One linear layer makes queries, keys and values of all heads, as in timm's networks."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, -1))


class VisionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = FusedAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches and a class token through transformer blocks (arXiv:2010.11929)."""

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.1)
        self.blocks = nn.Sequential(*(VisionBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Bert(nn.Module):
    """Token and position embeddings through PyTorch's own encoder layers (arXiv:1810.04805)."""

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, width)
        self.positions = nn.Embedding(32, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.1, "gelu", batch_first=True)
            for _ in range(depth)
        )
        self.pool = nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        x, padding = self.norm(x), tokens == 0
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return self.head(torch.tanh(self.pool(x[:, 0])))


def conv_1d(times: int) -> nn.Module:
    layers: list[nn.Module] = []
    width = 4
    for outputs in (16 * times, 32 * times, 64 * times):
        layers += [nn.Conv1d(width, outputs, 5, 2, 2), nn.BatchNorm1d(outputs), nn.ReLU()]
        width = outputs
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(*layers, *head)


@dataclass(frozen=True)
class Architecture:
    """Hold how a network is made, and the shape of one sample; None for token ids."""

    make: Callable[[int], nn.Module]
    shape: Shape | None

    def inputs(self, samples: int, seed: int = 0) -> Tensor:
        drawn = torch.Generator().manual_seed(seed)
        if self.shape is None:
            return torch.randint(1, 100, (samples, 12), generator=drawn)
        return torch.randn(samples, *self.shape, generator=drawn)

    def network(self, seed: int = 0, times: int = 1) -> nn.Module:
        """Return a network whose norms have scales of their own and have seen data."""
        torch.manual_seed(seed)
        net = self.make(times)
        with torch.no_grad():
            for part in net.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
                    part.weight.uniform_(0.5, 1.5)
                    part.bias.uniform_(-0.2, 0.2)
            net.train()(self.inputs(32, seed))
        return net.eval()


IMAGE, SIGNAL = (3, 16, 16), (4, 64)
ARCHITECTURES = {
    "residual": Architecture(residual_net, IMAGE),
    "vgg": Architecture(vgg_like, IMAGE),
    "mobilenet_v1": Architecture(mobilenet_v1, IMAGE),
    "mobilenet_v2": Architecture(mobilenet_v2, IMAGE),
    "mobilenet_v3": Architecture(mobilenet_v3, IMAGE),
    "efficientnet": Architecture(efficientnet, IMAGE),
    "convnext": Architecture(convnext, IMAGE),
    "densenet": Architecture(densenet, IMAGE),
    "vit_tiny": Architecture(lambda times: VisionTransformer(48 * times), IMAGE),
    "bert_tiny": Architecture(lambda times: Bert(48 * times), None),
    "conv_1d": Architecture(conv_1d, SIGNAL),
}
