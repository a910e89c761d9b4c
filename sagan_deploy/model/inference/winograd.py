"""3x3 convolutions with 2.25 times fewer multiplications: Lavin & Gray 2016, arXiv 1509.09308, F(2x2, 3x3).

Two neighbouring outputs of a 3-tap filter w on d₀ … d₃ take four products instead of six:

    m₀ = (d₀ − d₂)·w₀              m₁ = (d₁ + d₂)·(w₀ + w₁ + w₂)/2
    m₂ = (d₂ − d₁)·(w₀ − w₁ + w₂)/2        m₃ = (d₁ − d₃)·w₂
    y₀ = m₀ + m₁ + m₂              y₁ = m₁ − m₂ − m₃

and over both axes 16 instead of 36. The sums over channels become 16 matrix products of the transformed weights, made
once in float64, with the transformed maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.model.inference.fold import Weights

_POINTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def winograd_kernels(kernel: Tensor) -> Tensor:
    """The weights at the 16 points, columns before rows: (out, in, 3, 3) → (16, out, in)."""
    points = torch.tensor(_POINTS, dtype=kernel.dtype)
    # Row by row: a plain product each, and no large array in a third order of axes.
    taps = kernel.permute(3, 2, 0, 1).flatten(1)  # 3, 3·out·in
    columns = (points @ taps).view(4, 3, -1)
    return (points @ columns).view(16, *kernel.shape[:2])


class WinogradConv(nn.Module):
    """A 3x3 convolution that keeps the resolution: (n, c, h, w) → (n, o, h, w)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.kernels = nn.Parameter(winograd_kernels(weights.weight))
        self.bias = nn.Parameter(weights.bias[:, None, None]) if bool(weights.bias.any()) else None

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        rows, columns = -(-height // 2), -(-width // 2)  # of tiles with 2x2 outputs each
        # Channels first, so that the tiles of all images stand side by side in one matrix.
        x = F.pad(x.transpose(0, 1), (1, 1 + 2 * columns - width, 1, 1 + 2 * rows - height))
        x = x.reshape(channels, -1, rows + 1, 2, columns + 1, 2)
        lines = torch.stack(_inputs(x.select(3, 0), x.select(3, 1), dim=2))  # 4 rows of points
        maps = torch.stack(_inputs(lines.select(5, 0), lines.select(5, 1), dim=4))  # 4 columns, 4 rows
        products = self.kernels @ maps.view(16, channels, -1)
        halves = torch.stack(_outputs(products.view(4, 4, self.kernels.shape[1], -1, rows, columns)))
        tiles = torch.stack(_outputs(halves.transpose(0, 1)))  # 2 rows, 2 columns, o, n, rows, columns
        y = tiles.permute(3, 2, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)
        if self.bias is not None:
            y = y + self.bias
        return y[:, :, :height, :width] if y.shape[2:] != (height, width) else y


def _inputs(even: Tensor, odd: Tensor, dim: int) -> tuple[Tensor, ...]:
    """The four sums of d₀ … d₃ for every tile; d₀ and d₂ are even, and d₂ is the next tile's d₀."""
    tiles = even.shape[dim] - 1
    d0, d1 = even.narrow(dim, 0, tiles), odd.narrow(dim, 0, tiles)
    d2, d3 = even.narrow(dim, 1, tiles), odd.narrow(dim, 1, tiles)
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _outputs(products: Tensor) -> tuple[Tensor, Tensor]:
    """y₀ and y₁ from m₀ … m₃ along the first axis."""
    m0, m1, m2, m3 = products.unbind(0)
    return m0 + m1 + m2, m1 - m2 - m3
