"""Batches and noise that depend on a seed and a step number, and on nothing else.

There is no random state to save: whoever knows the step knows the batch, so a run that is resumed sees the very
numbers that it would have seen. It is also the place where a run on several devices splits its batch: each takes
its own rows of the same global batch, so their number may change from session to session.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagan_deploy.training.data.dataset import Dataset

_ORDER, _FLIP, _NOISE, _AUGMENT = 0, 1, 2, 3


class Order:
    """Which rows make batch number `index`: an endless row of epochs, each in an order of its own, cut into batches."""

    def __init__(self, count: int, batch_size: int, *, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._permuted: NDArray[np.int64] = np.empty(0, np.int64)

    def rows(self, index: int) -> NDArray[np.int64]:
        """Row numbers [batch_size] in 0 … count − 1. Batches with consecutive numbers are cheap."""
        places = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        epochs, within = np.divmod(places, self.count)
        rows = np.empty(self.batch_size, np.int64)
        # A batch may begin in one epoch and end in the next (or span several, when there are few images).
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            inside = epochs == epoch
            rows[inside] = self._permutation(epoch)[within[inside]]
        return rows

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch, self._permuted = epoch, _stream(self._seed, _ORDER, epoch).permutation(self.count)
        return self._permuted


class BalancedOrder:
    """Every class equally often: rounds of all classes, each in an order of its own, and each class its own epochs.

    The generator draws its labels uniformly; with classes of different sizes the discriminator could otherwise tell
    real from drawn by the class alone.
    """

    def __init__(self, labels: NDArray[np.int64], batch_size: int, *, seed: int) -> None:
        self.batch_size = batch_size
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._rounds = Order(len(self._members), 1, seed=seed)
        self._orders = [Order(len(rows), 1, seed=seed + 1 + i) for i, rows in enumerate(self._members)]

    def rows(self, index: int) -> NDArray[np.int64]:
        """Row numbers [batch_size]."""
        return np.array([self._row(index * self.batch_size + i) for i in range(self.batch_size)], np.int64)

    def _row(self, place: int) -> int:
        chosen = int(self._rounds.rows(place)[0])
        members, order = self._members[chosen], self._orders[chosen]
        return int(members[order.rows(place // len(self._members))[0]])


class Batches:
    """Real images and their labels by number; of several processes each sees its `rows` of every batch."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int,
        flip: bool = False,
        balanced: bool = False,
        rows: slice = slice(None),
    ) -> None:
        self._dataset = dataset
        self._order: Order | BalancedOrder = Order(len(dataset), batch_size, seed=seed)
        if balanced and dataset.labels is not None:
            self._order = BalancedOrder(dataset.labels, batch_size, seed=seed)
        self._seed = seed
        self._flip = flip
        self._mine = rows

    def batch(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Batch number `index`: images [rows, 3, h, w] uint8 and labels [rows] int64 (None without classes)."""
        rows = self._order.rows(index)
        mirrored = _stream(self._seed, _FLIP, index).random(len(rows))[self._mine] < 0.5 if self._flip else None
        rows = rows[self._mine]
        images = self._dataset.images[rows]
        if mirrored is not None:
            images[mirrored] = images[mirrored, :, :, ::-1]
        labels = self._dataset.labels
        return torch.from_numpy(images), None if labels is None else torch.from_numpy(labels[rows])


def noise(seed: int, index: int, count: int, z_dim: int, num_classes: int) -> tuple[Tensor, Tensor | None]:
    """Latents [count, z_dim] ~ N(0, 1) and labels [count] uniform over the classes (None without), number `index`."""
    stream = _stream(seed, _NOISE, index)
    z = torch.from_numpy(stream.standard_normal((count, z_dim), dtype=np.float32))
    return z, torch.from_numpy(stream.integers(num_classes, size=count)) if num_classes else None


def augmentation_draws(seed: int, index: int, count: int, numbers: int) -> Tensor:
    """Uniform numbers [count, numbers] in [0, 1), number `index`."""
    return torch.from_numpy(_stream(seed, _AUGMENT, index).random((count, numbers), dtype=np.float32))


def _stream(seed: int, kind: int, index: int) -> np.random.Generator:
    # Counter-based (Philox): one stream per purpose and index. The second key word keeps clear of sagan_deploy.latents.
    return np.random.Generator(np.random.Philox(key=[seed, 1], counter=[0, 0, kind, index]))
