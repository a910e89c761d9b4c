"""Distances between images, in float64 and per image: nothing is averaged over a batch, and NaN is never small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.images import to_uint8

Images = NDArray[np.float64]  # [n, c, h, w] in [−1, 1]
PerImage = NDArray[np.float64]  # [n]

_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_RANGE = 2.0  # of an image in [−1, 1]


@dataclass(frozen=True)
class Worst:
    """The largest absolute difference of one image and where it stands: (channel, row, column)."""

    value: float
    pixel: tuple[int, int, int]


def relative_l2(candidate: Images, reference: Images) -> PerImage:
    """‖candidate − reference‖₂ / ‖reference‖₂ of every image."""
    difference = np.sqrt(((candidate - reference) ** 2).sum(axis=(1, 2, 3)))
    size = np.sqrt((reference**2).sum(axis=(1, 2, 3)))
    # A reference that is exactly zero leaves nothing to be relative to: any difference is then infinitely large.
    empty = np.where(difference == 0, 0.0, np.inf)
    return np.asarray(np.where(size > 0, difference / np.where(size > 0, size, 1.0), empty))


def worst_pixels(candidate: Images, reference: Images) -> list[Worst]:
    """The largest |candidate − reference| of every image; a NaN pixel is larger than any number."""
    found = []
    for difference in np.abs(candidate - reference):
        index = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
        pixel = np.unravel_index(index, difference.shape)
        found.append(Worst(float(difference[pixel]), (int(pixel[0]), int(pixel[1]), int(pixel[2]))))
    return found


def psnr(candidate: Images, reference: Images) -> PerImage:
    """Peak signal to noise ratio in dB with the peak at 2, the range of the images; infinite for equal ones."""
    error = ((candidate - reference) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(_RANGE**2 / error))


def ssim(candidate: Images, reference: Images) -> PerImage:
    """Structural similarity with an 11-pixel Gaussian window (σ 1.5): Wang et al. 2004, equation (13).

    The mean over all places where the window fits, and over channels; images smaller than it get a smaller window.
    """
    size = min(_SSIM_WINDOW, (min(reference.shape[2:]) - 1) // 2 * 2 + 1)
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    window /= window.sum()

    def local_mean(images: Images) -> Images:
        for axis in (2, 3):
            views = np.lib.stride_tricks.sliding_window_view(images, size, axis=axis)
            images = views @ window
        return images

    c1, c2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
    mean_a, mean_b = local_mean(candidate), local_mean(reference)
    variance_a = local_mean(candidate**2) - mean_a**2
    variance_b = local_mean(reference**2) - mean_b**2
    covariance = local_mean(candidate * reference) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return np.asarray(similarity.mean(axis=(1, 2, 3)))


def cosine(candidate: Images, reference: Images) -> PerImage:
    """The cosine of the angle between two images as vectors; two black images, which have none, are alike: 1."""
    product = (candidate * reference).sum(axis=(1, 2, 3))
    sizes = np.sqrt((candidate**2).sum(axis=(1, 2, 3)) * (reference**2).sum(axis=(1, 2, 3)))
    alike = np.where((candidate == reference).all(axis=(1, 2, 3)), 1.0, 0.0)
    return np.asarray(np.where(sizes > 0, product / np.where(sizes > 0, sizes, 1.0), alike))


def comparable(images: NDArray[Any], reference: Images) -> Images:
    """A candidate's images as numbers [n, c, h, w]; 8-bit ones as the nearest that round to them."""
    return nearest_images(images, reference) if images.dtype == np.uint8 else images.astype(np.float64)


def code_differences(candidate: NDArray[Any], reference: Images) -> NDArray[np.int64]:
    """Signed differences of 8-bit codes, [n, h, w, c]; `candidate` holds codes [n, h, w, c] or images [n, c, h, w]."""
    codes = candidate if candidate.dtype == np.uint8 else to_uint8(np.nan_to_num(candidate, nan=-1.0))
    return codes.astype(np.int64) - to_uint8(reference).astype(np.int64)


def from_codes(codes: NDArray[np.uint8]) -> Images:
    """8-bit codes [n, h, w, c] as images [n, c, h, w] in [−1, 1]."""
    return (codes.astype(np.float64).transpose(0, 3, 1, 2) - 127.5) / 127.5


def nearest_images(codes: NDArray[np.uint8], reference: Images) -> Images:
    """Of all images that round to these codes the one nearest to the reference, [n, c, h, w].

    An 8-bit code stands for every number that rounds to it, so the number itself is not known. Whatever the head
    rounded lies at least as far from the reference as this image: its errors are lower bounds, free of the rounding to
    8 bits, and keep the limits of float images. A head that truncates pushes every second pixel over its interval.
    """
    middle = from_codes(codes)
    low = np.where(middle <= -1.0, -np.inf, middle - 0.5 / 127.5)
    high = np.where(middle >= 1.0, np.inf, middle + 0.5 / 127.5)
    return np.clip(reference, low, high)


def not_finite(images: NDArray[Any]) -> NDArray[np.int64]:
    """How many NaN and infinite values every image has."""
    if images.dtype == np.uint8:
        return np.zeros(len(images), np.int64)
    return np.asarray((~np.isfinite(images)).sum(axis=(1, 2, 3)))
