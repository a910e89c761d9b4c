"""Metrics against the same quantities written pixel by pixel, and against NaN."""

import math

import numpy as np
import pytest

from sagan_deploy.parity.metrics import (
    code_differences,
    from_codes,
    not_finite,
    psnr,
    relative_l2,
    ssim,
    worst_pixels,
)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    reference = np.tanh(rng.normal(size=(3, 3, 16, 12)))
    return np.clip(
        reference + rng.normal(scale=[[[[0.01]]], [[[0.05]]], [[[0.2]]]], size=reference.shape), -1, 1
    ), reference


def test_relative_l2_and_psnr(pair):
    candidate, reference = pair
    for i in range(3):
        a, r = candidate[i].ravel().tolist(), reference[i].ravel().tolist()
        square = math.fsum((x - y) ** 2 for x, y in zip(a, r, strict=True))
        assert relative_l2(candidate, reference)[i] == pytest.approx(math.sqrt(square / math.fsum(y * y for y in r)))
        assert psnr(candidate, reference)[i] == pytest.approx(10 * math.log10(4 * len(a) / square))


def test_equal_and_empty_references():
    zeros = np.zeros((1, 3, 4, 4))
    assert relative_l2(zeros, zeros)[0] == 0
    assert relative_l2(zeros + 1e-9, zeros)[0] == np.inf
    assert psnr(zeros, zeros)[0] == np.inf
    assert ssim(zeros, zeros)[0] == pytest.approx(1)


def naive_ssim(a, b):
    weights = np.array([[math.exp(-(x * x + y * y) / 4.5) for x in range(-5, 6)] for y in range(-5, 6)])
    weights /= weights.sum()
    values = []
    for c in range(a.shape[0]):
        for i in range(a.shape[1] - 10):
            for j in range(a.shape[2] - 10):
                p, q = a[c, i : i + 11, j : j + 11], b[c, i : i + 11, j : j + 11]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                values.append(
                    (2 * mp * mq + 0.02**2) * (2 * cov + 0.06**2) / ((mp**2 + mq**2 + 0.02**2) * (vp + vq + 0.06**2))
                )
    return np.mean(values)


def test_ssim_is_the_published_formula(pair):
    candidate, reference = pair
    expected = [naive_ssim(a, b) for a, b in zip(candidate, reference, strict=True)]
    np.testing.assert_allclose(ssim(candidate, reference), expected, rtol=1e-9)
    assert expected[0] > expected[1] > expected[2]


def test_the_worst_pixel_is_found_and_nan_is_worse_than_anything():
    reference = np.zeros((2, 3, 4, 4))
    candidate = reference.copy()
    candidate[0, 2, 1, 3] = -0.5
    candidate[1, 0, 0, 0], candidate[1, 1, 2, 2] = 2.0, np.nan
    first, second = worst_pixels(candidate, reference)
    assert (first.value, first.pixel) == (0.5, (2, 1, 3))
    assert math.isnan(second.value)
    assert second.pixel == (1, 2, 2)
    assert not_finite(candidate).tolist() == [0, 1]


def test_codes_are_signed_and_survive_both_layouts():
    reference = np.array([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    codes = np.array([1, 128, 254], np.uint8).reshape(1, 1, 1, 3)
    assert code_differences(codes, reference).ravel().tolist() == [1, 0, -1]
    assert code_differences(from_codes(codes), reference).ravel().tolist() == [1, 0, -1]
    assert code_differences(np.full((1, 3, 1, 1), np.nan), reference).ravel().tolist() == [0, -128, -255]
