"""The worst images of a candidate beside their references, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.images import to_uint8
from sagan_deploy.parity.gates import Drawn
from sagan_deploy.parity.metrics import comparable, relative_l2
from sagan_deploy.parity.report import Picture

_SHOWN = 4


def worst_pictures(drawn: Sequence[Drawn], reference: NDArray[np.float64], count: int = _SHOWN) -> tuple[Picture, ...]:
    """The `count` images with the largest relative error, worst first, each row of the pool once."""
    ranked: dict[int, tuple[float, Drawn, int]] = {}
    for d in drawn:
        expected = reference[list(d.case.rows)]
        with np.errstate(invalid="ignore"):
            errors = relative_l2(comparable(d.images, expected), expected)
        for index, (row, error) in enumerate(zip(d.case.rows, errors, strict=True)):
            worse = float("inf") if np.isnan(error) else float(error)
            if row not in ranked or worse > ranked[row][0]:
                ranked[row] = (worse, d, index)
    worst = sorted(ranked.items(), key=lambda entry: -entry[1][0])[:count]
    return tuple(_picture(d, index, reference[row]) for row, (_, d, index) in worst)


def _picture(d: Drawn, index: int, reference: NDArray[np.float64]) -> Picture:
    """What is no number is black in the candidate and white in the difference."""
    candidate = d.images[index : index + 1]
    if candidate.dtype != np.uint8:
        candidate = np.nan_to_num(candidate, nan=-1.0, posinf=1.0, neginf=-1.0)
    lost = ~np.isfinite(d.images[index]) if candidate.dtype != np.uint8 else np.zeros(reference.shape, bool)
    difference = np.where(lost[None], 2.0, np.abs(comparable(candidate, reference[None]) - reference[None]))
    # Powers of two, so that people can relate the brightness of two pictures to each other.
    peak = max(float(difference.max()), 1e-12)
    amplification = 2.0 ** max(0, int(np.floor(np.log2(2.0 / peak))))
    return Picture(
        case=d.case.name,
        image=index,
        reference=_rgb(to_uint8(reference[None])[0]),
        candidate=_rgb(candidate[0] if candidate.dtype == np.uint8 else to_uint8(candidate)[0]),
        difference=_rgb(to_uint8(difference * amplification - 1.0)[0]),
        amplification=amplification,
    )


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
