"""Batch norm in inference form: x·a + b, where a and b come from constants, a class table or a condition vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.model.inference.fold import batch_norm
from sagan_deploy.model.norm import BatchNorm2d, ConditionalBatchNorm2d


class ConstantAffine(nn.Module):
    """a·x + b with one a and one b per channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.view(1, -1, 1, 1))
        self.shift = nn.Parameter(shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(n, c, h, w) → (n, c, h, w)."""
        return x * self.scale + self.shift


class ConditionalAffine(nn.Module):
    """a(y)·x + b(y): a and b side by side, one row of a table per class or one linear map of the condition vector.

    With statistics μ, v and the norm's γ(y), β(y):  a(y) = γ(y)/√(v + ε)  and  b(y) = β(y) − μ·a(y).
    """

    def __init__(self, table: Tensor, offset: Tensor | None) -> None:
        super().__init__()
        self.table = nn.Parameter(table)  # (num_classes, 2c), or (2c, k) for condition vectors
        self.offset = nn.Parameter(offset) if offset is not None else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(n, c, h, w) and labels (n,) or condition vectors (n, k) → (n, c, h, w)."""
        if self.offset is None:
            rows = self.table.index_select(0, condition)
        else:
            rows = F.linear(condition, self.table, self.offset)
        scale, shift = rows.view(rows.shape[0], -1, 1, 1).chunk(2, dim=1)
        return x * scale + shift


Affine = ConstantAffine | ConditionalAffine


def to_affine(norm: BatchNorm2d | ConditionalBatchNorm2d, bias: Tensor | None = None) -> Affine:
    """The norm of (x + bias) as one affine map of x: the bias of a preceding convolution disappears into b."""
    if isinstance(norm, BatchNorm2d):
        scale, shift = batch_norm(norm)
        return ConstantAffine(scale, shift if bias is None else shift + scale * bias)
    inverse, minus_mean = batch_norm(norm.statistics)  # x̂ = inverse·x + minus_mean
    if bias is not None:
        minus_mean = minus_mean + inverse * bias
    gain, shift = norm.gain.weight.detach(), norm.shift.weight.detach()
    if isinstance(norm.gain, nn.Embedding):
        gain = gain + norm.gain_offset
        return ConditionalAffine(torch.cat((gain * inverse, shift + gain * minus_mean), dim=1), None)
    # γ = offset + W_γ·c and β = W_β·c stay linear in the condition c, with a constant part from the offset.
    weight = torch.cat((gain * inverse[:, None], shift + gain * minus_mean[:, None]))
    return ConditionalAffine(weight, norm.gain_offset * torch.cat((inverse, minus_mean)))
