from __future__ import annotations

import numpy as np
import torch

from sagan_deploy.model.generator import Generator
from sagan_deploy.training.ema import ExponentialMovingAverage


def test_the_average_is_the_recurrence_in_numpy(tiny):
    generator = Generator(tiny.generator)
    ema = ExponentialMovingAverage(generator, decay=0.5)
    random = torch.Generator().manual_seed(0)
    expected = {name: p.detach().numpy().astype(np.float64) for name, p in generator.named_parameters()}
    for step in range(12):
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random))
        ema.update(generator, step)
        d = min(0.5, (1 + step) / (10 + step))
        for name, parameter in generator.named_parameters():
            expected[name] = d * expected[name] + (1 - d) * parameter.detach().numpy()
    for name, average in ema.generator.named_parameters():
        np.testing.assert_allclose(average.numpy(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_warm_up_ends_at_the_decay():
    ema = ExponentialMovingAverage.__new__(ExponentialMovingAverage)
    ema.decay = 0.995
    assert ema.decay_at(0) == 0.1
    assert ema.decay_at(1789) < 0.995 == ema.decay_at(1791)


def test_statistics_and_spectral_norm_vectors_are_copied_and_the_average_draws_in_evaluation_mode(tiny):
    generator = Generator(tiny.generator).train()
    ema = ExponentialMovingAverage(generator, decay=0.9)
    generator(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
    before = {name: buffer.clone() for name, buffer in ema.generator.named_buffers()}
    ema.update(generator, 0)
    moved = 0
    for name, buffer in ema.generator.named_buffers():
        assert torch.equal(buffer, generator.get_buffer(name))
        moved += not torch.equal(buffer, before[name])
    assert moved > 5
    assert not ema.generator.training
    assert not any(parameter.requires_grad for parameter in ema.generator.parameters())
