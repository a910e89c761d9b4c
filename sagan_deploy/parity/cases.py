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

    def batch(self, case: Case) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """The latents and labels of a case."""
        rows = list(case.rows)
        return self.z[rows], None if self.labels is None else self.labels[rows]


@dataclass(frozen=True)
class Case:
    """One batch: which rows of the pool, in which order."""

    name: str
    rows: tuple[int, ...]


def default_count(config: GeneratorConfig) -> int:
    """How many normal latents are judged when nobody says: float64 references of large images take seconds each."""
    return {32: 64, 64: 32}.get(max(32, config.image_size), 8)


def make_cases(config: GeneratorConfig, *, seed: int, count: int) -> tuple[Pool, tuple[Case, ...]]:
    """Normal, truncated, zero and extreme latents, in batches of one, of odd size, permuted and repeated.

    Args:
        config: the generator.
        seed: of the latents.
        count: how many normal latents, at least 1. Their labels cover all classes, or as many as fit.

    Raises:
        ConfigError: `count` is not positive.
    """
    if count < 1:
        raise ConfigError(f"count (={count}) must be at least 1")
    normal = sample_latents(seed, count, config.z_dim)
    few = max(1, count // 8)
    truncated = sample_latents(seed, few, config.z_dim, truncation=0.5, start=count)
    zeros = np.zeros((1, config.z_dim), np.float32)
    z = np.concatenate((normal, truncated, zeros, _with_four_sigma(seed, count + few, config.z_dim)))
    pool = Pool(z, _covering_labels(config, count, len(z)))
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
        Case("±4σ", tuple(rest[1:])),
    ]
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
