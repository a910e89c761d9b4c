"""The latents that a candidate is judged on, and the batches in which it gets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.latents import sample_latents

_ODD = 7
_REPEATS = 4


@dataclass(frozen=True)
class Pool:
    """The distinct rows that need a reference: latents [n, z_dim] float32 and labels [n] int64 (None: none)."""

    z: NDArray[np.float32]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.z)

    def rounded_to_half(self) -> Pool:
        """The same with latents that float16 holds exactly, so that files which read float16 see the same numbers."""
        return Pool(self.z.astype(np.float16).astype(np.float32), self.labels)

    def spread(self, count: int) -> NDArray[np.int64]:
        """Up to `count` rows from all over the pool, the first and the last among them."""
        return np.unique(np.linspace(0, len(self) - 1, count).round().astype(np.int64))

    def batch(self, case: Case) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """The latents and labels of a case."""
        rows = list(case.rows)
        return self.z[rows], None if self.labels is None else self.labels[rows]


@dataclass(frozen=True)
class Case:
    """One batch: which rows of the pool, in which order."""

    name: str
    rows: tuple[int, ...]


def classes_are_told_by_numbers(config: GeneratorConfig) -> bool:
    """Whether `sagan_deploy.parity.classes` can hold every class against the others without drawing it.

    It fits three numbers to a column of a class table, or one per entry of an embedding, and needs clearly more
    classes than that; fewer are drawn, each of them.
    """
    fitted = max(3, config.embedding_dim + 1 if config.embedding_dim else 0)
    return config.conditional and config.num_classes >= 2 * (fitted + 1)


def default_count(config: GeneratorConfig) -> int:
    """How many normal latents are judged when nobody says: float64 references of large images take seconds each."""
    return {32: 64, 64: 32}.get(max(32, config.image_size), 8)


def make_cases(config: GeneratorConfig, *, seed: int, count: int) -> tuple[Pool, tuple[Case, ...]]:
    """Normal, truncated, zero and extreme latents, in batches of one, of odd size, permuted and repeated.

    All rows of the first case come again in "permuted", so that a row can be held against itself.

    Args:
        config: the generator.
        seed: of the latents.
        count: how many normal latents, at least 1. Their labels cover all classes, or as many as fit; of the others
            each is drawn once more where numbers cannot tell them apart (`classes_are_told_by_numbers`).

    Raises:
        ConfigError: `count` is not positive.
    """
    if count < 1:
        raise ConfigError(f"count (={count}) must be at least 1")
    normal = sample_latents(seed, count, config.z_dim)
    few = max(1, count // 8)
    truncated = sample_latents(seed, few, config.z_dim, truncation=0.5, start=count)
    zeros = np.zeros((1, config.z_dim), np.float32)
    labels = _covering_labels(config, count, count + few + 3)
    missing = _missing_classes(config, labels)
    others = sample_latents(seed, len(missing), config.z_dim, start=count + few + 2)
    z = np.concatenate((normal, truncated, zeros, _with_four_sigma(seed, count + few, config.z_dim), others))
    pool = Pool(z, None if labels is None else np.concatenate((labels, missing)))
    rows = list(range(len(z)))
    normal_rows, truncated_rows, rest = rows[:count], rows[count : count + few], rows[count + few :]
    cases = [
        Case("normal", tuple(normal_rows)),
        Case("batch of one", (0,)),
        Case("odd batch", tuple(normal_rows[i % count] for i in range(_ODD))),
        Case("permuted", tuple(reversed(normal_rows))),
        # A value that leaks from one image to the next shows when all of them should be equal.
        Case("repeated", (0,) * _REPEATS),
        Case("truncated 0.5", tuple(truncated_rows)),
        Case("zeros", (rest[0],)),
        Case("±4σ", tuple(rest[1:3])),
    ]
    if len(missing):
        cases.append(Case("other classes", tuple(rest[3:])))
    return pool, tuple(cases)


def _with_four_sigma(seed: int, start: int, z_dim: int) -> NDArray[np.float32]:
    """Two normal latents whose largest entry is pushed out to +4 and to −4, which sampling reaches now and then.

    All entries at ±4 would be 4·√z_dim long, where a normal latent is √z_dim ± 0.7: no sampler ever draws that, and
    networks that are multiplicative in z (BigGAN) overflow half precision on it without anything being wrong.
    """
    z = sample_latents(seed, 2, z_dim, start=start)
    z[[0, 1], np.abs(z).argmax(axis=1)] = 4.0, -4.0
    return z


def _covering_labels(config: GeneratorConfig, count: int, total: int) -> NDArray[np.int64] | None:
    if not config.conditional:
        return None
    classes = config.num_classes
    # Every class in turn where they fit; otherwise evenly spread, the first and the last included.
    spread = np.arange(count) % classes if classes <= count else np.linspace(0, classes - 1, count).round()
    return np.concatenate((spread, np.arange(total - count) % classes)).astype(np.int64)


def _missing_classes(config: GeneratorConfig, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The classes that nothing else would look at."""
    if labels is None or classes_are_told_by_numbers(config):
        return np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(config.num_classes), labels)
