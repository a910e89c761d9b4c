"""An .npz file with the arrays ``images`` and, when there are classes, ``labels`` (and ``class_names``)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.training.data.dataset import Dataset

_EXPECTED = "uint8 [n, h, w, 3], [n, h, w, 1], [n, h, w] or [n, 3, h, w]"


def load_arrays(path: Path, image_size: int) -> Dataset:
    """Read an ``.npz``: ``images`` uint8, optional ``labels`` (integers from 0) and ``class_names`` (text).

    Grey images are repeated to three channels. Object arrays are pickles and are refused, since a pickle can run code.

    Raises:
        InputError: the file is truncated, holds objects, lacks ``images``, or its arrays do not agree.
    """
    arrays = _read(path)
    if "images" not in arrays:
        raise InputError(f"{path} has no array 'images'; it holds {', '.join(sorted(arrays)) or 'nothing'}.")
    images = _channels_first(path, arrays["images"])
    if images.shape[2:] != (image_size, image_size):
        raise InputError(
            f"{path} holds images of {images.shape[2]}x{images.shape[3]} pixels; this preset draws "
            f"{image_size}x{image_size}. Resize them or choose another --preset."
        )
    if "labels" not in arrays:
        return Dataset(path.stem, images)
    labels = arrays["labels"]
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: labels are {labels.dtype}; expected whole numbers from 0")
    if labels.shape != (len(images),):
        raise InputError(f"{path}: labels have shape {labels.shape}, but there are {len(images)} images")
    return Dataset(path.stem, images, labels.astype(np.int64), _class_names(path, arrays, labels))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            opened = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is a single array; expected an .npz with arrays 'images' and 'labels'.")
            return {name: opened[name] for name in opened.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path} holds Python objects (a pickle), which are not opened. Save plain arrays."
            ) from error
        raise InputError(f"{path} is not a whole .npz file ({error}).") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a whole .npz file ({error}).") from error


def _channels_first(path: Path, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise InputError(f"{path}: images are {images.dtype} of shape {images.shape}; expected {_EXPECTED}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] == 1:
        images = np.repeat(images, 3, axis=3)
    if images.ndim == 4 and images.shape[3] == 3:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"{path}: images have shape {images.shape}; expected {_EXPECTED}")
    return np.ascontiguousarray(images)


def _class_names(path: Path, arrays: dict[str, NDArray[Any]], labels: NDArray[Any]) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return tuple(str(i) for i in range(int(labels.max(initial=0)) + 1))
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(f"{path}: class_names are {names.dtype} of shape {names.shape}; expected a list of text")
    return tuple(str(name) for name in names)
