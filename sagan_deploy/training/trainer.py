"""One training step of SAGAN: the discriminator learns to tell, then the generator learns to fool it.

Zhang et al. 2018, arXiv 1805.08318, section 4: spectral norm in both networks, hinge loss, Adam(0, 0.9), two learning
rates with one discriminator step per generator step.

A run on several devices would change this file and `data/batches.py` only: each device takes its rows of the batch
and of the noise, and gradients are averaged between ``backward`` and ``step`` (twice below). Spectral norm needs no
exchange, since its vectors depend on nothing but the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sagan_deploy.config import TrainConfig
from sagan_deploy.errors import MissingError
from sagan_deploy.model.discriminator import Discriminator
from sagan_deploy.model.generator import Generator
from sagan_deploy.presets import Preset
from sagan_deploy.training.data.batches import Batches, noise
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.ema import ExponentialMovingAverage
from sagan_deploy.training.initial import orthogonal
from sagan_deploy.training.losses import discriminator_loss, generator_loss

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class StepLosses:
    """What one step says, as tensors that are not waited for: mean scores of real and fake images beside the losses."""

    discriminator: Tensor
    generator: Tensor
    real_score: Tensor
    fake_score: Tensor


class Trainer:
    """Both networks, their optimisers and the average of the generator: all that one step changes."""

    def __init__(self, preset: Preset, *, device: torch.device | str = "cpu") -> None:
        self.preset = preset
        self.device = _usable(device)
        config = preset.train
        # Initial weights are the run's seed's alone, and the caller's random state stays as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator, discriminator = Generator(preset.generator), Discriminator(preset.discriminator)
            orthogonal(generator)
            orthogonal(discriminator)
        self.generator = _placed(generator, self.device)
        self.discriminator = _placed(discriminator, self.device)
        self.generator_optimizer = _adam(self.generator, config.generator_lr, config)
        self.discriminator_optimizer = _adam(self.discriminator, config.discriminator_lr, config)
        self.ema = ExponentialMovingAverage(self.generator, config.ema_decay)

    def batches(self, dataset: Dataset) -> Batches:
        """The batches that `step` takes, by number."""
        config = self.preset.train
        return Batches(dataset, config.batch_size, seed=config.seed, flip=config.flip)

    def step(self, number: int, batches: Batches, *, rate_factor: float = 1.0) -> StepLosses:
        """Step `number` (from 0); it depends on nothing but this number and the state that the steps before left."""
        config = self.preset.train
        _set_rate(self.generator_optimizer, rate_factor * config.generator_lr)
        _set_rate(self.discriminator_optimizer, rate_factor * config.discriminator_lr)
        draws = config.discriminator_steps + 1
        for i in range(config.discriminator_steps):
            images, labels = batches.batch(number * config.discriminator_steps + i)
            d_loss, real, fake = self._discriminator_step(images, labels, *self._noise(number * draws + i))
        g_loss = self._generator_step(*self._noise(number * draws + draws - 1))
        self.ema.update(self.generator, number)
        return StepLosses(d_loss, g_loss, real, fake)

    def _discriminator_step(
        self, images: Tensor, labels: Tensor | None, z: Tensor, fake_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        real = images.to(self.device, memory_format=torch.channels_last).float() / 127.5 - 1.0
        with torch.no_grad():  # nothing of this step reaches the generator
            fake = self.generator(z, fake_labels)
        both_labels = None
        if labels is not None and fake_labels is not None:
            both_labels = torch.cat((labels.to(self.device), fake_labels))
        # One pass over real and fake: faster than two, and one power iteration of spectral norm per step.
        scores = self.discriminator(torch.cat((real, fake)), both_labels)
        real_scores, fake_scores = scores.split((len(real), len(fake)))
        loss = discriminator_loss(real_scores, fake_scores)
        self.discriminator_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.discriminator_optimizer.step()
        return loss.detach(), real_scores.detach().mean(), fake_scores.detach().mean()

    def _generator_step(self, z: Tensor, labels: Tensor | None) -> Tensor:
        # Frozen, the discriminator passes gradients through and computes none for its own weights; in evaluation mode
        # it does not iterate spectral norm a second time. It has no other layer that depends on the mode.
        self.discriminator.requires_grad_(False).eval()
        loss = generator_loss(self.discriminator(self.generator(z, labels), labels))
        self.generator_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True).train()
        return loss.detach()

    def _noise(self, index: int) -> tuple[Tensor, Tensor | None]:
        config, generator = self.preset.train, self.preset.generator
        z, labels = noise(config.seed, index, config.batch_size, generator.z_dim, generator.num_classes)
        return z.to(self.device), None if labels is None else labels.to(self.device)


def _usable(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0]
        raise MissingError(f"this PyTorch cannot compute on device {str(device)!r} here: {reason}") from error
    return found


def _placed(network: N, device: torch.device) -> N:
    # Channels last is the order that CPU and GPU convolutions compute in: 1.2 times faster for the same sums.
    # (torch's types do not know this keyword of a method that they do know.)
    return network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def _adam(network: nn.Module, rate: float, config: TrainConfig) -> torch.optim.Adam:
    betas: Any = tuple(float(beta) for beta in config.betas)  # Adam refuses an int 0
    return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
