"""One training step of SAGAN: the discriminator learns to tell, then the generator learns to fool it.

Zhang et al. 2018, arXiv 1805.08318, section 4: spectral norm in both networks, hinge loss, Adam(0, 0.9), two learning
rates with one discriminator step per generator step.

On several devices each process takes its rows of the batch and of the noise; `DistributedDataParallel` averages the
gradients, and batch norm looks at the rows of all. Spectral norm needs no exchange, since its vectors depend on nothing
but the weights.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sagan_deploy.config import TrainConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.model.discriminator import Discriminator
from sagan_deploy.model.generator import Generator
from sagan_deploy.model.layers import set_power_iteration, take_power_iteration
from sagan_deploy.model.resampling import fold_resampling
from sagan_deploy.presets import Preset
from sagan_deploy.torch_device import usable
from sagan_deploy.training.augment import DRAWS, augment
from sagan_deploy.training.compiled import compile_networks
from sagan_deploy.training.data.batches import Batches, augmentation_draws, noise
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.ema import ExponentialMovingAverage
from sagan_deploy.training.initial import orthogonal
from sagan_deploy.training.losses import discriminator_loss, generator_loss, r1_penalty
from sagan_deploy.training.measures import Measures
from sagan_deploy.training.synchronised_norm import synchronise
from sagan_deploy.training.world import World

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class StepLosses:
    """What one step says, as tensors that are not waited for: mean scores of real and fake images beside the losses."""

    discriminator: Tensor
    generator: Tensor
    real_score: Tensor
    fake_score: Tensor


class Trainer:
    """Both networks, their optimisers and the average of the generator: all that one step changes.

    Args:
        preset: networks and settings.
        device: where to compute, in a world of one; otherwise the world's.
        world: the processes that share the batch: every one computes its rows, and the sums are those of one process.
        measures: what makes it fast; for proofs and benchmarks.

    Raises:
        MissingError: there is no such device.
        ConfigError: the batch does not divide evenly among processes and accumulated parts.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        device: torch.device | str = "cpu",
        world: World | None = None,
        measures: Measures | None = None,
    ) -> None:
        self.preset = preset
        self.world = world or World(device=str(device))
        self.measures = measures or Measures()
        self.device = usable(self.world.device)
        config = preset.train
        self._mine = self.world.rows(config.batch_size)
        _check_parts(config, self.world)
        # Initial weights are the run's seed's alone, and the caller's random state stays as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator, discriminator = Generator(preset.generator), Discriminator(preset.discriminator)
            orthogonal(generator)
            orthogonal(discriminator)
        self.generator = self._placed(generator)
        self.discriminator = self._placed(discriminator)
        self.generator_optimizer = _adam(self.generator, config.generator_lr, config, self.measures)
        self.discriminator_optimizer = _adam(self.discriminator, config.discriminator_lr, config, self.measures)
        # fp16 ends at 6e-8, where gradients do not: losses are multiplied, and steps whose gradients overflow left out.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.ema = ExponentialMovingAverage(self.generator, config.ema_decay, foreach=self.measures.foreach_average)
        fold_resampling(self.generator, self.measures.folded_upsampling)  # not in the average, which is the reference
        fold_resampling(self.discriminator, self.measures.folded_pooling)
        if self.world.size > 1:
            synchronise(self.generator)
        for network in (self.generator, self.discriminator):
            set_power_iteration(network, not self.measures.one_power_iteration)
        if config.compile:
            compile_networks(self.generator, self.discriminator)
        self._generator_pass = self._parallel(self.generator)
        self._discriminator_pass = self._parallel(self.discriminator)

    def batches(self, dataset: Dataset) -> Batches:
        """The batches that `step` takes, by number: this process's rows of them."""
        config = self.preset.train
        return Batches(
            dataset, config.batch_size, seed=config.seed, flip=config.flip, balanced=config.balanced, rows=self._mine
        )

    def step(self, number: int, batches: Batches, *, rate_factor: float = 1.0) -> StepLosses:
        """Step `number` (from 0); it depends on nothing but this number and the state that the steps before left."""
        config = self.preset.train
        _set_rate(self.generator_optimizer, rate_factor * config.generator_lr)
        _set_rate(self.discriminator_optimizer, rate_factor * config.discriminator_lr)
        draws = config.discriminator_steps + 1
        for i in range(config.discriminator_steps):
            images, labels = batches.batch(number * config.discriminator_steps + i)
            index = number * draws + i
            d_loss, real, fake = self._discriminator_step(images, labels, *self._noise(index), self._changes(index))
        index = number * draws + draws - 1
        g_loss = self._generator_step(*self._noise(index), self._changes(index))
        self.ema.update(self.generator, number)
        return StepLosses(d_loss, g_loss, real, fake)

    def _discriminator_step(
        self,
        images: Tensor,
        labels: Tensor | None,
        z: Tensor,
        fake_labels: Tensor | None,
        changes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.discriminator_optimizer.zero_grad()
        said = []
        for part, last in self._parts():
            # In all parts but the first spectral norm stands still, and between processes only the last one averages.
            if part == 0:
                self._iterate(self.discriminator)
            rows = slice(part, None, self.preset.train.accumulation)
            with self._exchange(self._discriminator_pass, last):
                given = (images[rows], _rows(labels, rows), z[rows], _rows(fake_labels, rows), _rows(changes, rows))
                said.append(self._discriminator_part(*given))
        self._move(self.discriminator_optimizer)
        losses, reals, fakes = zip(*said, strict=True)
        return _mean(losses), _mean(reals), _mean(fakes)

    def _discriminator_part(
        self, images: Tensor, labels: Tensor | None, z: Tensor, fake_labels: Tensor | None, changes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r1 = self.preset.train.r1
        real = images.to(self.device, memory_format=self._format).float() / 127.5 - 1.0
        with torch.set_grad_enabled(not self.measures.fakes_without_gradient), self._products():
            fake = _wide(self.generator(z, fake_labels).detach())
        labels = labels.to(self.device) if labels is not None else None
        if changes is not None:  # of its own for real and for drawn images
            real, fake = self._changed(real, changes[:, :DRAWS]), self._changed(fake, changes[:, DRAWS:])
        real.requires_grad_(r1 > 0)
        if self.measures.one_pass:
            # Real and fake together: faster than two passes, and one power iteration of spectral norm for both.
            both = torch.cat((labels, fake_labels)) if labels is not None and fake_labels is not None else None
            with self._products():
                scores = _wide(self._discriminator_pass(torch.cat((real, fake)), both))
            real_scores, fake_scores = scores[: len(real)], scores[len(real) :]
        else:
            with self._products():
                real_scores = _wide(self._discriminator_pass(real, labels))
                fake_scores = _wide(self._discriminator_pass(fake, fake_labels))
        loss = discriminator_loss(real_scores, fake_scores)
        whole = loss + r1 * r1_penalty(real_scores, real) if r1 else loss
        self._backward(whole)
        return loss.detach(), real_scores.detach().mean(), fake_scores.detach().mean()

    def _generator_step(self, z: Tensor, labels: Tensor | None, changes: Tensor | None = None) -> Tensor:
        # Frozen, the discriminator passes gradients through and computes none for its own weights.
        self.discriminator.requires_grad_(not self.measures.frozen_discriminator)
        self.generator_optimizer.zero_grad()
        losses = []
        for part, last in self._parts():
            if part == 0:
                self._iterate(self.generator)
            rows = slice(part, None, self.preset.train.accumulation)
            with self._exchange(self._generator_pass, last):
                with self._products():
                    fake = _wide(self._generator_pass(z[rows], _rows(labels, rows)))
                    if changes is not None:
                        fake = self._changed(fake, changes[rows, DRAWS:])
                    scores = _wide(self.discriminator(fake, _rows(labels, rows)))
                loss = generator_loss(scores)
                self._backward(loss)
            losses.append(loss.detach())
        self._move(self.generator_optimizer)
        self.discriminator.requires_grad_(True)
        return _mean(losses)

    def _noise(self, index: int) -> tuple[Tensor, Tensor | None]:
        """This process's rows of the noise of the whole batch, number `index`."""
        config, generator = self.preset.train, self.preset.generator
        z, labels = noise(config.seed, index, config.batch_size, generator.z_dim, generator.num_classes)
        labels = _rows(labels, self._mine)
        return z[self._mine].to(self.device), None if labels is None else labels.to(self.device)

    def _changes(self, index: int) -> Tensor | None:
        """This process's rows of the numbers that augment real images, then drawn ones; None: they stay as they are."""
        config = self.preset.train
        if not config.augment:
            return None
        draws = augmentation_draws(config.seed, index, config.batch_size, 2 * DRAWS)
        return draws[self._mine].to(self.device)

    def _changed(self, images: Tensor, draws: Tensor) -> Tensor:
        return augment(images, self.preset.train.augment, draws)

    def _parts(self) -> list[tuple[int, bool]]:
        parts = self.preset.train.accumulation
        return [(part, part == parts - 1) for part in range(parts)]

    def _iterate(self, network: nn.Module) -> None:
        """One power iteration per step and network, where its weights will move; else every pass takes its own.

        Outside of the passes, which then change no vector: a compiled backward pass would make the old vectors anew
        from the changed ones (PyTorch 2.13), and its gradient of σ would be wrong.
        """
        if self.measures.one_power_iteration:
            take_power_iteration(network)

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss / self.preset.train.accumulation).backward()  # type: ignore[no-untyped-call]

    def _move(self, optimizer: torch.optim.Optimizer) -> None:
        self.scaler.step(optimizer)
        self.scaler.update()

    def _products(self) -> torch.autocast:
        """Where the networks compute: in half precision if asked for, everything else stays in float32."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.preset.train.precision)
        return torch.autocast(self.device.type, kind or torch.bfloat16, enabled=kind is not None)

    @property
    def _format(self) -> torch.memory_format:
        # Channels last is the order that CPU and GPU convolutions compute in: 1.2 times faster for the same sums.
        return torch.channels_last if self.measures.channels_last else torch.contiguous_format

    def _placed(self, network: N) -> N:
        # (torch's types do not know this keyword of a method that they do know.)
        return network.to(device=self.device, memory_format=self._format).train()  # type: ignore[call-overload, no-any-return]

    def _parallel(self, network: nn.Module) -> nn.Module:
        """The network itself, or one whose backward pass averages gradients over the processes."""
        if self.world.size == 1:
            return network
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of an argument that the oldest PyTorch allowed here needs
            # Buffers are equal without a broadcast: batch norm is synchronised, spectral norm follows from the weights.
            return DistributedDataParallel(network, broadcast_buffers=False)

    @staticmethod
    def _exchange(network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        waits = isinstance(network, DistributedDataParallel) and not last
        return network.no_sync() if waits else contextlib.nullcontext()  # type: ignore[operator]


def _check_parts(config: TrainConfig, world: World) -> None:
    if config.batch_size // world.size % config.accumulation:
        raise ConfigError(
            f"batch_size (={config.batch_size}) must be a multiple of processes x accumulation "
            f"(={world.size} x {config.accumulation})"
        )


def _rows(values: Tensor | None, rows: slice) -> Tensor | None:
    return None if values is None else values[rows]


def _wide(values: Tensor) -> Tensor:
    """Half precision as float32; whatever has more bits stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).mean()


def _adam(network: nn.Module, rate: float, config: TrainConfig, measures: Measures) -> torch.optim.Adam:
    betas: Any = tuple(float(beta) for beta in config.betas)  # Adam refuses an int 0
    return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=measures.fused_adam or None)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
