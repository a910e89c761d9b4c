"""Distances between two sets of features: Fréchet and kernel.

They are FID and KID only with the features of one certain Inception network; numbers of others, such as our own
classifier's, cannot be compared with those and do not bear their names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError


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

    It is negative now and then when the sets come from one distribution.
    """
    within = [(_kernel(x, x).sum() - np.trace(_kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(sum(within) - 2 * _kernel(a, b).mean())


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _covariance(features: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = features - features.mean(axis=0)
    covariance: NDArray[np.float64] = centred.T @ centred / (len(features) - 1)
    return covariance


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
