"""What a run tells of itself at every line of its log: losses, scores, rates, γ, σ, speed, and when it will be done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sagan_deploy.model.attention import SelfAttention
from sagan_deploy.model.layers import largest_singular_values
from sagan_deploy.training.board import Board
from sagan_deploy.training.log import JSON_LOG_NAME, LOG_NAME, CsvLog, JsonLog, LogRow
from sagan_deploy.training.trainer import Trainer


class RunLog:
    """``log.csv`` with the main numbers and ``log.jsonl`` with all of them, which TensorBoard gets on request."""

    def __init__(self, out: Path, *, resume_at: int, tensorboard: bool = False) -> None:
        self._csv = CsvLog(out / LOG_NAME, resume_at=resume_at)
        self._json = JsonLog(out / JSON_LOG_NAME, resume_at=resume_at)
        self._board = Board(out, resume_at=resume_at) if tensorboard else None

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
        }
        self._write("step", row.step, values)

    def event(self, event: str, step: int, **values: Any) -> None:
        """Append something that happens now and then to ``log.jsonl``."""
        self._write(event, step, values)

    def picture(self, step: int, pixels: NDArray[np.uint8]) -> None:
        """Show the sample grid, [h, w, c], where there is something to show it in."""
        if self._board is not None:
            self._board.picture(step, pixels)

    def _write(self, event: str, step: int, values: dict[str, Any]) -> None:
        self._json.write(event, step, {**values, "time": round(time.time(), 3)})
        if self._board is not None:
            self._board.write(step, values)


def _gammas(network: nn.Module) -> list[float]:
    return [float(m.gamma.detach()) for m in network.modules() if isinstance(m, SelfAttention)]
