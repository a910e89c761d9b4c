"""A request that is larger than what runs at once, in parts of equal size."""

from __future__ import annotations

import itertools


def parts(count: int, max_batch: int) -> list[tuple[int, int]]:
    """First row and the row behind the last one of each part.

    Parts are of equal size: 65 rows at most 64 at a time are 33 and 32, not 64 and a slow single one.
    """
    number = -(-count // max_batch)
    return list(itertools.pairwise(count * i // number for i in range(number + 1))) if number else []
