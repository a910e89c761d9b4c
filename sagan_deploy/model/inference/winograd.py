"""3x3 convolutions with 2.25 times fewer multiplications: Lavin & Gray 2016, arXiv 1509.09308, F(2x2, 3x3).

Two neighbouring outputs of a 3-tap filter w on d₀ … d₃ take four products instead of six:

    m₀ = (d₀ − d₂)·w₀              m₁ = (d₁ + d₂)·(w₀ + w₁ + w₂)/2
    m₂ = (d₂ − d₁)·(w₀ − w₁ + w₂)/2        m₃ = (d₁ − d₃)·w₂
    y₀ = m₀ + m₁ + m₂              y₁ = m₁ − m₂ − m₃

and over both axes 16 instead of 36. The sums of the inputs are depthwise convolutions of stride 2, first along the
rows and then along the columns; the products are grouped 1x1 convolutions with a group per row of points. Engines have
a fast kernel with several threads for both, which they have not for slices and transposes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.model.inference.fold import Weights
from sagan_deploy.model.inference.interleave import depthwise, interleave

_INPUTS = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
_POINTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def winograd_kernels(kernel: Tensor) -> list[Tensor]:
    """The weights at the four points of the columns: (out, in, 3, 3) → four of (4·out, in, 1, 1), a row each."""
    points = torch.tensor(_POINTS, dtype=kernel.dtype)
    # Row by row: a plain product each, and no large array in a third order of axes.
    taps = kernel.permute(3, 2, 0, 1).flatten(1)  # 3, 3·out·in
    columns = (points @ taps).view(4, 3, -1)
    return [part.view(-1, kernel.shape[1], 1, 1) for part in points @ columns]


class WinogradConv(nn.Module):
    """A 3x3 convolution that keeps the resolution: (n, c, h, w) → (n, o, h, w)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.channels = weights.weight.shape[1]
        self.kernels = nn.ParameterList(winograd_kernels(weights.weight))
        self.bias = nn.Parameter(weights.bias[:, None, None]) if bool(weights.bias.any()) else None
        sums = torch.tensor(_INPUTS, dtype=weights.weight.dtype)
        self.rows = depthwise(sums[:, :, None], self.channels)
        self.columns = depthwise(sums[:, None, :], 4 * self.channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:  # tiles are two pixels wide
            x = F.pad(x, (0, width % 2, 0, height % 2))
        groups = self.channels
        rows = torch.cat([F.conv2d(x, sums, stride=(2, 1), padding=(1, 0), groups=groups) for sums in self.rows], 1)
        products = []
        for sums, kernel in zip(self.columns, self.kernels, strict=True):
            maps = F.conv2d(rows, sums, stride=(1, 2), padding=(0, 1), groups=4 * groups)
            products.append(F.conv2d(maps, kernel, groups=4))
        left, right = (_outputs(*column.chunk(4, dim=1)) for column in _outputs(*products))
        y = interleave(left, right)
        if self.bias is not None:
            y = y + self.bias
        return y[:, :, :height, :width] if y.shape[2:] != (height, width) else y


def _outputs(m0: Tensor, m1: Tensor, m2: Tensor, m3: Tensor) -> tuple[Tensor, Tensor]:
    """y₀ and y₁."""
    return m0 + m1 + m2, m1 - m2 - m3
