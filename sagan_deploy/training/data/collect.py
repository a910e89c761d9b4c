"""Images one by one, as files or bytes, become a data set of one size; what cannot be read is counted and named."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.data.pixels import pixel_store

# How files become pixels; written into every checkpoint.
POLICY = {"resize": "shorter side, Lanczos", "crop": "middle square", "transparency": "over white"}
_THREADS = min(8, os.cpu_count() or 1)  # decoding and resizing leave Python's lock


@dataclass(frozen=True)
class Reading:
    """How images are read: to which height and width, how many may be unreadable and are left out, where they go.

    `pixels` is a file to be written instead of memory; `progress` is told about every image.
    """

    size: int
    corrupt_limit: int = 0
    pixels: Path | None = None
    progress: Progress = silent


@dataclass(frozen=True)
class Picture:
    """An image that is not decoded yet, the name of its class, if any, and what an error calls it."""

    source: Path | IO[bytes]
    label: str | None
    name: str


def collect(name: str, pictures: Iterable[Picture], how: Reading, total: int | None = None) -> Dataset:
    """Decode all pictures, in their order; the classes are in alphabetical order in the end.

    Args:
        name: of the data set.
        pictures: taken one by one, a few ahead of those that are decoded.
        how: to read them.
        total: how many there are, if that is known, for the progress.

    Raises:
        InputError: there are none, too many cannot be read, or only some have a class.
    """
    labels: list[str | None] = []
    left_out: list[str] = []
    with warnings.catch_warnings(), pixel_store(how.size, how.pixels) as store:
        # A palette with transparency or a huge picture is decoded all the same; the user cannot act on the warning.
        warnings.simplefilter("ignore")
        for number, (picture, decoded) in enumerate(_decoded(pictures, how.size), start=1):
            try:
                store.add(decoded.result())
                labels.append(picture.label)
            except InputError as error:
                left_out.append(picture.name)
                if len(left_out) > how.corrupt_limit:
                    raise InputError(_too_many(error, left_out, how.corrupt_limit)) from error
            how.progress("read images", number, total)
        if not labels:
            raise InputError(f"{name} holds no image that can be read.")
        images = store.images()
    preparation: dict[str, Any] = {"preparation": POLICY | {"size": how.size}}
    if left_out:
        preparation["left_out"] = left_out
    names = sorted({label for label in labels if label is not None})
    if not names:
        return Dataset(name, images, preparation=preparation)
    if None in labels:
        raise InputError(f"{name} has classes for some images only. Give all of them one, or none.")
    numbers = {label: i for i, label in enumerate(names)}
    rows = np.array([numbers[label] for label in labels if label is not None], np.int64)
    return Dataset(name, images, rows, tuple(names), preparation=preparation)


def _decoded(pictures: Iterable[Picture], size: int) -> Iterator[tuple[Picture, Future[NDArray[np.uint8]]]]:
    """Every picture with its pixels to be waited for; only a few are under way, so that memory does not fill."""
    waiting: deque[tuple[Picture, Future[NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for picture in pictures:
            waiting.append((picture, pool.submit(read_image, picture.source, size, name=picture.name)))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft()
        yield from waiting


def _too_many(error: InputError, left_out: list[str], limit: int) -> str:
    if not limit:
        return f"{error} To leave out up to N such images: --corrupt-limit N."
    return (
        f"{len(left_out)} images cannot be read, which is more than --corrupt-limit {limit}: "
        f"{', '.join(left_out[:5])}{' ...' if len(left_out) > 5 else ''}"
    )


def read_image(source: Path | IO[bytes], image_size: int, *, name: str | None = None) -> NDArray[np.uint8]:
    """One image file as [3, image_size, image_size] RGB: scaled to the shorter side, then cut to the middle.

    Raises:
        InputError: the file cannot be decoded as an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as opened:
            # Transparent pixels hold any colour at all; over white they look as they do in a viewer.
            picture = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        fitted = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name or source} is not a whole image ({error}). Remove it or put a good copy there."
        ) from error
    return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))
