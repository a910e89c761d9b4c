"""The small parts that every block is made of: convolutions with spectral norm, activations, upsampling."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from sagan_deploy.config import Activation

M = TypeVar("M", nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def normalised(layer: M, *, spectral: bool) -> M:
    """The layer with Xavier weights and zero bias and, when asked, its weight W replaced by W/σ(W).

    σ is the largest singular value, estimated by one power iteration per training step and frozen in evaluation
    mode: Miyato et al. 2018, arXiv 1802.05957, algorithm 1. SAGAN puts it into both networks.
    """
    if isinstance(layer, nn.Embedding):
        nn.init.normal_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if spectral:
        # 1e-12 only guards a division by zero; every public implementation has a value that cannot be seen.
        rows = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the axis of the outputs
        register_parametrization(layer, "weight", SpectralNorm(layer.weight, dim=rows, eps=1e-12))
    return layer


class SpectralNorm(_SpectralNorm):
    """torch's own, in the precision of the weight also where products are taken in bfloat16: σ is no place to round."""

    def forward(self, weight: Tensor) -> Tensor:
        kind = weight.device.type
        # (`torch.amp.is_autocast_available` would say it for every device, but PyTorch 2.11 cannot compile it.)
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return super().forward(weight)
        with torch.autocast(kind, enabled=False):
            return super().forward(weight)


def conv(channels_in: int, channels_out: int, kernel: int, *, bias: bool, spectral: bool) -> nn.Conv2d:
    """A stride-1 convolution that keeps the resolution."""
    return normalised(nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=bias), spectral=spectral)


def deconv(channels_in: int, channels_out: int, *, bias: bool, spectral: bool) -> nn.ConvTranspose2d:
    """The 4x4 stride-2 transposed convolution of DCGAN: doubles the resolution."""
    return normalised(nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=bias), spectral=spectral)


def linear(features_in: int, features_out: int, *, bias: bool, spectral: bool) -> nn.Linear:
    """A fully connected layer."""
    return normalised(nn.Linear(features_in, features_out, bias=bias), spectral=spectral)


def set_power_iteration(network: nn.Module, wanted: bool) -> None:
    """Whether training-mode passes move spectral norm's vectors on by one power iteration.

    That is the mode of the parametrisations alone: batch norm and all else stay as they are.
    """
    for module in network.modules():
        if isinstance(module, _SpectralNorm):
            module.training = wanted


def take_power_iteration(network: nn.Module) -> None:
    """Move all vectors on by one power iteration now, for passes that leave them alone."""
    for module in network.modules():
        if isinstance(module, ParametrizationList) and isinstance(module[0], _SpectralNorm):
            module[0]._power_method(module[0]._reshape_weight_to_matrix(module.original), 1)


@torch.no_grad()
def largest_singular_values(network: nn.Module) -> list[float]:
    """σ = uᵀWv of every weight with spectral norm, by its vectors as they are; W is the weight before the division."""
    found = []
    for module in network.modules():
        if isinstance(module, ParametrizationList) and isinstance(module[0], _SpectralNorm):
            rows = module[0]._reshape_weight_to_matrix(module.original)
            found.append(float(module[0]._u @ rows @ module[0]._v))
    return found


def activation(name: Activation, slope: float = 0.2) -> nn.Module:
    """The activation of that name; `slope` is leaky_relu's negative slope."""
    if name == "leaky_relu":
        return nn.LeakyReLU(slope)
    return {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}[name]()


def upsample(x: Tensor, mode: str) -> Tensor:
    """Double the resolution by nearest or bilinear (half-pixel) interpolation: (n, c, h, w) → (n, c, 2h, 2w)."""
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
