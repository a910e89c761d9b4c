"""A small classifier trained on the real images: it says which class (and which body) an image shows.

It stands in for the Inception network of the literature, whose weights would have to be downloaded and which has
never seen such pictures. About 150 thousand parameters; its accuracy on images it was not trained on is reported
beside everything that it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sagan_deploy.errors import ConfigError
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.batches import Order
from sagan_deploy.training.data.dataset import Dataset

LABEL = "label"
_BATCH = 64
_HOLD_OUT = 0.15
_RATE = 3e-3


@dataclass(frozen=True)
class Prediction:
    """For n images: the likeliest class per head, int64 [n] by name, and features [n, d] float64."""

    heads: dict[str, NDArray[np.int64]]
    features: NDArray[np.float64]


@dataclass(frozen=True)
class Classifier:
    """A trained network with one head for the label and one per attribute, and each head's hold-out accuracy."""

    network: ClassifierNetwork
    accuracy: Mapping[str, float]

    @torch.no_grad()
    def predict(self, images: NDArray[Any], *, progress: Progress = silent) -> Prediction:
        """Classify images [n, 3, h, w], float32 in [−1, 1] or uint8."""
        features, heads = [], []
        for low in range(0, len(images), 4 * _BATCH):
            hidden = self.network.features(torch.from_numpy(as_float(images[low : low + 4 * _BATCH])))
            features.append(hidden.double().numpy())
            heads.append({name: head(hidden).argmax(dim=1).numpy() for name, head in self.network.heads.items()})
            progress("classify", min(low + 4 * _BATCH, len(images)), len(images))
        joined = {name: np.concatenate([part[name] for part in heads]) for name in self.network.heads}
        return Prediction(joined, np.concatenate(features))


class ClassifierNetwork(nn.Module):
    """Four 3x3 convolutions with batch norm, down to a quarter of the resolution, then one linear layer per head."""

    def __init__(self, sizes: Mapping[str, int], width: int = 24, features: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(3, width, stride=2),
            *_layer(width, 2 * width, stride=2),
            *_layer(2 * width, 4 * width, stride=2),
            # Position matters (a body is known by where its shoulders end), so the last map is not averaged away.
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(4 * width * 16, features),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(features, size) for name, size in sizes.items()})

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) → (n, features)."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per head."""
        hidden = self.features(images)
        return {name: head(hidden) for name, head in self.heads.items()}


def train_classifier(dataset: Dataset, *, epochs: int = 4, seed: int = 0, progress: Progress = silent) -> Classifier:
    """Train on 85 % of the images and measure on the rest.

    Args:
        dataset: images with labels.
        epochs: how often every image is seen.
        seed: of split, weights and order.
        progress: told after every batch.

    Raises:
        ConfigError: the images have no labels, or there are too few of them.
    """
    if dataset.labels is None:
        raise ConfigError(f"{dataset.name} has no labels, so there is nothing that a classifier could learn")
    held = int(_HOLD_OUT * len(dataset))
    if held < dataset.num_classes:
        raise ConfigError(f"{dataset.name} has {len(dataset)} images: too few to hold some of every class back")
    targets = {LABEL: dataset.labels, **dataset.attributes}
    sizes = {name: int(values.max()) + 1 for name, values in targets.items()}
    order = np.random.default_rng(seed).permutation(len(dataset))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ClassifierNetwork(sizes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _fit(network, dataset, targets, order[held:], epochs, seed, progress)
    network.eval().requires_grad_(False)
    classifier = Classifier(network, {})
    rows = order[:held]
    prediction = classifier.predict(dataset.images[rows])
    accuracy = {name: float((prediction.heads[name] == values[rows]).mean()) for name, values in targets.items()}
    return Classifier(network, accuracy)


def as_float(images: NDArray[Any]) -> NDArray[np.float32]:
    """8-bit images in [−1, 1], the inverse of `sagan_deploy.images.to_uint8` but for the order of the axes.

    Others are taken to be there already.
    """
    if images.dtype != np.uint8:
        return images.astype(np.float32, copy=False)
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def _fit(
    network: ClassifierNetwork,
    dataset: Dataset,
    targets: Mapping[str, NDArray[np.int64]],
    rows: NDArray[np.int64],
    epochs: int,
    seed: int,
    progress: Progress,
) -> None:
    order = Order(len(rows), _BATCH, seed=seed)
    steps = epochs * len(rows) // _BATCH
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=max(steps, 2))
    network.train()
    for step in range(steps):
        picked = rows[order.rows(step)]
        logits = network(_shifted(torch.from_numpy(as_float(dataset.images[picked])), step))
        losses = [F.cross_entropy(logits[name], torch.from_numpy(values[picked])) for name, values in targets.items()]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress("train classifier", step + 1, steps)


def _shifted(images: Tensor, step: int) -> Tensor:
    # Whole batches move by up to a pixel, so that a generated shape which sits one pixel aside is still known.
    down, right = step % 3, step // 3 % 3
    height, width = images.shape[2:]
    return F.pad(images, (1, 1, 1, 1), mode="replicate")[:, :, down : down + height, right : right + width]


def _layer(channels_in: int, channels_out: int, *, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
