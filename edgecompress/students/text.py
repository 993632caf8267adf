"""Small classifiers of texts; inputs int64 token ids (batch, length), padded with 0 at any place.

Each returns logits (batch, classes), from the tokens that are not padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgecompress.students.stacking import check_sizes, deepened, perceptron, scaled

_PRIME = 2**31 - 1
_FACTORS, _SHIFTS = (1103515245, 1664525), (12345, 1013904223)  # any below the prime serve
_HEAD_WIDTH = 32


def masked_mean(vectors: Tensor, real: Tensor) -> Tensor:
    """Return the mean over the real tokens: (batch, length, width) to (batch, width).

    `real` is boolean (batch, length); a text without a token gives zeros.
    """
    weights = real.unsqueeze(-1).to(vectors.dtype)
    return (vectors * weights).sum(1) / weights.sum(1).clamp(min=1)


class HashedBag(nn.Module):
    """Average hashed embeddings, then run layers of the widths in `hidden`.

    Ids of any size serve: each picks two rows of the table by two universal hashes (Carter and
    Wegman 1979), so that few ids share both (Svenstrup et al. 2017, arXiv:1709.03933).
    """

    factors: Tensor
    shifts: Tensor

    def __init__(self, buckets: int, classes: int, width: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        check_sizes(buckets=buckets, classes=classes, width=width, hidden=min(hidden, default=1))
        self.table = nn.Embedding(buckets, width)
        self.layers = perceptron(width, hidden, classes)
        self.register_buffer("factors", torch.tensor(_FACTORS), persistent=False)
        self.register_buffer("shifts", torch.tensor(_SHIFTS), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (batch, length) to logits (batch, classes)."""
        hashes = (tokens.unsqueeze(-1) % _PRIME * self.factors + self.shifts) % _PRIME
        vectors = self.table(hashes % self.table.num_embeddings).sum(2)
        logits: Tensor = self.layers(masked_mean(vectors, tokens != 0))
        return logits


class NgramBag(nn.Module):
    """Add up one vector for each id, over the root of their number; then one linear layer.

    For the many ids of words and n-grams in 1..`buckets` - 1, as `HashedWords` makes them. A linear
    classifier whose weights have rank `width` (Joulin et al. 2017, arXiv:1607.01759); with the
    root, a text of many words is a surer one, and still no louder than its words.
    """

    def __init__(self, buckets: int, classes: int, width: int, dropout: float = 0.3) -> None:
        super().__init__()
        check_sizes(buckets=buckets, classes=classes, width=width)
        self.table = nn.Embedding(buckets, width, padding_idx=0)
        nn.init.normal_(self.table.weight[1:], std=0.1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (batch, length) to logits (batch, classes)."""
        count = (tokens != 0).sum(1, keepdim=True).clamp(min=1).to(self.table.weight.dtype)
        logits: Tensor = self.head(self.dropout(self.table(tokens).sum(1) / count.sqrt()))
        return logits


class HeadLinear(nn.Linear):
    """Project to the channels of several heads, one head after another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads * _HEAD_WIDTH)
        self.channel_parts = heads  # pruning takes as many channels from each part


class Attention(nn.Module):
    """Let tokens look at the real tokens of their text (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = HeadLinear(width, heads)
        self.key = HeadLinear(width, heads)
        self.value = HeadLinear(width, heads)
        self.mix = nn.Linear(heads * _HEAD_WIDTH, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape; `real` is boolean (batch, length)."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * _HEAD_WIDTH**-0.5
        # Not -inf: a text that is all padding would become NaN.
        weights = scores.masked_fill(~real[:, None, None, :], -1e9).softmax(-1)
        seen: Tensor = self.mix((weights @ value).transpose(1, 2).flatten(2))
        return seen


class EncoderLayer(nn.Module):
    """Add attention, then a feed-forward part; each is normalised before (arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape; `real` is boolean (batch, length)."""
        x = x + self.attention(self.attention_norm(x), real)
        y: Tensor = x + self.feed_forward(x)
        return y


class TextEncoder(nn.Module):
    """Encode up to `max_length` tokens of a vocabulary by transformer layers 32 * `heads` wide."""

    def __init__(
        self, vocabulary: int, classes: int, heads: int, layers: int, max_length: int = 128
    ) -> None:
        super().__init__()
        check_sizes(vocabulary=vocabulary, classes=classes, heads=heads, layers=layers)
        check_sizes(max_length=max_length)
        width = heads * _HEAD_WIDTH
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (batch, length) to logits (batch, classes)."""
        length, longest = tokens.shape[1], self.positions.num_embeddings
        if length > longest:
            raise ValueError(f"texts of {length} tokens, expected at most max_length = {longest}")
        real = tokens != 0
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        for layer in self.layers:
            x = layer(x, real)
        logits: Tensor = self.head(masked_mean(self.norm(x), real))
        return logits


def hashed_bag(
    classes: int, buckets: int = 4096, width: float = 1.0, depth: float = 1.0
) -> HashedBag:
    """Return embeddings and one hidden layer of 64, times the multipliers."""
    (layers,), (wide,) = deepened((1,), depth), scaled((64,), width)
    return HashedBag(buckets, classes, wide, (wide,) * layers)


def text_encoder(
    vocabulary: int,
    classes: int,
    width: float = 1.0,
    depth: float = 1.0,
    max_length: int = 128,
) -> TextEncoder:
    """Return two layers of two heads, times the multipliers (`width` counts whole heads)."""
    (layers,), (heads,) = deepened((2,), depth), scaled((2,), width, multiple=1)
    return TextEncoder(vocabulary, classes, heads, layers, max_length)
