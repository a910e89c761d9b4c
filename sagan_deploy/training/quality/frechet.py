"""The Fréchet distance of two sets of features, each seen as a Gaussian: Heusel et al. 2017, arXiv 1706.08500.

With the features of the small classifier next door it is the *classifier Fréchet distance*. It is no FID: that is
one certain Inception network, and its numbers cannot be compared with these.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of two sets of features [n, d], n ≥ 2.

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


def _covariance(features: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = features - features.mean(axis=0)
    covariance: NDArray[np.float64] = centred.T @ centred / (len(features) - 1)
    return covariance


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
