"""Self-attention in inference form: one 1x1 projection for f, g and h, γ folded into the output projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.model.attention import SelfAttention
from sagan_deploy.model.inference.fold import Weights, effective

# TensorRT fuses MatMul–Softmax–MatMul over 4-D tensors with equal head sizes, multiples of 8 from 16 to 192.
_SMALLEST_HEAD, _LARGEST_HEAD = 16, 192
# Scores of an image in one part of a decomposed attention: 1 MB in float32. Measured at 64x64, 64 channels.
_SCORES = 1 << 18


class InferenceAttention(nn.Module):
    """y = x + W_o·attend(W·x) with W = [scale·W_query; W_key; W_value] and γ inside W_o (or inside W_value).

    Scores are computed in the weights' type and the softmax always in float32, between two casts.
    """

    def __init__(self, attention: SelfAttention, layout: str) -> None:
        super().__init__()
        self.pool = attention.config.pool
        self.transposed_map = attention.config.attention_map == "standard"
        self.layout = resolve_layout(attention, layout)
        key, value, self.heads = attention.key_channels, attention.value_channels, 1
        if self.layout == "fused" and (split := split_heads(key, value)) is not None:
            self.heads, key = split
            value = self.heads * key
        self.key_channels, self.value_channels = key, value
        projection, output = _projections(attention, key, value)
        self.projection = nn.Parameter(projection.weight)
        self.projection_bias = nn.Parameter(projection.bias) if bool(projection.bias.any()) else None
        self.output = nn.Parameter(output.weight) if output is not None else None
        has_bias = output is not None and bool(output.bias.any())
        self.output_bias = nn.Parameter(output.bias) if output is not None and has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, h, w)."""
        projected = F.conv2d(x, self.projection, self.projection_bias)
        query, rest = projected.split((self.key_channels, self.key_channels + self.value_channels), dim=1)
        if self.pool:
            rest = F.max_pool2d(rest, 2)
        key, value = rest.split((self.key_channels, self.value_channels), dim=1)
        attend = self._fused if self.layout == "fused" else self._decomposed
        out = attend(query, key, value).view(x.shape[0], self.value_channels, x.shape[2], x.shape[3])
        if self.output is not None:
            out = F.conv2d(out, self.output, self.output_bias)
        return x + out

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # One Reshape to (n, heads, d, positions) and 4-D MatMuls: the pattern that TensorRT's fused kernels match.
        # It takes no broadcast: where the values are several heads, queries and keys are expanded to as many.
        count, size = query.shape[0], self.key_channels
        query, key = query.reshape(count, 1, size, -1).transpose(2, 3), key.reshape(count, 1, size, -1)
        if self.heads > 1:
            query, key = query.expand(-1, self.heads, -1, -1), key.expand(-1, self.heads, -1, -1)
        value = value.reshape(count, self.heads, size, -1)
        attention = softmax(query @ key)
        return (attention @ value.transpose(2, 3)).transpose(2, 3).contiguous()

    def _decomposed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = query.flatten(2).transpose(1, 2), key.flatten(2), value.flatten(2)
        if not self.transposed_map:  # sums over the queries, so that all are needed at once
            return value @ softmax(query @ key)
        # Every query has a softmax of its own, so a large map is computed in parts that stay in the cache. The map is
        # the left factor: engines pack the right one anew for every product, and the values are a quarter as large.
        value, rows = value.transpose(1, 2), max(1, _SCORES // key.shape[2])
        parts = [query] if rows >= query.shape[1] else query.split(rows, dim=1)
        found = [softmax(part @ key) @ value for part in parts]
        return (torch.cat(found, dim=1) if len(found) > 1 else found[0]).transpose(1, 2).contiguous()


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, computed in float32 when the scores are narrower: they are unscaled in SAGAN."""
    return at_least_float32(scores).softmax(dim=-1).to(scores.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32, and float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def split_heads(key_channels: int, value_channels: int) -> tuple[int, int] | None:
    """How many heads, and of which width, the fused layout pads this attention to; None when no kernel is so wide.

    Every head has the same queries and keys and a part of the values: softmax(QᵀK)·[V₁ … V_h] is computed in parts.
    The fewest heads that fit are taken, as each computes the softmax again.
    """
    for heads in range(1, value_channels + 1):
        width = max(key_channels, -(-value_channels // heads))
        size = max(_SMALLEST_HEAD, -(-width // 8) * 8)
        if size <= _LARGEST_HEAD:
            return heads, size
    return None


def resolve_layout(attention: SelfAttention, wanted: str) -> str:
    """``fused`` where it can be had for this block, otherwise ``decomposed``, which always works."""
    fits = split_heads(attention.key_channels, attention.value_channels) is not None
    standard = attention.config.attention_map == "standard"
    return "fused" if wanted == "fused" and fits and standard else "decomposed"


def _projections(attention: SelfAttention, key: int, value: int) -> tuple[Weights, Weights | None]:
    """Queries, keys and values as one 1x1 convolution padded to the given widths, and the output convolution.

    Zero channels in queries and keys add 0 to every score; zero channels in the values meet zero columns in W_o.
    """
    gamma = attention.gamma.detach()
    query, keys, values = effective(attention.query), effective(attention.key), effective(attention.value)
    query = Weights(query.weight * attention.scale, query.bias * attention.scale)
    output = None
    if attention.output is None:
        values = Weights(values.weight * gamma, values.bias * gamma)
        if value != attention.value_channels:
            # Without an output convolution nothing drops the padding, so a selection of the real channels does.
            identity = torch.eye(attention.value_channels, value, dtype=gamma.dtype)[:, :, None, None]
            output = Weights(identity, torch.zeros(attention.value_channels, dtype=gamma.dtype))
    else:
        weights = effective(attention.output)
        output = Weights(_pad(weights.weight, 1, value) * gamma, weights.bias * gamma)
    parts = ((query, key), (keys, key), (values, value))
    weight = torch.cat([_pad(part.weight, 0, width) for part, width in parts])
    bias = torch.cat([_pad(part.bias, 0, width) for part, width in parts])
    return Weights(weight, bias), output


def _pad(tensor: Tensor, dim: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat((tensor, tensor.new_zeros(shape)), dim)
