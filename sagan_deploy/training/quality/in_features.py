"""Drawn images beside real ones, through the eyes of a network of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.distances import class_score, frechet_distance, kernel_distance
from sagan_deploy.features import Extractor, extractor_of_file
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.quality.classifier import as_float

_PART = 64  # images at a time


@dataclass(frozen=True)
class InFeatures:
    """How far the drawn images lie from the real ones in the network's features, by `sagan_deploy.distances`.

    `frechet_real` and `kernel_real` are those of two halves of the real images: no file can be expected to be nearer.
    `score` and `score_real` are the class scores of drawn and real images, if the network has logits. With Inception's
    these are FID, KID and Inception Score; they carry the name of the file that made them.
    """

    extractor: str
    frechet: float
    frechet_real: float
    kernel: float
    kernel_real: float
    score: float | None = None
    score_real: float | None = None


def distances_from(
    real: NDArray[np.uint8], network: Path, *, seed: int = 0, progress: Progress = silent
) -> Callable[[NDArray[np.uint8]], InFeatures]:
    """Look at the real images [n, c, h, w] once; what returns measures drawn ones, uint8 [n, h, w, c], against them.

    Raises:
        InputError: `network` is none that `extractor_of_file` takes, or does not take such images.
    """
    extractor = extractor_of_file(network)
    features, logits = _seen(extractor, real, progress)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(features)), 2)
    one, other = features[halves[0]], features[halves[1]]
    frechet_real, kernel_real = frechet_distance(one, other), kernel_distance(one, other)
    score_real = class_score(logits) if logits is not None else None

    def measure(images: NDArray[np.uint8]) -> InFeatures:
        drawn, classes = _seen(extractor, images.transpose(0, 3, 1, 2), progress)
        return InFeatures(
            extractor.name,
            frechet_distance(drawn, features),
            frechet_real,
            kernel_distance(drawn, features),
            kernel_real,
            class_score(classes) if classes is not None else None,
            score_real,
        )

    return measure


def _seen(
    extractor: Extractor, images: NDArray[np.uint8], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    features, logits = [], []
    for i in range(0, len(images), _PART):
        part, classes = extractor.see(as_float(images[i : i + _PART]).astype(np.float64))
        features.append(part)
        if classes is not None:
            logits.append(classes)
        progress(extractor.name, min(i + _PART, len(images)), len(images))
    return np.concatenate(features), np.concatenate(logits) if logits else None
