"""Golden images: a few latents and what the float64 generator makes of them, to be replayed on any machine."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.bundle.manifest import image_shape
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import InputError

GOLDEN_NAME = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """Latents [k, z_dim] float32, labels [k] int64 (None: unconditional) and images [k, 3, h, w] float32 in [−1, 1]."""

    z: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    images: NDArray[np.float32]


def golden_bytes(golden: Golden) -> bytes:
    """The content of ``golden.npz``; equal arrays give equal bytes."""
    arrays: dict[str, NDArray[Any]] = {"z": golden.z, "images": golden.images}
    if golden.labels is not None:
        arrays["labels"] = golden.labels
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def parse_golden(payload: bytes, config: GeneratorConfig) -> Golden:
    """Read ``golden.npz`` and hold every array against the generator's config.

    Raises:
        InputError: no such file, an array is missing, of another type or shape, or not finite.
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own
        raise InputError(f"{GOLDEN_NAME} is no array archive that NumPy can read ({error}).") from error
    count = len(arrays.get("z", ()))
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "z": (np.float32, (count, config.z_dim)),
        "images": (np.float32, (count, *image_shape(config, "float"))),
    }
    if config.conditional:
        expected["labels"] = (np.int64, (count,))
    if set(arrays) != set(expected):
        raise InputError(f"{GOLDEN_NAME} holds {sorted(arrays)}; it must hold {sorted(expected)}.")
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape or not count:
            raise InputError(f"{GOLDEN_NAME} {name} is {found.dtype} {found.shape}, not {np.dtype(dtype)} {shape}.")
        if not np.isfinite(found).all():
            raise InputError(f"{GOLDEN_NAME} {name} holds NaN or infinite values.")
    return Golden(arrays["z"], arrays.get("labels"), arrays["images"])
