"""The quality of a run while it goes, by the small classifier: what chooses its best generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import ConfigError
from sagan_deploy.model.generator import Generator
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.quality import MOST_IMAGES, QualityReport, evaluate_quality, train_classifier
from sagan_deploy.training.quality.classifier import Classifier
from sagan_deploy.training.samples import draw

_IMAGES = 1000


class Judge:
    """Measures generators against `data` on latents that never change; trains its classifier when first asked.

    Raises:
        ConfigError: the images have no classes.
    """

    def __init__(self, data: Dataset, *, seed: int) -> None:
        if not data.num_classes:
            raise ConfigError(f"evaluate_every needs classes, which {data.name} has not: the classifier learns them")
        self._data, self._seed = data.sample(MOST_IMAGES), seed
        self._classifier: Classifier | None = None

    def measure(self, generator: Generator) -> QualityReport:
        """About a thousand images of a generator in evaluation mode."""
        if self._classifier is None:
            self._classifier = train_classifier(self._data, seed=self._seed)

        def drawn(z: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
            return draw(generator, z, labels)

        return evaluate_quality(
            drawn,
            generator.config.z_dim,
            self._data,
            self._classifier,
            images_per_class=max(10, _IMAGES // self._data.num_classes),
            seed=self._seed,
        )
