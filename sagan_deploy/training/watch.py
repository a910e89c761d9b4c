"""Signs that a run has gone wrong long before anybody looks at its pictures."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.log import LogRow
from sagan_deploy.training.quality.diversity import spread

_ROWS = 10  # so many lines of the log in a row must say the same
_WON = 1e-3  # mean hinge loss: 999 of 1000 images lie beyond the margin
_BLIND = 1e-4  # difference of mean scores; the margin is 2 wide
_COLLAPSED = 0.1  # spread of the images of a class relative to real ones'
_SEEN = 0.3  # which counts only after it has been this high: images of the first steps are all alike


class Watchdog:
    """Looks at the log's lines and at samples; each method returns what is wrong in words, or None.

    A session of its own begins anew: what it has seen is no part of the run's state, and changes no weight.
    """

    def __init__(self, data: Dataset) -> None:
        self._losses: deque[float] = deque(maxlen=_ROWS)
        self._margins: deque[float] = deque(maxlen=_ROWS)
        self._real_spread = _real_spread(data)
        self._highest = 0.0

    def scores(self, row: LogRow) -> str | None:
        """A discriminator that always wins gives the generator's Adam nothing but noise; a blind one nothing at all."""
        self._losses.append(row.discriminator_loss)
        self._margins.append(abs(row.real_score - row.fake_score))
        if len(self._losses) < _ROWS:
            return None
        if max(self._losses) < _WON:
            return (
                f"the discriminator has won: its loss was below {_WON} in the last {_ROWS} lines of the log, so the "
                "generator learns nothing from it. Lower --discriminator-lr, or give it more images (--flip, --augment)"
            )
        if max(self._margins) < _BLIND:
            return (
                f"the discriminator is dead: it scored real and drawn images alike (within {_BLIND}) in the last "
                f"{_ROWS} lines of the log. Lower both learning rates, or take another --seed"
            )
        return None

    def diversity(self, images: NDArray[np.float32], labels: NDArray[np.int64] | None) -> str | None:
        """Images [n, 3, h, w] in [−1, 1] that hardly differ within their class, after they once did."""
        if not self._real_spread > 0:
            return None
        relative = _mean_spread(images, labels) / self._real_spread
        self._highest = max(self._highest, relative)
        if self._highest < _SEEN or relative >= _COLLAPSED:
            return None
        return (
            f"the images have collapsed: those of a class differ by {relative:.0%} of what real ones do, after "
            f"{self._highest:.0%} earlier. Go back to an older state (--keep, --from-step) with lower learning rates"
        )


def _real_spread(data: Dataset, most: int = 1000) -> float:
    rows = np.random.default_rng(0).permutation(len(data))[:most]
    images = data.images[rows].astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return _mean_spread(images, None if data.labels is None else data.labels[rows])


def _mean_spread(images: NDArray[np.float32], labels: NDArray[np.int64] | None) -> float:
    groups = [images] if labels is None else [images[labels == label] for label in np.unique(labels)]
    spreads = [spread(group) for group in groups if len(group) > 1]
    return float(np.mean(spreads)) if spreads else 0.0
