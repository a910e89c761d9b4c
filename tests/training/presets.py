"""Presets with other settings, and trainers whose sums are exact enough to be held against each other."""

from __future__ import annotations

import dataclasses

import torch

from sagan_deploy.training.trainer import Trainer


def with_settings(preset, **changes):
    """The preset, trained in another way."""
    return dataclasses.replace(preset, train=dataclasses.replace(preset.train, **changes))


def float64_trainer(preset, device="cpu"):
    """A trainer in float64 with attention switched on, and vectors that are far from settled."""
    trainer = Trainer(preset, device=device)
    with torch.no_grad():
        for network in (trainer.generator, trainer.discriminator):
            network.double()
            for name, parameter in network.named_parameters():
                if name.endswith("gamma"):
                    parameter.fill_(0.7)
            network.register_forward_pre_hook(lambda module, args: (args[0].double(), args[1]))
    trainer.ema = type(trainer.ema)(trainer.generator, preset.train.ema_decay)
    return trainer
