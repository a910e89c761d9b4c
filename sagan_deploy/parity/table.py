"""Every image's errors: the numbers behind the gates, which name only the worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.parity.evidence import MEASURES, ImageTable
from sagan_deploy.parity.gates import Drawn
from sagan_deploy.parity.metrics import (
    code_differences,
    comparable,
    cosine,
    not_finite,
    psnr,
    relative_l2,
    ssim,
    worst_pixels,
)


def image_table(drawn: Sequence[Drawn], reference: NDArray[np.float64], roundoff: float) -> ImageTable:
    """The measures of all images, case after case.

    Args:
        drawn: what a candidate made of the cases.
        reference: the float64 images of the pool, [rows, c, h, w].
        roundoff: u of the candidate's precision; half a unit in the last place at 1.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are measured as what they are
        measured = [_measures(d.images, reference[list(d.case.rows)], roundoff) for d in drawn]
    codes = np.concatenate([code_differences(d.images, reference[list(d.case.rows)]).ravel() for d in drawn])
    values, counts = np.unique(codes, return_counts=True)
    return ImageTable(
        case=tuple(d.case.name for d in drawn for _ in d.case.rows),
        image=tuple(index for d in drawn for index in range(len(d.case.rows))),
        row=tuple(row for d in drawn for row in d.case.rows),
        measures={name: tuple(float(v) for part in measured for v in part[name]) for name in MEASURES},
        code_histogram={int(value): int(count) for value, count in zip(values, counts, strict=True)},
    )


def _measures(
    images: NDArray[Any], expected: NDArray[np.float64], roundoff: float
) -> dict[str, Sequence[float] | NDArray[Any]]:
    numbers = comparable(images, expected)
    codes = np.abs(code_differences(images, expected)).reshape(len(images), -1)
    largest = np.array([worst.value for worst in worst_pixels(numbers, expected)])
    return {
        "rel_l2": relative_l2(numbers, expected),
        "max_abs": largest,
        "cosine": cosine(numbers, expected),
        "psnr": psnr(numbers, expected),
        "ssim": ssim(numbers, expected),
        "ulps": largest / (2 * roundoff),
        "code_difference": codes.max(axis=1),
        "code_share": (codes != 0).mean(axis=1),
        "not_finite": not_finite(images),
    }
