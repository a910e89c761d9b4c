"""What makes a training step fast at equal sums; each can be switched off, so that each can be proven and timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
    """All of them change the time of a step and its rounding, and nothing else.

    `one_power_iteration`: each network's spectral norm takes one power iteration per step, where its weights are about
    to move, instead of one per forward pass. With vectors that have converged there is no difference; until then
    the estimate of σ is as good as the algorithm's (Miyato et al. 2018, section 2.1: one per update).
    """

    channels_last: bool = True  # the order that convolutions compute in
    one_pass: bool = True  # real and fake images pass the discriminator together
    fakes_without_gradient: bool = True  # in the discriminator's step nothing reaches the generator
    frozen_discriminator: bool = True  # in the generator's step its weights get no gradients
    one_power_iteration: bool = True
    folded_pooling: bool = True  # averages first, then 3x3 with stride 2
    folded_upsampling: bool = True  # ×2 then 3x3 as one 4x4 transposed convolution of stride 2
    fused_adam: bool = True  # one kernel over all weights instead of a loop
    foreach_average: bool = True  # likewise for the moving average
