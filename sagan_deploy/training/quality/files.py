"""Quality of finished files: checkpoint, ONNX, plan and bundle side by side, on the same latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.distances import frechet_distance, kernel_distance
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.features import features_of_file
from sagan_deploy.generation import open_generator
from sagan_deploy.images import to_uint8
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import RuntimeGenerator
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.quality.classifier import Classifier, train_classifier
from sagan_deploy.training.quality.report import QualityReport, evaluate_quality

_PART = 64  # images at a time


@dataclass(frozen=True)
class FeatureDistances:
    """How far the drawn images lie from the real ones in features of the user's network, by `distances`.

    `frechet_real` and `kernel_real` are those of two halves of the real images: no file can be expected to be nearer.
    With the features of FID's Inception network these are FID and KID; they carry the name of the file that made them.
    """

    extractor: str
    frechet: float
    frechet_real: float
    kernel: float
    kernel_real: float


@dataclass(frozen=True)
class FileQuality:
    """One file: what drew its images, their quality, and how far they are from the first file's in 8-bit codes."""

    file: str
    drawn_by: str
    quality: QualityReport
    mean_code_difference: float
    max_code_difference: int
    features: FeatureDistances | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def evaluate_files(
    files: Sequence[Path],
    data: Dataset,
    *,
    images_per_class: int = 200,
    seed: int = 0,
    features: Path | None = None,
    progress: Progress = silent,
) -> tuple[FileQuality, ...]:
    """Draw the same images from every file and measure each against real ones with one and the same classifier.

    Args:
        files: checkpoints, ONNX models, plans or bundles with the classes of `data`; the first one is what the others
            are compared with.
        data: the real images, with labels.
        images_per_class: at least 2.
        seed: of latents, classifier and halves.
        features: an ONNX network (see `sagan_deploy.features`) in whose features distances are measured as well.
        progress: told about classifier and images.

    Raises:
        ConfigError: no files, or images without classes.
        InputError: a file draws other classes or another size, or NaN; or `features` is no such network.
        MissingError: this machine lacks what a file needs.
    """
    if not files:
        raise ConfigError("there is no file to evaluate")
    if not data.num_classes:
        raise ConfigError(
            f"{data.name} has no classes: quality is measured per class, by a classifier that learns them"
        )
    for file in files:  # all of them before the classifier's minute
        with open_generator(file) as generator:
            _check_fits(file, generator, data)
    distances = _distances(features, data, seed) if features is not None else None
    classifier = train_classifier(data, seed=seed, progress=progress)
    rows: list[FileQuality] = []
    first: NDArray[np.uint8] | None = None
    for file in files:
        quality, images, drawn_by = _measure(file, data, classifier, images_per_class, seed, progress)
        first = images if first is None else first
        difference = np.abs(images.astype(np.int16) - first.astype(np.int16))
        rows.append(
            FileQuality(
                str(file),
                drawn_by,
                quality,
                float(difference.mean()),
                int(difference.max()),
                distances(images) if distances is not None else None,
            )
        )
    return tuple(rows)


def _distances(network: Path, data: Dataset, seed: int) -> Callable[[NDArray[np.uint8]], FeatureDistances]:
    """The real images' features, once, and what is to be said of drawn ones [n, h, w, c]."""
    name, extract = features_of_file(network)

    def features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        parts = (images[i : i + _PART] for i in range(0, len(images), _PART))
        return np.concatenate([extract(part.astype(np.float64) / 127.5 - 1.0) for part in parts])

    real = features(data.images)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(real)), 2)
    one, other = real[halves[0]], real[halves[1]]
    frechet_real, kernel_real = frechet_distance(one, other), kernel_distance(one, other)

    def measure(images: NDArray[np.uint8]) -> FeatureDistances:
        drawn = features(images.transpose(0, 3, 1, 2))
        frechet, kernel = frechet_distance(drawn, real), kernel_distance(drawn, real)
        return FeatureDistances(name, frechet, frechet_real, kernel, kernel_real)

    return measure


def _measure(
    file: Path, data: Dataset, classifier: Classifier, images_per_class: int, seed: int, progress: Progress
) -> tuple[QualityReport, NDArray[np.uint8], str]:
    drawn: list[NDArray[np.uint8]] = []
    with open_generator(file) as generator:

        def generate(z: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[Any]:
            images = generator(z, labels)
            drawn.append(images if images.dtype == np.uint8 else to_uint8(images.astype(np.float32)))
            return images

        quality = evaluate_quality(
            generate,
            generator.config.z_dim,
            data,
            classifier,
            images_per_class=images_per_class,
            seed=seed,
            progress=progress,
        )
        return quality, np.concatenate(drawn), generator.choice


def _check_fits(file: Path, generator: RuntimeGenerator, data: Dataset) -> None:
    config, names = generator.config, generator.class_names
    if config.num_classes != data.num_classes:
        raise InputError(f"{file} draws {config.num_classes} classes, and {data.name} has {data.num_classes}.")
    if names and names != data.class_names:
        raise InputError(
            f"{file} draws the classes {', '.join(names)}, and {data.name} has {', '.join(data.class_names)}: give the "
            "images it was trained on, or images sorted into the same classes."
        )
    if config.image_size != data.image_size:
        raise InputError(
            f"{file} draws {config.image_size} pixels, and the images of {data.name} have {data.image_size}."
        )
