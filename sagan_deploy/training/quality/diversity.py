"""Numbers that fall when a generator draws the same image again and again, which label accuracy cannot see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def effective_number(kinds: NDArray[np.int64]) -> float:
    """exp(entropy) of how often each kind occurs: 1 when all are of one kind, k when k kinds are equally frequent."""
    shares = np.unique(kinds, return_counts=True)[1] / len(kinds)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spread(images: NDArray[np.float32]) -> float:
    """Root mean square distance between two different images of [n, …], n ≥ 2, per pixel value.

    The mean over all pairs of (a − b)² is twice the unbiased variance, so no pair has to be formed.
    """
    variance = images.reshape(len(images), -1).astype(np.float64).var(axis=0, ddof=1)
    return float(np.sqrt(2.0 * variance.mean()))
