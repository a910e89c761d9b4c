"""How many steps a run has, and the learning rate at each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sagan_deploy.config import TrainConfig
from sagan_deploy.errors import ConfigError

MEASURED_STEPS = 20


def learning_rate_factor(step: int, total: int | None, decay_from: float) -> float:
    """What both learning rates are multiplied by at step number `step` (from 0).

    1 up to ``decay_from · total``, then a straight line that would reach 0 at `total`. GANs end up circling their
    equilibrium with a radius that follows the rate; letting it fall settles them.
    """
    start = decay_start(total, decay_from)
    if total is None or start is None or step < start:
        return 1.0
    return (total - step) / (total - start)


def decay_start(total: int | None, decay_from: float) -> int | None:
    """The first step whose rate may be lower; None while the total is open or when the rate never falls."""
    return None if total is None or decay_from >= 1.0 else int(decay_from * total)


@dataclass
class Plan:
    """The number of steps of a run: given, or found out so that the run ends after `minutes`.

    Machines (and their neighbours) differ threefold in speed, and a step count that fits one of them leaves another
    one with half-trained robots or its user waiting. So the first 20 steps are measured, and the total is corrected
    until the learning rate begins to fall; from there on it is fixed, because the rate depends on it. The result
    equals a run with ``--steps total`` bit for bit.

    `total` is None until it is known. `clock` tells the seconds that the run has taken, earlier sessions included.
    """

    config: TrainConfig
    minutes: float | None
    clock: Callable[[], float]
    total: int | None = None

    def __post_init__(self) -> None:
        if self.minutes is None:
            self.total = self.config.steps
        elif not self.minutes > 0:
            raise ConfigError(f"minutes (={self.minutes}) must be positive")
        elif self.config.lr_decay_from <= 0:
            raise ConfigError(
                "minutes cannot be given with lr_decay_from=0: the first rate depends on the number of steps"
            )

    def done(self, step: int) -> bool:
        """Whether `step` steps are all."""
        return self.total is not None and step >= self.total

    def factor(self, step: int) -> float:
        """The learning rate's factor at step number `step`."""
        return learning_rate_factor(step, self.total, self.config.lr_decay_from)

    def observe(self, step: int) -> None:
        """Take the time after `step` steps and correct the total, as long as the rate has not begun to fall."""
        if self.minutes is None or step < MEASURED_STEPS:
            return
        start = decay_start(self.total, self.config.lr_decay_from)
        if start is not None and step >= start:
            return
        elapsed = self.clock()
        affordable = step + int((60.0 * self.minutes - elapsed) * step / elapsed) if elapsed > 0 else step
        # Never so low that a step already taken should have had a lower rate.
        self.total = max(affordable, math.ceil(step / self.config.lr_decay_from))
