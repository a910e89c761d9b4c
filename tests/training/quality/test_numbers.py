"""The distances and counts against computations of another kind."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sagan_deploy.distances import frechet_distance
from sagan_deploy.errors import InputError
from sagan_deploy.training.quality.diversity import effective_number, spread


def _gaussian(mean, covariance, count=4000, seed=0):
    """Samples whose mean and covariance are exactly the given ones: drawn, whitened, coloured."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (count - 1))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_with_one_set_of_axes_is_the_closed_form():
    # With a common eigenbasis: |μ1 − μ2|² + Σ (√λ1 − √λ2)²
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    first, second = np.array([1.0, 4.0, 9.0]), np.array([2.0, 4.0, 0.25])
    mean1, mean2 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    a = _gaussian(mean1, basis * first @ basis.T, seed=1)
    b = _gaussian(mean2, basis * second @ basis.T, count=3000, seed=2)
    expected = ((mean1 - mean2) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_any_gaussians_through_the_eigenvalues_of_the_plain_product():
    random = np.random.default_rng(4)
    roots = random.normal(size=(2, 5, 5))
    cov1, cov2 = (root @ root.T for root in roots)
    a, b = _gaussian(np.zeros(5), cov1, seed=5), _gaussian(np.ones(5), cov2, seed=6)
    trace_root = np.sqrt(np.linalg.eigvals(cov1 @ cov2).real).sum()
    expected = 5 + np.trace(cov1) + np.trace(cov2) - 2 * trace_root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_a_set_and_itself_is_zero_even_when_it_is_degenerate():
    x = np.random.default_rng(0).normal(size=(50, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    flat = np.repeat(x[:, :1], 4, axis=1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(3), np.array([[0.0, np.nan], [0.0, 1.0]])])
def test_frechet_refuses_what_has_no_covariance(bad):
    with pytest.raises(InputError, match="features of shape"):
        frechet_distance(np.zeros((4, 3)), bad)


def test_the_effective_number_counts_kinds_by_how_even_they_are():
    assert effective_number(np.array([3, 3, 3])) == 1
    assert effective_number(np.array([0, 1, 2, 3] * 5)) == pytest.approx(4)
    p = np.array([0.5, 0.25, 0.25])
    assert effective_number(np.array([7, 7, 1, 2])) == pytest.approx(math.prod(p**-p))


def test_spread_is_the_root_mean_square_over_all_pairs():
    images = np.random.default_rng(1).normal(size=(6, 3, 2, 2)).astype(np.float32)
    squares = [((a - b) ** 2).mean() for a, b in itertools.combinations(images.astype(np.float64), 2)]
    assert spread(images) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)
    assert spread(np.repeat(images[:1], 4, axis=0)) == 0
