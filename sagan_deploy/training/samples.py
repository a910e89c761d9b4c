"""Pictures of the averaged generator while it learns: always the same latents, one row per class."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sagan_deploy.images import grid, to_uint8
from sagan_deploy.latents import sample_latents
from sagan_deploy.model.generator import Generator

_ROWS, _COLUMNS = 10, 10


def sample_images(generator: Generator, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Images of fixed latents and their labels, ten per class (evenly spaced classes where there are many).

    All classes share their latents, so that what differs between them is the class.
    """
    classes = generator.config.num_classes
    rows = min(classes, _ROWS) if classes else _ROWS
    latents = sample_latents(seed, _COLUMNS if classes else rows * _COLUMNS, generator.config.z_dim)
    labels = None
    if classes:
        latents = np.tile(latents, (rows, 1))
        labels = np.repeat(np.linspace(0, classes - 1, rows).round().astype(np.int64), _COLUMNS)
    return draw(generator, latents, labels), labels


def sample_grid(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`sample_images` as one picture [h, w, c], one row per class."""
    return grid(to_uint8(images), _COLUMNS)


@torch.no_grad()
def draw(
    generator: Generator, z: NDArray[np.float32], labels: NDArray[np.int64] | None = None, *, batch: int = 64
) -> NDArray[np.float32]:
    """Images [n, 3, h, w] in [−1, 1] of a generator in evaluation mode, computed in parts of `batch`."""
    device = next(generator.parameters()).device
    parts = []
    for low in range(0, len(z), batch):
        part = None if labels is None else torch.from_numpy(labels[low : low + batch]).to(device)
        parts.append(generator(torch.from_numpy(z[low : low + batch]).to(device), part).float().cpu().numpy())
    return np.concatenate(parts)
