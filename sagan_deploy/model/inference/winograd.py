"""3x3 convolutions with 2.25 times fewer multiplications: Lavin & Gray 2016, arXiv 1509.09308, F(2x2, 3x3).

Two neighbouring outputs of a 3-tap filter w on d₀ … d₃ take four products instead of six:

    m₀ = (d₀ − d₂)·w₀              m₁ = (d₁ + d₂)·(w₀ + w₁ + w₂)/2
    m₂ = (d₂ − d₁)·(w₀ − w₁ + w₂)/2        m₃ = (d₁ − d₃)·w₂
    y₀ = m₀ + m₁ + m₂              y₁ = m₁ − m₂ − m₃

and over both axes 16 instead of 36. The sums of the inputs are depthwise convolutions of stride 2, first along the
rows and then along the columns, the products are 1x1 convolutions, and what is subtracted is multiplied by −1 in one
more depthwise convolution: all these and additions an engine computes in its own order of channels, with several
threads, while slices, transposes and subtractions would make it go back to the common order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.model.inference.fold import Weights
from sagan_deploy.model.inference.interleave import depthwise, interleave

_INPUTS = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
_POINTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, -1.0))  # the last one gives −m₃


def winograd_kernels(kernel: Tensor) -> list[Tensor]:
    """The weights at the 16 points, row by row: (out, in, 3, 3) → 16 of (out, in, 1, 1)."""
    points = torch.tensor(_POINTS, dtype=kernel.dtype)
    # Row by row: a plain product each, and no large array in a third order of axes.
    taps = kernel.permute(2, 3, 0, 1).flatten(1)  # 3, 3·out·in
    rows = (points @ taps).view(4, 3, -1)
    return [part.view(*kernel.shape[:2], 1, 1) for part in (points @ rows).flatten(0, 1)]


class WinogradConv(nn.Module):
    """A 3x3 convolution that keeps the resolution: (n, c, h, w) → (n, o, h, w)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        outputs, self.channels = weights.weight.shape[:2]
        self.kernels = nn.ParameterList(winograd_kernels(weights.weight))
        self.bias = nn.Parameter(weights.bias) if bool(weights.bias.any()) else None
        sums = torch.tensor(_INPUTS, dtype=weights.weight.dtype)
        self.rows = depthwise(sums[:, :, None], self.channels)
        self.columns = depthwise(sums[:, None, :], self.channels)
        self.minus = nn.Parameter(-torch.ones(outputs, 1, 1, 1, dtype=weights.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:  # tiles are two pixels wide
            x = F.pad(x, (0, width % 2, 0, height % 2))
        rows, groups = [], self.channels
        for number, down in enumerate(self.rows):
            line = F.conv2d(x, down, stride=(2, 1), padding=(1, 0), groups=groups)
            maps = [
                F.conv2d(line, along, stride=(1, 2), padding=(0, 1), groups=self.channels) for along in self.columns
            ]
            kernels = list(self.kernels)[4 * number : 4 * number + 4]
            # Both outputs take m₁ once, along both axes, and so the bias.
            biases = [None, self.bias if number == 1 else None, None, None]
            products = (F.conv2d(*given) for given in zip(maps, kernels, biases, strict=True))
            rows.append(self._outputs(*products))
        left, right = (self._outputs(*column) for column in zip(*rows, strict=True))
        y = interleave(left, right)
        return y[:, :, :height, :width] if y.shape[2:] != (height, width) else y

    def _outputs(self, m0: Tensor, m1: Tensor, m2: Tensor, minus_m3: Tensor) -> tuple[Tensor, Tensor]:
        """y₀ and y₁."""
        minus_m2 = F.conv2d(m2, self.minus, groups=len(self.minus))
        return m0 + (m2 + m1), minus_m3 + (minus_m2 + m1)
