"""Generated images beside real ones, through the eyes of the classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.distances import frechet_distance
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.latents import sample_latents
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.quality.classifier import LABEL, Classifier, Prediction, as_float
from sagan_deploy.training.quality.diversity import effective_number, spread

# (z [n, z_dim], labels [n]) → images [n, 3, h, w] in [−1, 1] or [n, h, w, 3] uint8, as a RuntimeGenerator does.
Generate: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[Any]]
MOST_IMAGES = 50_000  # real ones: as many as FID is commonly measured with, and as fit into memory
_PART = 64
_CODES = 127.5  # 8-bit codes for each unit of an image in [−1, 1]


@dataclass(frozen=True)
class ClassQuality:
    """One class: how many of its images are taken for it, and how different they are from each other.

    `kinds` is the effective number of kinds (exp of the entropy) per attribute, generated and real.
    `spread` is the mean distance between two generated images of the class, relative to two real ones.
    """

    name: str
    label_share: float
    kinds: dict[str, tuple[float, float]]
    spread: float


@dataclass(frozen=True)
class QualityReport:
    """A balanced sample in numbers.

    `label_share` counts images that the classifier assigns to the class they were asked to show; `accuracy` is the
    classifier's own on real images that it was not trained on, for the label and every attribute. `frechet` is the
    classifier Fréchet distance (no FID) of the sample to one half of the real images, `frechet_real` that of the
    other half to it. `kinds` and `spread` are means over the classes; `least_spread` is the worst class.
    """

    images: int
    label_share: float
    accuracy: dict[str, float]
    frechet: float
    frechet_real: float
    kinds: dict[str, tuple[float, float]]
    spread: float
    least_spread: float
    classes: tuple[ClassQuality, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def evaluate_quality(
    generate: Generate,
    z_dim: int,
    dataset: Dataset,
    classifier: Classifier,
    *,
    images_per_class: int = 200,
    seed: int = 0,
    progress: Progress = silent,
) -> QualityReport:
    """Draw the same number of images of every class and hold them against the real ones.

    Args:
        generate: what draws, for example an open `sagan_deploy.runtime` generator.
        z_dim: length of its latents.
        dataset: the real images with their labels.
        classifier: trained on `dataset`.
        images_per_class: at least 2; the Fréchet distance wants more images than features (64) in all.
        seed: of the latents.
        progress: told how many images are drawn.

    Raises:
        ConfigError: there are no labels, or too few images are asked for.
        InputError: the images are not finite or of another size than the real ones.
    """
    if dataset.labels is None:
        raise ConfigError(f"{dataset.name} has no labels, so the quality per class cannot be measured")
    if images_per_class < 2:
        raise ConfigError(f"images_per_class (={images_per_class}) must be at least 2: one image has no diversity")
    labels = np.repeat(np.arange(dataset.num_classes, dtype=np.int64), images_per_class)
    fake = _draw(generate, sample_latents(seed, len(labels), z_dim), labels, progress)
    real = dataset.images
    if fake.shape[1:] != real.shape[1:]:
        raise InputError(f"the generator draws images of shape {fake.shape[1:]}, the real ones have {real.shape[1:]}")
    seen_fake, seen_real = classifier.predict(fake, progress=progress), classifier.predict(real)
    classes = tuple(
        _class_quality(
            name, labels == c, dataset.labels == c, c, (fake, real), (seen_fake, seen_real), tuple(dataset.attributes)
        )
        for c, name in enumerate(dataset.class_names)
    )
    half, other, drawn = _equal_parts(len(real), len(fake), seed)
    return QualityReport(
        images=len(labels),
        label_share=float((seen_fake.heads[LABEL] == labels).mean()),
        accuracy=dict(classifier.accuracy),
        frechet=frechet_distance(seen_fake.features[drawn], seen_real.features[half]),
        frechet_real=frechet_distance(seen_real.features[other], seen_real.features[half]),
        kinds={name: _mean_pair([c.kinds[name] for c in classes]) for name in dataset.attributes},
        spread=float(np.mean([c.spread for c in classes])),
        least_spread=min(c.spread for c in classes),
        classes=classes,
    )


def _draw(
    generate: Generate, z: NDArray[np.float32], labels: NDArray[np.int64], progress: Progress
) -> NDArray[np.float32]:
    parts = []
    for low in range(0, len(z), _PART):
        images = generate(z[low : low + _PART], labels[low : low + _PART])
        parts.append(as_float(images.transpose(0, 3, 1, 2)) if images.dtype == np.uint8 else images.astype(np.float32))
        progress("draw for the classifier", min(low + _PART, len(z)), len(z))
    images = np.concatenate(parts)
    if not np.isfinite(images).all():
        raise InputError("the generator draws NaN or infinite values, so there is no quality to measure")
    return images


def _class_quality(
    name: str,
    fake_rows: NDArray[np.bool_],
    real_rows: NDArray[np.bool_],
    label: int,
    images: tuple[NDArray[np.float32], NDArray[np.uint8]],
    seen: tuple[Prediction, Prediction],
    attributes: tuple[str, ...],
) -> ClassQuality:
    share = float((seen[0].heads[LABEL][fake_rows] == label).mean())
    # Both through the classifier, so that its mistakes weigh on both sides alike.
    kinds = {
        attribute: (
            effective_number(seen[0].heads[attribute][fake_rows]),
            effective_number(seen[1].heads[attribute][real_rows]),
        )
        for attribute in attributes
    }
    real_spread = spread(images[1][real_rows]) / _CODES if real_rows.sum() > 1 else 0.0
    relative = spread(images[0][fake_rows]) / real_spread if real_spread > 0 else float("nan")
    return ClassQuality(name, share, kinds, relative)


def _equal_parts(real: int, fake: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Rows of two halves of the real images and of the generated ones, as many of each.

    The distance falls with the number of images, so it compares like with like only at equal numbers.
    """
    random = np.random.default_rng(seed)
    order, drawn = random.permutation(real), random.permutation(fake)
    size = min(real // 2, fake)
    return order[:size], order[size : 2 * size], drawn[:size]


def _mean_pair(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return float(np.mean([a for a, _ in pairs])), float(np.mean([b for _, b in pairs]))
