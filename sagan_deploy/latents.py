"""The same noise for every backend: latents and labels that depend on a seed and an index, and on nothing else.

Row `i` of a seed is the same array whatever the batch size, the backend or the machine, because every row has a
counter range of its own in NumPy's Philox generator (Salmon et al., SC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import ConfigError

_LATENT_STREAM, _LABEL_STREAM = 0, 1


def sample_latents(
    seed: int, count: int, z_dim: int, *, truncation: float | None = None, start: int = 0
) -> NDArray[np.float32]:
    """Standard normal latents, rows ``start`` to ``start + count`` of a seed.

    Args:
        seed: 0 ≤ seed < 2⁶⁴.
        count: number of rows, at least 0.
        z_dim: length of a latent.
        truncation: redraw every entry whose magnitude exceeds it (Brock et al. 2019, arXiv 1809.11096, section 3.1);
            None keeps the full normal distribution.
        start: index of the first row.

    Returns:
        Array of shape (count, z_dim), float32.

    Raises:
        ConfigError: a value is out of range.
    """
    if truncation is not None and not 0.0 < truncation <= 100.0:
        raise ConfigError(f"truncation (={truncation}) must lie in (0, 100]; leave it out for the full distribution")
    rows = [
        _truncated_normal(_generator(seed, start + i, _LATENT_STREAM), z_dim, truncation)
        for i in range(_positive(count))
    ]
    return np.array(rows, dtype=np.float32).reshape(count, z_dim)


def sample_labels(
    seed: int, count: int, num_classes: int, *, classes: Sequence[int] | None = None, start: int = 0
) -> NDArray[np.int64]:
    """Labels for rows ``start`` to ``start + count``: the given classes in turn, or uniform draws of the seed.

    Args:
        seed: 0 ≤ seed < 2⁶⁴.
        count: number of labels, at least 0.
        num_classes: labels lie in 0 … num_classes − 1.
        classes: cycle through these instead of drawing.
        start: index of the first label.

    Returns:
        Array of shape (count,), int64.

    Raises:
        ConfigError: a class is out of range.
    """
    if classes is None:
        return np.array(
            [_generator(seed, start + i, _LABEL_STREAM).integers(num_classes) for i in range(_positive(count))],
            dtype=np.int64,
        )
    wrong = [c for c in classes if not 0 <= c < num_classes]
    if wrong or not classes:
        raise ConfigError(f"classes (={list(classes)}) must be one or more numbers in 0..{num_classes - 1}")
    return np.array([classes[(start + i) % len(classes)] for i in range(_positive(count))], dtype=np.int64)


def _generator(seed: int, index: int, stream: int) -> np.random.Generator:
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed (={seed}) must lie in 0..2**64-1")
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, stream, index]))


def _truncated_normal(generator: np.random.Generator, size: int, limit: float | None) -> NDArray[np.float64]:
    values = generator.standard_normal(size)
    if limit is None:
        return values
    # Rejection needs about 1/erf(t/√2) draws: fine down to t ≈ 0.01; below that the density is flat.
    if limit < 0.01:
        return generator.uniform(-limit, limit, size)
    while (outside := np.abs(values) > limit).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values


def _positive(count: int) -> int:
    if count < 0:
        raise ConfigError(f"count (={count}) must not be negative")
    return count
