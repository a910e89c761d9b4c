"""Quality of finished files: checkpoint, ONNX, plan and bundle side by side, on the same latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.generation import open_generator
from sagan_deploy.images import to_uint8
from sagan_deploy.latents import sample_latents
from sagan_deploy.progress import Progress, silent
from sagan_deploy.runtime import RuntimeGenerator
from sagan_deploy.training.data.dataset import Dataset, without_classes
from sagan_deploy.training.quality.classifier import Classifier, train_classifier
from sagan_deploy.training.quality.in_features import InFeatures, distances_from
from sagan_deploy.training.quality.report import MOST_IMAGES, QualityReport, evaluate_quality

_PART = 64  # images at a time


@dataclass(frozen=True)
class FileQuality:
    """One file: what drew its images, their quality, and how far they are from the first file's in 8-bit codes.

    Without classes there is no `quality`, only what `features` say.
    """

    file: str
    drawn_by: str
    images: int
    quality: QualityReport | None
    mean_code_difference: float
    max_code_difference: int
    features: InFeatures | None = None

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
        files: checkpoints, ONNX models, plans or bundles with the classes of `data`, or all without classes; the first
            one is what the others are compared with.
        data: the real images; of more than 50,000 so many are taken by chance.
        images_per_class: at least 2; without classes, so many in all.
        seed: of latents, classifier and halves.
        features: an ONNX network (see `sagan_deploy.features`) in whose features distances are measured as well;
            without classes it is needed, since the classifier has nothing to learn.
        progress: told about classifier and images.

    Raises:
        ConfigError: no files, or neither classes nor features.
        InputError: a file draws other classes or another size, or NaN; or `features` is no such network.
        MissingError: this machine lacks what a file needs.
    """
    if not files:
        raise ConfigError("there is no file to evaluate")
    for i, file in enumerate(files):  # all of them before the classifier's minute
        with open_generator(file) as generator:
            if not i and not generator.config.num_classes:
                data = without_classes(data)
            _check_fits(file, generator, data)
    if not data.num_classes and features is None:
        raise ConfigError(
            f"{data.name} has no classes: quality is measured per class, by a classifier that learns them. Without "
            "classes give --features, a network of your own to measure distances in"
        )
    data = data.sample(MOST_IMAGES)
    distances = distances_from(data.images, features, seed=seed, progress=progress) if features is not None else None
    classifier = train_classifier(data, seed=seed, progress=progress) if data.num_classes else None
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
                len(images),
                quality,
                float(difference.mean()),
                int(difference.max()),
                distances(images) if distances is not None else None,
            )
        )
    return tuple(rows)


def _measure(
    file: Path, data: Dataset, classifier: Classifier | None, images_per_class: int, seed: int, progress: Progress
) -> tuple[QualityReport | None, NDArray[np.uint8], str]:
    drawn: list[NDArray[np.uint8]] = []
    with open_generator(file) as generator:

        def generate(z: NDArray[np.float32], labels: NDArray[np.int64] | None) -> NDArray[Any]:
            images = generator(z, labels)
            drawn.append(images if images.dtype == np.uint8 else to_uint8(images.astype(np.float32)))
            return images

        quality = None
        if classifier is None:
            z = sample_latents(seed, images_per_class, generator.config.z_dim)
            for i in range(0, len(z), _PART):
                generate(z[i : i + _PART], None)
                progress("draw", min(i + _PART, len(z)), len(z))
        else:
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
