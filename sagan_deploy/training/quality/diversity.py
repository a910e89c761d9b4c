"""Numbers that fall when a generator draws the same image again and again, which label accuracy cannot see."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PART = 256


def effective_number(kinds: NDArray[np.int64]) -> float:
    """exp(entropy) of how often each kind occurs: 1 when all are of one kind, k when k kinds are equally frequent."""
    shares = np.unique(kinds, return_counts=True)[1] / len(kinds)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spread(images: NDArray[Any]) -> float:
    """Root mean square distance between two different images of [n, …], n ≥ 2, per pixel value in its own unit.

    The mean over all pairs of (a − b)² is twice the unbiased variance, so no pair has to be formed.
    """
    parts = [images[i : i + _PART] for i in range(0, len(images), _PART)]  # doubles of a few at a time
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts) / len(images)
    squares = sum(float(np.square(part - mean).sum()) for part in parts)
    variance = squares / ((len(images) - 1) * images[0].size)
    return float(np.sqrt(2.0 * variance))
