"""The exponential moving average of the generator's weights, which is what gets exported.

Averaged weights draw better images than any single step's: Karras et al. 2018, arXiv 1710.10196; Brock et al. 2019.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from sagan_deploy.model.generator import Generator


class ExponentialMovingAverage:
    """θ_ema ← d·θ_ema + (1 − d)·θ with d = min(decay, (1 + t)/(10 + t)).

    The warm-up keeps the random start out of the average: without it, decay^t of it would still be there at step t.
    Buffers (batch statistics, spectral norm's vectors) are copied, since they are averages or estimates already.
    """

    def __init__(self, generator: Generator, decay: float, *, foreach: bool = True) -> None:
        self.decay = decay
        self.foreach = foreach  # all weights in one call instead of a loop: the same numbers
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)

    def decay_at(self, step: int) -> float:
        """The d that step number `step` (from 0) uses."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, generator: Generator, step: int) -> None:
        """Move the average towards `generator`, after step number `step` (from 0)."""
        averages: list[Tensor] = list(self.generator.parameters())
        values: list[Tensor] = list(generator.parameters())
        if self.foreach:
            torch._foreach_lerp_(averages, values, 1.0 - self.decay_at(step))
        else:
            for average, value in zip(averages, values, strict=True):
                average.lerp_(value, 1.0 - self.decay_at(step))
        torch._foreach_copy_(list(self.generator.buffers()), list(generator.buffers()))
