"""What the rewritten convolutions share: sums along one axis, and results that belong side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


def depthwise(sums: Tensor, channels: int) -> nn.ParameterList:
    """The same weighted sums for every channel: (k, a, b) → k depthwise kernels (channels, 1, a, b)."""
    return nn.ParameterList(kernel.repeat(channels, 1, 1, 1) for kernel in sums)


def interleave(left: Pair, right: Pair) -> Tensor:
    """Even and odd rows of the even columns, and of the odd ones, each (n, c, h, w), to (n, c, 2h, 2w)."""
    rows = [torch.stack(columns, dim=-1).flatten(-2) for columns in zip(left, right, strict=True)]
    channels, height, width = rows[0].shape[1:]
    return torch.cat(rows, dim=-1).view(-1, channels, 2 * height, width)  # the odd row behind the even one
