"""Self-attention over the positions of a feature map: Zhang et al. 2018, arXiv 1805.08318, section 3."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.config import AttentionConfig
from sagan_deploy.model.layers import conv


class SelfAttention(nn.Module):
    """y = γ·o + x, where o attends from every position to all (or all pooled) positions.

    In the paper's letters: s = f(x)ᵀg(x), β = softmax(s), o = v(β h(x)). The keys are its f, the queries its g, the
    values its h and the output projection its v; γ starts at 0, so that training begins with local convolutions.
    """

    def __init__(self, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.key_channels = channels // config.key_ratio
        self.value_channels = channels // config.value_ratio
        options = {"bias": config.bias, "spectral": config.spectral_norm}
        self.query = conv(channels, self.key_channels, 1, **options)
        self.key = conv(channels, self.key_channels, 1, **options)
        self.value = conv(channels, self.value_channels, 1, **options)
        self.output = conv(self.value_channels, channels, 1, **options) if config.output_conv else None
        self.gamma = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> float:
        """What the scores are multiplied by before the softmax."""
        return 1.0 / math.sqrt(self.key_channels) if self.config.scale == "rsqrt" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, c, h, w)."""
        n, _, h, w = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.config.pool:
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        query, key, value = query.flatten(2), key.flatten(2), value.flatten(2)  # n, channels, positions
        scores = torch.bmm(query.transpose(1, 2), key) * self.scale  # n, queries, keys
        attention = scores.softmax(dim=-1)
        if self.config.attention_map == "standard":
            attention = attention.transpose(1, 2)
        # "untransposed" sums over the rows that were normalised, as one public revision does.
        out = torch.bmm(value, attention).view(n, self.value_channels, h, w)
        if self.output is not None:
            out = self.output(out)
        return self.gamma * out + x
