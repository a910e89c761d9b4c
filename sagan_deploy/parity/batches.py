"""One latent, several batches: an image must not depend on what else is drawn with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.parity.gates import Drawn
from sagan_deploy.parity.metrics import from_codes
from sagan_deploy.parity.policy import Limit
from sagan_deploy.parity.report import Gate

_HALF_CODE = 0.5 / 127.5


def between_batches(drawn: Sequence[Drawn], limit: Limit) -> Gate:
    """The largest relative L2 distance between two images that one file made of the same row in different places.

    No reference is needed, so what half precision would hide behind its roundings shows: values that leak from row to
    row, a first or last row that is treated otherwise, a batch size that runs other code. 8-bit codes count as far
    apart as the nearest numbers that they stand for.
    """
    first: dict[int, NDArray[Any]] = {}
    worst = Gate("tensor.between_batches", 0.0, limit.value, limit.derivation)
    for d in drawn:
        for index, (row, image) in enumerate(zip(d.case.rows, d.images, strict=True)):
            if row not in first:
                first[row] = image
            elif not (distance := _distance(image, first[row])) <= worst.value:
                worst = Gate(worst.rule, distance, limit.value, limit.derivation, case=d.case.name, image=index)
    return worst


def _distance(image: NDArray[Any], other: NDArray[Any]) -> float:
    if image.dtype == np.uint8:
        numbers, others = from_codes(image[None]), from_codes(other[None])
        apart = np.maximum(np.abs(numbers - others) - 2 * _HALF_CODE, 0.0)
    else:
        others = other.astype(np.float64)
        apart = image.astype(np.float64) - others
    size = float(np.sqrt((others**2).sum()))
    found = float(np.sqrt((apart**2).sum()))
    return found / size if size > 0 else (0.0 if found == 0 else float("inf"))
