"""The same noise for every backend: rows depend on seed and index only, and follow the stated distribution."""

import numpy as np
import pytest

from sagan_deploy.errors import ConfigError
from sagan_deploy.latents import sample_labels, sample_latents


def test_a_row_does_not_depend_on_how_many_are_asked_for():
    many = sample_latents(5, 10, 16)
    assert np.array_equal(sample_latents(5, 1, 16, start=7)[0], many[7])
    assert np.array_equal(sample_latents(5, 3, 16), many[:3])
    assert not np.array_equal(many[0], many[1])
    assert not np.array_equal(sample_latents(6, 1, 16)[0], many[0])


def test_latents_are_standard_normal():
    z = sample_latents(0, 2000, 64).astype(np.float64)
    assert z.dtype == np.float64
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1


@pytest.mark.parametrize(("limit", "variance"), [(0.5, 0.0806), (2.0, 0.7737), (0.001, 0.001**2 / 3)])
def test_truncated_latents_stay_inside_and_keep_the_truncated_variance(limit, variance):
    z = sample_latents(0, 500, 64, truncation=limit)
    assert np.abs(z).max() <= limit
    assert abs(z.astype(np.float64).var() / variance - 1) < 0.03


def test_labels_cycle_through_given_classes_or_are_drawn_uniformly():
    assert sample_labels(0, 5, 10, classes=[7, 2]).tolist() == [7, 2, 7, 2, 7]
    assert sample_labels(0, 2, 10, classes=[7, 2], start=1).tolist() == [2, 7]
    drawn = sample_labels(1, 2000, 4)
    assert drawn.dtype == np.int64
    assert np.bincount(drawn).min() > 400
    assert sample_labels(1, 1, 4, start=17)[0] == drawn[17]


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample_latents(-1, 1, 4),
        lambda: sample_latents(0, -1, 4),
        lambda: sample_latents(0, 1, 4, truncation=0.0),
        lambda: sample_latents(0, 1, 4, truncation=float("nan")),
        lambda: sample_labels(0, 1, 4, classes=[4]),
        lambda: sample_labels(0, 1, 4, classes=[]),
    ],
)
def test_absurd_requests_are_refused(call):
    with pytest.raises(ConfigError):
        call()
