"""What is said of sets of features or class logits: Fréchet and kernel distance of two, class score of one.

They are FID, KID and Inception Score only with one certain Inception network; numbers of others, such as our own
classifier's, cannot be compared with those and do not bear their names.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError

_BLOCK = 2048


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two Gaussians: Heusel et al. 2017, arXiv 1706.08500. Each set has rows of features [n, d], n ≥ 2.

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½).

    Raises:
        InputError: too few rows, or features that are not finite.
    """
    for features in (a, b):
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise InputError(f"features of shape {features.shape} must be finite and have at least two rows")
    difference = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = _covariance(a), _covariance(b)
    # (Σ_a Σ_b)^½ has the trace of the symmetric (Σ_a^½ Σ_b Σ_a^½)^½, whose eigenvalues are real even when rounding
    # makes the product's complex.
    root_a = _square_root(cov_a)
    middle = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    distance = difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2.0 * np.sqrt(middle.clip(min=0)).sum()
    return max(0.0, float(distance))  # rounding can leave −1e-12 for equal sets


def kernel_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Unbiased MMD² with the kernel (xᵀy/d + 1)³ of two independent sets [n, d]: Bińkowski et al., arXiv 1801.01401.

    It is negative now and then when the sets come from one distribution. All pairs are taken, not some subsets of them
    as is usual to save time: the mean of those is the same and wavers more.
    """
    # Of a set with itself, no image is paired with itself.
    within = [(_kernel_sum(x, x) - float(_kernel((x * x).sum(axis=1), x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return sum(within) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def class_score(logits: NDArray[np.float64]) -> float:
    """Of class logits [n, k], exp of the mean KL divergence of p(y|x) from p(y): Salimans et al., arXiv 1606.03498.

    1 if all images are taken for the same mixture of classes, k if each is certainly of one, and all equally often.
    All images together: the mean of ten parts, as it is often given, is a little lower.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_given = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    given = np.exp(log_given)
    mean = given.mean(axis=0)
    log_mean = np.log(np.where(mean > 0, mean, 1.0))  # a class that no image is taken for adds 0
    return float(np.exp((given * (log_given - log_mean)).sum(axis=1).mean()))


def _kernel_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Block by block: a matrix of all pairs of 50,000 images would take 20 GB.
    starts = itertools.product(range(0, len(a), _BLOCK), range(0, len(b), _BLOCK))
    return math.fsum(float(_kernel(a[i : i + _BLOCK] @ b[j : j + _BLOCK].T, a)) for i, j in starts)


def _kernel(products: NDArray[np.float64], features: NDArray[np.float64]) -> np.float64:
    total: np.float64 = ((products / features.shape[1] + 1) ** 3).sum()
    return total


def _covariance(features: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = features - features.mean(axis=0)
    covariance: NDArray[np.float64] = centred.T @ centred / (len(features) - 1)
    return covariance


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
