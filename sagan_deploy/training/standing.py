"""Standing statistics: batch norm's means and variances of the averaged weights themselves.

Brock et al. 2019, arXiv 1809.11096, appendix D: the running averages of training belong to weights that kept moving;
those of many batches drawn by the final generator belong to it.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from sagan_deploy.model.generator import Generator
from sagan_deploy.model.layers import set_power_iteration
from sagan_deploy.training.data.batches import noise

_SEED_OFFSET = 1 << 32  # none of the training's own noise


@torch.no_grad()
def with_standing_statistics(generator: Generator, *, batches: int, batch_size: int, seed: int) -> Generator:
    """A copy whose every batch norm has the mean of the statistics of `batches` batches of its own noise."""
    copied = copy.deepcopy(generator).train()
    set_power_iteration(copied, False)
    norms = [module for module in copied.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    device, config = next(copied.parameters()).device, copied.config
    for index in range(batches):
        z, labels = noise(seed + _SEED_OFFSET, index, batch_size, config.z_dim, config.num_classes)
        copied(z.to(device), None if labels is None else labels.to(device))
    for norm in norms:
        norm.momentum = 0.1
    return copied.eval()
