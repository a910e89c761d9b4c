"""A 3x3 convolution beside a change of resolution, as one strided convolution: the same sums with fewer products.

The larger kernel is made from the small one in every pass, so gradients reach the weights that are trained.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def conv_then_pool(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """`layer` (3x3, padding 1), then 2x2 averages, as one 4x4 convolution of stride 2: (n, c, 2h, 2w) → (n, o, h, w).

    An average of four neighbouring results uses the kernel at four positions; added up beforehand they form one
    kernel of 4x4, which needs 16 multiplications per output where 4 · 9 were needed.
    """
    return F.conv2d(x, _four_shifts(layer.weight) / 4, layer.bias, stride=2, padding=1)


def upsample_then_conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Nearest upsampling, then `layer` (3x3, padding 1), as one transposed convolution: (n, c, h, w) → (n, o, 2h, 2w).

    Nearest upsampling is the adjoint of summing 2x2 pixels, and a convolution that of the one with the mirrored
    kernel. So this is the adjoint of `conv_then_pool`: the four shifts again, mirrored and not divided by four.
    """
    mirrored = layer.weight.flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, _four_shifts(mirrored), layer.bias, stride=2, padding=1)


def fold_resampling(network: nn.Module, folded: bool) -> None:
    """Choose the form of every block that changes the resolution: folded, or plain as the papers' figures read."""
    for module in network.modules():
        if hasattr(module, "folds_resampling"):
            module.folds_resampling = folded  # type: ignore[assignment]


def _four_shifts(kernel: Tensor) -> Tensor:
    """The sum of a 3x3 kernel at the four positions in 4x4, by the rows' sum and then the columns'."""
    rows = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))
