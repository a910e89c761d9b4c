from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sagan_deploy.model.layers import conv, deconv, linear
from sagan_deploy.training.initial import orthogonal
from sagan_deploy.training.trainer import Trainer


@pytest.mark.parametrize("spectral", [True, False])
def test_all_singular_values_are_one_before_and_after_spectral_norm(spectral):
    options = {"bias": True, "spectral": spectral}
    layers = [conv(3, 8, 3, **options), conv(8, 3, 1, **options), linear(5, 40, **options), deconv(4, 6, **options)]
    network = nn.Sequential(*layers)
    orthogonal(network)
    network.eval()
    for layer in layers:
        raw = layer.parametrizations.weight.original if spectral else layer.weight
        rows = raw.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else raw
        matrix = rows.detach().flatten(1).double().numpy()
        np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 1, rtol=1e-5)
        torch.testing.assert_close(layer.weight, raw, rtol=1e-3, atol=1e-5)
        assert not raw.detach().flatten()[:-1].allclose(raw.detach().flatten()[1:])


def test_training_begins_with_them_and_the_average_too(tiny):
    trainer = Trainer(tiny)
    for network in (trainer.generator, trainer.discriminator, trainer.ema.generator):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = module.parametrizations.weight.original.detach().flatten(1)
                assert torch.linalg.svdvals(weight).sub(1).abs().max() < 1e-4
