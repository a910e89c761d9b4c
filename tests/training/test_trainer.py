"""The step against a naive one, and what it must leave alone."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from sagan_deploy.errors import MissingError
from sagan_deploy.training.data.batches import noise
from sagan_deploy.training.trainer import Trainer


class _PlainAdam:
    """Kingma & Ba 2015, algorithm 1, in NumPy float64."""

    def __init__(self, parameters, rate):
        self.parameters, self.rate, self.t = list(parameters), rate, 0
        self.m = [np.zeros(p.shape) for p in self.parameters]
        self.v = [np.zeros(p.shape) for p in self.parameters]

    def step(self):
        self.t += 1
        for i, p in enumerate(self.parameters):
            g = p.grad.numpy()
            self.m[i] = 0.0 * self.m[i] + 1.0 * g
            self.v[i] = 0.9 * self.v[i] + 0.1 * g**2
            update = np.asarray(self.rate * self.m[i] / (np.sqrt(self.v[i] / (1 - 0.9**self.t)) + 1e-8))
            with torch.no_grad():
                p -= torch.from_numpy(update)
            p.grad = None


@pytest.mark.parametrize("discriminator_steps", [1, 2])
def test_a_step_equals_the_naive_loop(without_spectral_norm, squares, discriminator_steps):
    """Separate passes, nothing frozen, gradients through everything, float64, Adam by hand."""
    preset = without_spectral_norm
    config = dataclasses.replace(preset.train, discriminator_steps=discriminator_steps, seed=3)
    trainer = Trainer(dataclasses.replace(preset, train=config))
    with torch.no_grad():  # attention begins switched off, and must be seen here
        for name, parameter in (*trainer.generator.named_parameters(), *trainer.discriminator.named_parameters()):
            if name.endswith("gamma"):
                parameter.fill_(0.7)
    trainer.generator.double()
    trainer.discriminator.double()
    trainer.ema.generator.double()
    G, D = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    g_adam, d_adam = _PlainAdam(G.parameters(), 0.5e-3), _PlainAdam(D.parameters(), 1e-3)
    trainer.discriminator.register_forward_pre_hook(lambda module, args: (args[0].double(), args[1]))
    trainer.generator.register_forward_pre_hook(lambda module, args: (args[0].double(), args[1]))
    batches = trainer.batches(squares)
    for step in range(3):
        losses = trainer.step(step, batches, rate_factor=0.5)
        draws = [noise(3, step * (discriminator_steps + 1) + i, 4, 6, 3) for i in range(discriminator_steps + 1)]
        for i in range(discriminator_steps):
            images, labels = batches.batch(step * discriminator_steps + i)
            z, fake_labels = draws[i]
            # As the trainer makes them: pixels in single precision.
            real = D((images.float() / 127.5 - 1).double(), labels)
            fake = D(G(z.double(), fake_labels), fake_labels)
            d_loss = torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean()
            d_loss.backward()
            G.zero_grad()
            d_adam.step()
        z, fake_labels = draws[-1]
        g_loss = -D(G(z.double(), fake_labels), fake_labels).mean()
        g_loss.backward()
        D.zero_grad()
        g_adam.step()
        assert float(losses.discriminator) == pytest.approx(float(d_loss.detach()), rel=1e-6)
        assert float(losses.generator) == pytest.approx(float(g_loss.detach()), rel=1e-6)
    for ours, naive in ((trainer.generator, G), (trainer.discriminator, D)):
        for (name, a), b in zip(ours.state_dict().items(), naive.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_each_half_step_moves_its_own_network_only(tiny, squares):
    trainer = Trainer(tiny)
    images, labels = trainer.batches(squares).batch(0)

    def weights(network):
        return [p.detach().clone() for p in network.parameters()]

    before_g, before_d = weights(trainer.generator), weights(trainer.discriminator)
    trainer._discriminator_step(images, labels, *trainer._noise(0))
    assert all(map(torch.equal, weights(trainer.generator), before_g))
    assert all(p.grad is None for p in trainer.generator.parameters())
    moved_d = weights(trainer.discriminator)
    assert not all(map(torch.equal, moved_d, before_d))
    vectors = [b.clone() for b in trainer.discriminator.buffers()]
    trainer._generator_step(*trainer._noise(1))
    assert all(map(torch.equal, weights(trainer.discriminator), moved_d))
    # One power iteration of the discriminator's spectral norm per step: none while the generator learns.
    assert all(map(torch.equal, trainer.discriminator.buffers(), vectors))
    assert not all(map(torch.equal, weights(trainer.generator), before_g))
    assert trainer.discriminator.training
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


def test_initial_weights_are_the_seeds_and_the_callers_random_numbers_stay(tiny):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = Trainer(tiny)
    assert torch.equal(torch.rand(3), expected)
    again = Trainer(tiny)
    other = Trainer(dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, seed=1)))
    a, b, c = (t.generator.stem.linear.weight for t in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_device_that_is_not_there(tiny):
    for device in ("cuda", "abacus"):
        if device == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(MissingError, match=device):
            Trainer(tiny, device=device)
