"""What every source of images becomes: arrays that agree with each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError

_HASHED_IMAGES = 1024


@dataclass(frozen=True)
class Dataset:
    """Images [n, 3, h, w] uint8 and, unless unlabelled, labels [n] int64 in 0 … len(class_names) − 1.

    `attributes` holds what else is known of every image, as int64 [n] by name (the robots' body shape): nothing is
    trained on it, so it can tell whether the generator drew all kinds or only some. `attribution` credits the makers;
    `source` is what `open_dataset` finds the same images by again; `preparation` says how files became these pixels,
    for the checkpoint's provenance.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    attribution: str = ""
    attributes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    source: str = ""
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = self.images
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
            raise InputError(
                f"{self.name}: images are {images.dtype} of shape {images.shape}; expected uint8 [n, 3, h, w], n > 0"
            )
        if (self.labels is None) == bool(self.class_names):
            raise InputError(f"{self.name}: labels and class names must be given together")
        if self.labels is not None:
            _check_labels(self.name, self.labels, len(images), len(self.class_names))
        for key, values in self.attributes.items():
            _check_labels(f"{self.name}, attribute {key!r}", values, len(images), int(values.max(initial=0)) + 1)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 without labels."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels; the sources make all images square."""
        return int(self.images.shape[2])

    def sample(self, most: int, *, seed: int = 0) -> Dataset:
        """All images in their order or, if there are more than `most`, so many drawn by chance."""
        if len(self) <= most:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:most])
        labels = None if self.labels is None else self.labels[rows]
        attributes = {name: values[rows] for name, values in self.attributes.items()}
        return replace(self, images=self.images[rows], labels=labels, attributes=attributes)

    def fingerprint(self) -> str:
        """A hash of shape, labels and up to 1024 evenly spaced images: enough to notice that the data changed."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        step = max(1, len(self) // _HASHED_IMAGES)
        digest.update(np.ascontiguousarray(self.images[::step]).tobytes())
        return digest.hexdigest()


def without_classes(data: Dataset) -> Dataset:
    """The same images without labels."""
    return replace(data, labels=None, class_names=())


def _check_labels(name: str, labels: NDArray[Any], count: int, classes: int) -> None:
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise InputError(
            f"{name}: labels are {labels.dtype} of shape {labels.shape}; expected int64 of shape ({count},)"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise InputError(f"{name}: the label of image {wrong[0]} is {labels[wrong[0]]}; expected 0..{classes - 1}")
