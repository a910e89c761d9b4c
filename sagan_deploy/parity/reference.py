"""The reference: the training form in float64, row by row."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.parity.cases import Pool
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import GeneratorForm

REFERENCE = "PyTorch, training form, float64"
_ROWS = 2  # float64 feature maps of a whole batch of large images are gigabytes


def draw_float64(
    generator: GeneratorForm, pool: Pool, *, task: str = "reference", progress: Progress = silent
) -> NDArray[np.float64]:
    """What a generator makes of the pool in float64: [n, c, h, w]. The generator itself is left alone."""
    import torch

    exact = copy.deepcopy(generator).double().eval()
    drawn = []
    with torch.inference_mode():
        for start in range(0, len(pool), _ROWS):
            progress(task, start, len(pool))
            rows = slice(start, start + _ROWS)
            z = torch.from_numpy(pool.z[rows]).double()
            labels = None if pool.labels is None else torch.from_numpy(pool.labels[rows])
            drawn.append(exact(z, labels).numpy())
    progress(task, len(pool), len(pool))
    return np.concatenate(drawn)
