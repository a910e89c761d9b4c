"""The distribution lane: over many latents, are a file's images as a whole those of PyTorch?

Both sides draw the same latents A. What a difference means is told by other latents B, drawn by PyTorch alone, which
stand in for data:

* ``distribution.frechet``: the Fréchet distance of file(A) and PyTorch(A) is a small part of that between
  PyTorch(A) and PyTorch(B), which differ by their seed only.
* ``distribution.kernel``: the kernel distance to PyTorch(B) is the same for file(A) and PyTorch(A), within its own
  standard deviation over subsets.

Features come from an ONNX file of the user's (an Inception network makes them FID and KID) or from a small local
extractor with random weights, whose numbers are good for this comparison alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.distances import frechet_distance, kernel_distance
from sagan_deploy.errors import ConfigError
from sagan_deploy.features import Features, extractor_of_file
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.parity.candidates import Draw
from sagan_deploy.parity.cases import Pool
from sagan_deploy.parity.metrics import from_codes
from sagan_deploy.parity.policy import Limit, Policy, Precision
from sagan_deploy.parity.report import Gate
from sagan_deploy.parity.yardstick import draw_in
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.model.generator import Generator

_BATCH = 8
_SMALLEST = 16  # images: fewer say nothing about a distribution
_PART = 0.05  # of the distance that another seed makes
_SUBSETS = 20
_WIDTH = 16


@dataclass(frozen=True)
class Lane:
    """What every file of one call is held against: PyTorch's features of the latents A, and of others."""

    extractor: str
    features: Features
    pool: Pool
    ours: NDArray[np.float64]
    others: NDArray[np.float64]

    def gates(self, draw: Draw, precision: Precision, policy: Policy) -> tuple[Gate, ...]:
        """The two gates of a file that is open."""
        theirs = _features_of(self.features, lambda z, labels: draw(z, labels), self.pool)
        if not np.isfinite(theirs).all():
            nan = float("nan")
            return (Gate("distribution.frechet", nan, 0.0, f"features by {self.extractor} are not finite"),)
        seeds = frechet_distance(self.ours, self.others)
        words = f"{_PART} of {seeds:.3g}, the distance of {len(self.ours)} images of another seed; {self.extractor}"
        limit = policy.distribution(precision, "distribution.frechet", Limit(_PART * seeds, words))
        found = [
            Gate("distribution.frechet", frechet_distance(theirs, self.ours), limit.value, limit.derivation, case="A")
        ]
        spread = self._spread()
        words = f"standard deviation {spread:.3g} of the kernel distance over subsets; {self.extractor}"
        limit = policy.distribution(precision, "distribution.kernel", Limit(spread, words))
        change = abs(kernel_distance(theirs, self.others) - kernel_distance(self.ours, self.others))
        return (*found, Gate("distribution.kernel", change, limit.value, limit.derivation, case="A"))

    def _spread(self) -> float:
        """Standard deviation of PyTorch's kernel distance between halves of both sets."""
        source, half = np.random.default_rng(0), len(self.ours) // 2
        values = [
            kernel_distance(
                self.ours[source.permutation(len(self.ours))[:half]],
                self.others[source.permutation(len(self.others))[:half]],
            )
            for _ in range(_SUBSETS)
        ]
        return float(np.std(values))


def open_lane(
    generator: Generator, count: int, *, seed: int = 0, features: Path | None = None, progress: Progress = silent
) -> Lane:
    """Draw PyTorch's side once.

    Args:
        generator: the training form; drawn in float32.
        count: how many latents on each side, at least 16.
        seed: of the latents; those of the others follow them.
        features: an ONNX file with one input [n, c, h, w], images in [−1, 1], and the features [n, d] as first output;
            None takes the local extractor.
        progress: told how far the drawing is.

    Raises:
        ConfigError: too few latents.
        InputError: the extractor is no such file.
    """
    if count < _SMALLEST:
        raise ConfigError(f"distribution (={count}) must be at least {_SMALLEST} images")
    config = generator.config
    name, extract = _local(config.image_channels) if features is None else _of_file(features)

    def pool(start: int) -> Pool:
        labels = sample_labels(seed, count, config.num_classes, start=start) if config.conditional else None
        return Pool(sample_latents(seed, count, config.z_dim, start=start), labels)

    # The judged latents come first in the stream of the seed; these are none of them.
    first, second = pool(1 << 20), pool(1 << 21)

    def ours(z: NDArray[np.float32], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        return draw_in("fp32", generator, Pool(z, labels))

    sides = []
    for done, part in enumerate((first, second)):
        progress("distribution", done, 2)
        sides.append(_features_of(extract, ours, part))
    progress("distribution", 2, 2)
    return Lane(name, extract, first, *sides)


def _features_of(extract: Features, draw: Draw, pool: Pool) -> NDArray[np.float64]:
    rows = []
    for start in range(0, len(pool), _BATCH):
        part = slice(start, start + _BATCH)
        images = draw(pool.z[part], None if pool.labels is None else pool.labels[part])
        rows.append(extract(from_codes(images) if images.dtype == np.uint8 else images.astype(np.float64)))
    return np.concatenate(rows)


def _of_file(path: Path) -> tuple[str, Features]:
    extractor = extractor_of_file(path)
    return extractor.name, extractor.features


def _local(channels: int) -> tuple[str, Features]:
    """Three strided convolutions with fixed random weights, and the mean and deviation of every map."""
    import torch
    from torch.nn import functional as F

    source = torch.Generator().manual_seed(1805)
    sizes = (channels, _WIDTH, 2 * _WIDTH, 2 * _WIDTH)
    kernels = [
        torch.randn(wide, narrow, 3, 3, generator=source, dtype=torch.float64) / (9 * narrow) ** 0.5
        for narrow, wide in itertools.pairwise(sizes)
    ]

    def extract(images: NDArray[np.float64]) -> NDArray[np.float64]:
        maps = torch.from_numpy(images)
        for kernel in kernels:
            maps = F.leaky_relu(F.conv2d(maps, kernel, stride=2, padding=1), 0.2)
        found: NDArray[np.float64] = torch.cat((maps.mean((2, 3)), maps.std((2, 3))), dim=1).numpy()
        return found

    return "local extractor with random weights, no FID", extract
