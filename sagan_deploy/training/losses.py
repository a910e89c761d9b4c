"""The hinge loss: Lim & Ye 2017, arXiv 1705.02894; SAGAN, arXiv 1805.08318, eq. (4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = E[max(0, 1 − D(x, y))] + E[max(0, 1 + D(G(z), y))]: scores beyond the margin ±1 teach nothing more."""
    return F.relu(1.0 - real_scores).mean() + F.relu(1.0 + fake_scores).mean()


def generator_loss(fake_scores: Tensor) -> Tensor:
    """L_G = −E[D(G(z), y)]."""
    return -fake_scores.mean()


def r1_penalty(real_scores: Tensor, real: Tensor) -> Tensor:
    """E‖∇ₓD(x, y)‖²/2 over real images, the squared length of the gradient of each score by its own image.

    Mescheder et al. 2018, arXiv 1801.04406, eq. (9) without its weight γ. `real` must require gradients.
    """
    (gradient,) = torch.autograd.grad(real_scores.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2
