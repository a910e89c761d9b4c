"""Images one by one, as files or bytes, become a data set of one size; what cannot be read is counted and named."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.training.data.dataset import Dataset

# How files become pixels; written into every checkpoint.
POLICY = {"resize": "shorter side, Lanczos", "crop": "middle square", "transparency": "over white"}


class Collector:
    """Collects images and the names of their classes; the classes are in alphabetical order in the end.

    Args:
        name: of the data set.
        image_size: height and width of all images.
        corrupt_limit: so many images may be unreadable; they are left out.
    """

    def __init__(self, name: str, image_size: int, corrupt_limit: int = 0) -> None:
        self._name = name
        self._size = image_size
        self._limit = corrupt_limit
        self._images: list[NDArray[np.uint8]] = []
        self._classes: list[str | None] = []
        self._left_out: list[str] = []

    def add(self, source: Path | IO[bytes], label: str | None, *, name: str) -> None:
        """One image; `name` is what an error calls it.

        Raises:
            InputError: it cannot be read, and no more of those may be left out.
        """
        try:
            image = read_image(source, self._size, name=name)
        except InputError as error:
            self._left_out.append(name)
            if len(self._left_out) > self._limit:
                raise InputError(self._too_many(error)) from error
            return
        self._images.append(image)
        self._classes.append(label)

    def dataset(self) -> Dataset:
        """All of them.

        Raises:
            InputError: there are none, or only some have a class.
        """
        if not self._images:
            raise InputError(f"{self._name} holds no image that can be read.")
        preparation = {"preparation": POLICY | {"size": self._size}}
        if self._left_out:
            preparation |= {"left_out": list(self._left_out)}  # type: ignore[dict-item]
        names = sorted({label for label in self._classes if label is not None})
        images = np.stack(self._images)
        if not names:
            return Dataset(self._name, images, preparation=preparation)
        if None in self._classes:
            raise InputError(f"{self._name} has classes for some images only. Give all of them one, or none.")
        numbers = {label: i for i, label in enumerate(names)}
        labels = np.array([numbers[label] for label in self._classes if label is not None], np.int64)
        return Dataset(self._name, images, labels, tuple(names), preparation=preparation)

    def _too_many(self, error: InputError) -> str:
        if not self._limit:
            return f"{error} To leave out up to N such images: --corrupt-limit N."
        return (
            f"{len(self._left_out)} images cannot be read, which is more than --corrupt-limit {self._limit}: "
            f"{', '.join(self._left_out[:5])}{' ...' if len(self._left_out) > 5 else ''}"
        )


def read_image(source: Path | IO[bytes], image_size: int, *, name: str | None = None) -> NDArray[np.uint8]:
    """One image file as [3, image_size, image_size] RGB: scaled to the shorter side, then cut to the middle.

    Raises:
        InputError: the file cannot be decoded as an image.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # A palette with transparency or a huge picture is decoded all the same; the user cannot act on the warning.
            warnings.simplefilter("ignore")
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
