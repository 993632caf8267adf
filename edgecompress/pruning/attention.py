"""Attention as pruning sees it: separate linear layers, and heads that can be counted and cut.

PyTorch's `nn.MultiheadAttention` ties the width of its heads to that of its input. It is rewritten
as four linear layers, so that heads and their width can go while the input stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """Compute what an `nn.MultiheadAttention` does, by linear layers of any width.

    It is called like the original, for batches (nested tensors and single samples excepted). The
    scores keep the original's scale, so that a narrower head is no hotter.
    """

    # What nn.TransformerEncoderLayer looks at before it takes a fast path past `forward`.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.scale = source.head_dim**-0.5
        self.batch_first = source.batch_first
        self.dropout = source.dropout
        weights: tuple[Tensor, ...]
        weights = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
        if source.in_proj_weight is not None:
            weights = source.in_proj_weight.chunk(3)
        biases = (None,) * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        trained = any(parameter.requires_grad for parameter in source.parameters())
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.mix = _linear(source.out_proj.weight, source.out_proj.bias)
        self.requires_grad_(trained).train(source.training)

    def forward(  # noqa: PLR0913, the arguments of nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mixed values and, if needed, the weights, as nn.MultiheadAttention does."""
        if query.dim() != 3:
            raise ValueError(f"attention over {query.dim()} dimensions, expected batches (3)")
        inputs = (query, key, value)
        if not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)  # type: ignore[assignment]
        layers = (self.query, self.key, self.value)
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in zip(layers, inputs, strict=True)
        )
        scores = q @ k.transpose(-2, -1) * self.scale
        if attn_mask is not None:
            mask = _added(attn_mask, scores)
            scores = scores + (mask.view(len(q), -1, *mask.shape[1:]) if mask.dim() == 3 else mask)
        if key_padding_mask is not None:
            scores = scores + _added(key_padding_mask, scores)[:, None, None, :]
        weights = nn.functional.dropout(scores.softmax(-1), self.dropout, self.training)
        mixed = self.mix((weights @ v).transpose(1, 2).flatten(2))
        if not self.batch_first:
            mixed = mixed.transpose(0, 1)
        if not need_weights:
            return mixed, None
        return mixed, weights.mean(1) if average_attn_weights else weights


def splittable(module: nn.Module, spared: Collection[nn.Module] = ()) -> tuple[str, ...]:
    """Return the paths of the attentions that `split_` can rewrite, without the `spared` ones."""
    found = [
        (path, part)
        for path, part in module.named_modules(remove_duplicate=False)
        if path and type(part) is nn.MultiheadAttention and not _holds(part, spared)
    ]
    uses = Counter(part for _, part in found)
    return tuple(
        path
        for path, part in found
        if uses[part] == 1 and part.bias_k is None and not part.add_zero_attn
    )


def split_(module: nn.Module, paths: Collection[str]) -> None:
    """Rewrite the attentions at `paths` as linear layers, in place."""
    for path in paths:
        source = module.get_submodule(path)
        assert isinstance(source, nn.MultiheadAttention)
        module.set_submodule(path, SplitAttention(source))
    for part in module.modules():
        if paths and isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False  # it would look into the attention's fused weights


def _holds(part: nn.Module, spared: Collection[nn.Module]) -> bool:
    return any(inner in spared for inner in part.modules())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    # On "meta", so that no random numbers are drawn for weights that are thrown away.
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """Return a mask as what is added to the scores; true means: do not look there."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -torch.inf)
