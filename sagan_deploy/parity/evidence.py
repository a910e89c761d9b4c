"""What a leg shows beside its verdict: every image's errors, every stage's, the ranges of its values, its attention.

Gates decide; this explains. Frozen values, all of them empty where they do not apply.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: The measures of an image beside those that are gates, and the gates' own, in the order of the report.
MEASURES = ("rel_l2", "max_abs", "cosine", "psnr", "ssim", "ulps", "code_difference", "code_share", "not_finite")


@dataclass(frozen=True)
class ImageTable:
    """The errors of every image of every case, in columns of one length, in the order in which they were drawn.

    `case` and `image` name each row as gates do, `row` is its row in the pool of latents. `measures` maps each of
    `MEASURES` to its column:

    * ``rel_l2``, ``max_abs``, ``cosine``, ``psnr`` (dB, range 2), ``ssim``: against the float64 reference
    * ``ulps``: the largest error of a pixel in units of the precision's spacing at 1 (2u)
    * ``code_difference``: the largest difference of an 8-bit code; ``code_share``: the share of codes that differ
    * ``not_finite``: how many values are NaN or infinite

    `code_histogram` counts the signed differences of 8-bit codes over all images.
    """

    case: tuple[str, ...]
    image: tuple[int, ...]
    row: tuple[int, ...]
    measures: dict[str, tuple[float, ...]]
    code_histogram: dict[int, int]


@dataclass(frozen=True)
class StageError:
    """The relative L2 error of one stage's output, by module path, against its own budget."""

    path: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error keeps the budget; NaN never does."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Gain:
    """What one part costs: the file's ``tensor.rel_l2`` of the worst image, and the same with that part in float32."""

    path: str
    before: float
    after: float

    @property
    def share(self) -> float:
        """Which share of the error disappears; negative where rounding there happened to help."""
        return 1 - self.after / self.before if self.before > 0 else 0.0


@dataclass(frozen=True)
class TensorRange:
    """The magnitudes of one value of the graph over all latents.

    `path` is the module that makes it, `op` its ONNX operator. `largest` is the largest finite magnitude, computed in
    float32. `headroom_bits` is log2(largest number of the format / `largest`): how many doublings are left before it
    overflows, negative when it does. `underflow` is the share of its non-zero numbers that are below the smallest
    normal number of the format. `logits` marks attention scores before the softmax, which SAGAN does not scale.
    """

    value: str
    path: str
    op: str
    largest: float
    headroom_bits: float
    underflow: float
    logits: bool = False


@dataclass(frozen=True)
class RangeAudit:
    """The ranges of all values that a half format must hold, the least headroom first."""

    precision: str
    latents: int
    largest_number: float
    smallest_normal: float
    rows: tuple[TensorRange, ...]

    @property
    def overflows(self) -> tuple[TensorRange, ...]:
        """The values that the format cannot hold."""
        return tuple(row for row in self.rows if row.headroom_bits < 0)


@dataclass(frozen=True)
class AttentionMap:
    """Where one position of one image looks, on both sides: pictures (h, w, 3) uint8, white is the largest weight.

    `position` is the (row, column) of the query in the stage's feature map, whose height and width are `size`; the
    picture has fewer places where keys are pooled, and its pixels may be enlarged. `difference` is the largest
    difference of two weights, which sum to 1 over each picture.
    """

    path: str
    case: str
    image: int
    position: tuple[int, int]
    size: tuple[int, int]
    difference: float
    reference: NDArray[np.uint8] = field(repr=False)
    candidate: NDArray[np.uint8] = field(repr=False)
