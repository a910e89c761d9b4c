"""The reference: the training form in float64, row by row."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.parity.cases import Pool
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import GeneratorForm

REFERENCE = "PyTorch, training form, float64"
_MOST_ROWS, _LARGEST_MAP = 8, 2**27  # float64 feature maps of a whole batch of large images are gigabytes


def rows_at_once(config: GeneratorConfig) -> int:
    """How many images are computed together: 8, or as many as keep a float64 feature map below 128 MiB."""
    sizes, size = [], config.bottom_width
    for wide, narrow, grows in zip(config.widths, config.widths[1:], config.upsamples, strict=False):
        size *= 2 if grows else 1
        sizes.append(8 * max(wide, narrow) * size**2)
    return max(1, min(_MOST_ROWS, _LARGEST_MAP // max(sizes)))


def draw_float64(
    generator: GeneratorForm, pool: Pool, *, task: str = "reference", progress: Progress = silent
) -> NDArray[np.float64]:
    """What a generator makes of the pool in float64: [n, c, h, w]. The generator itself is left alone."""
    import torch
    from torch.nn.utils import parametrize

    exact = copy.deepcopy(generator).double().eval()
    drawn, step = [], rows_at_once(generator.config)
    # W/σ is the same in every batch: a quarter of the time goes into computing it again and again.
    with torch.inference_mode(), parametrize.cached():
        for start in range(0, len(pool), step):
            progress(task, start, len(pool))
            rows = slice(start, start + step)
            z = torch.from_numpy(pool.z[rows]).double()
            labels = None if pool.labels is None else torch.from_numpy(pool.labels[rows])
            drawn.append(exact(z, labels).numpy())
    progress(task, len(pool), len(pool))
    return np.concatenate(drawn)
