"""Weights as they act: spectral norm and batch norm turned into plain numbers, in float64.

Every function takes layers of a float64 training-form generator in evaluation mode.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """A convolution or linear layer as the two tensors it applies; dim 0 of `weight` counts outputs."""

    weight: Tensor
    bias: Tensor

    def then_affine(self, scale: Tensor, shift: Tensor) -> Weights:
        """Fold a following scale and shift per output: s·(Wx + b) + t = (s·W)x + (s·b + t)."""
        return Weights(self.weight * scale.view(-1, *[1] * (self.weight.dim() - 1)), self.bias * scale + shift)

    def without_bias(self) -> Weights:
        """The same weight; the caller has moved the bias elsewhere."""
        return Weights(self.weight, torch.zeros_like(self.bias))


def copied(module: M, dtype: torch.dtype) -> M:
    """A copy of a network with its floating weights in another type, without a copy in the old type on the way."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            changed = tensor.detach().to(dtype, copy=True)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(changed, tensor.requires_grad) if is_parameter else changed
    return copy.deepcopy(module, memo)


def effective(layer: nn.Module) -> Weights:
    """The weight that evaluation applies, W/σ with the stored u and v where spectral norm is on, and the bias.

    A transposed convolution stores inputs first; they are swapped here, so that dim 0 is the output everywhere.
    """
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    bias = layer.bias.detach() if layer.bias is not None else weight.new_zeros(weight.shape[0])
    return Weights(weight, bias)


def batch_norm(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale a and shift b per channel with γ·(x − μ)/√(v + ε) + β = a·x + b: a = γ/√(v + ε), b = β − μ·a."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach()
    shift = -mean * scale
    if norm.affine:
        shift = shift + norm.bias.detach()
    return scale, shift
