"""A folder of images: every sub-folder is a class."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.dataset import Dataset

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_folder(folder: Path, image_size: int, *, progress: Progress = silent) -> Dataset:
    """Read all images below `folder`; classes are its sub-folders in alphabetical order.

    Every image is scaled so that its shorter side fits and cut to the square in its middle. Without sub-folders the
    images have no labels. Everything is held in memory: n · 3 · image_size² bytes.

    Raises:
        InputError: there are no images, an image cannot be decoded, or images lie both beside and in sub-folders.
    """
    loose = _images_in(folder, recursive=False)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files_of = {c.name: files for c in classes if (files := _images_in(c, recursive=True))}
    if loose and files_of:
        raise InputError(
            f"{folder} holds images both directly ({loose[0].name}) and in sub-folders. Sort them into classes."
        )
    files = loose or [file for found in files_of.values() for file in found]
    if not files:
        raise InputError(f"{folder} holds no images ({' '.join(SUFFIXES)}), neither directly nor in sub-folders.")
    images = np.empty((len(files), 3, image_size, image_size), np.uint8)
    for i, file in enumerate(files):
        images[i] = read_image(file, image_size)
        progress("read images", i + 1, len(files))
    if loose:
        return Dataset(folder.name, images)
    labels = np.repeat(np.arange(len(files_of), dtype=np.int64), [len(found) for found in files_of.values()])
    return Dataset(folder.name, images, labels, tuple(files_of))


def read_image(file: Path, image_size: int) -> NDArray[np.uint8]:
    """One image file as [3, image_size, image_size] RGB: scaled to the shorter side, then cut to the middle.

    Raises:
        InputError: the file cannot be decoded as an image.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # A palette with transparency or a huge picture is decoded all the same; the user cannot act on the warning.
            warnings.simplefilter("ignore")
            with Image.open(file) as opened:
                # Transparent pixels hold any colour at all; over white they look as they do in a viewer.
                picture = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        fitted = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a whole image ({error}). Remove it or put a good copy there.") from error
    return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


def _images_in(folder: Path, *, recursive: bool) -> list[Path]:
    # Sorted, because the order of a directory differs between file systems and the run must not.
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
