"""The run in TensorBoard: what stands in ``log.jsonl`` as curves, and the sample pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require

BOARD_NAME = "tensorboard"


class Board:
    """Event files under ``out/tensorboard``, through the package `tensorboard`, which is optional.

    Args:
        out: the run's folder.
        resume_at: the step that a resumed run goes on from: what lies beyond it is drawn again.

    Raises:
        MissingError: the package is not installed.
        InputError: the folder cannot be written.
    """

    def __init__(self, out: Path, *, resume_at: int) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(out / BOARD_NAME), purge_step=resume_at + 1 if resume_at else None)
        except OSError as error:
            raise InputError(f"cannot write {out / BOARD_NAME}: {error.strerror or error}.") from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """A point of every curve; a list, such as γ of all attention blocks, is one curve per entry."""
        for name, value in values.items():
            if isinstance(value, list):
                self.write(step, {f"{name}/{i}": entry for i, entry in enumerate(value)})
            elif isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, pixels: NDArray[np.uint8]) -> None:
        """The sample grid, as 8-bit codes [h, w, c]."""
        self._writer.add_image("samples", pixels, step, dataformats="HWC")
        self._writer.flush()
