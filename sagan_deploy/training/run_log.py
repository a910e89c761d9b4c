"""What a run tells of itself at every line of its log: losses, scores, rates, γ, σ, speed, and when it will be done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import nn

from sagan_deploy.model.attention import SelfAttention
from sagan_deploy.model.layers import largest_singular_values
from sagan_deploy.training.log import JSON_LOG_NAME, LOG_NAME, CsvLog, JsonLog, LogRow
from sagan_deploy.training.trainer import Trainer


class RunLog:
    """``log.csv`` with the main numbers and ``log.jsonl`` with all of them."""

    def __init__(self, out: Path, *, resume_at: int) -> None:
        self._csv = CsvLog(out / LOG_NAME, resume_at=resume_at)
        self._json = JsonLog(out / JSON_LOG_NAME, resume_at=resume_at)

    def write(self, row: LogRow, trainer: Trainer, total: int | None) -> None:
        """Append what `row` says and what the networks look like."""
        self._csv.write(row)
        config = trainer.preset.train
        values: dict[str, Any] = {name: value for name, value in vars(row).items() if name != "step"}
        left = None if total is None else total - row.step
        values |= {
            "generator_lr": row.rate_factor * config.generator_lr,
            "discriminator_lr": row.rate_factor * config.discriminator_lr,
            "generator_gamma": _gammas(trainer.generator),
            "discriminator_gamma": _gammas(trainer.discriminator),
            "generator_sigma": max(largest_singular_values(trainer.generator), default=None),
            "discriminator_sigma": max(largest_singular_values(trainer.discriminator), default=None),
            "eta_seconds": None if left is None else left * config.batch_size / max(row.images_per_second, 1e-9),
            "time": round(time.time(), 3),
        }
        self._json.write("step", row.step, values)

    def event(self, event: str, step: int, **values: Any) -> None:
        """Append something that happens now and then to ``log.jsonl``."""
        self._json.write(event, step, {**values, "time": round(time.time(), 3)})


def _gammas(network: nn.Module) -> list[float]:
    return [float(m.gamma.detach()) for m in network.modules() if isinstance(m, SelfAttention)]
