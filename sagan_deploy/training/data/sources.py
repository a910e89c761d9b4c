"""One word for all sources: the name of a built-in set, a folder, or a file of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.arrays import load_arrays
from sagan_deploy.training.data.collect import Reading
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.data.digits import load_digits
from sagan_deploy.training.data.folder import load_folder, load_zip
from sagan_deploy.training.data.hub import PREFIX, load_hub
from sagan_deploy.training.data.prepared import is_prepared, load_prepared
from sagan_deploy.training.data.robots import compose_robots
from sagan_deploy.training.data.shards import load_shards

BUILT_IN: dict[str, Callable[[int, Progress], Dataset]] = {
    "robots": lambda size, progress: compose_robots(size, progress=progress),
    "digits": lambda size, progress: load_digits(size),
}


def open_dataset(
    spec: str | Path,
    image_size: int,
    *,
    corrupt_limit: int = 0,
    pixels: Path | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Read images into memory; those of a prepared folder stay on the disk.

    Args:
        spec: ``robots`` or ``digits``; a folder with one sub-folder of images per class, or a ``.zip`` of one; an
            ``.npz`` file; ``NAME-{000..009}.tar``, WebDataset shards; or ``huggingface:NAME@SPLIT``;
            or a folder that `prepare` wrote.
        image_size: height and width that the network wants; everything is resized to it, but arrays must have it.
        corrupt_limit: so many image files may be unreadable; they are left out and named in the result.
        pixels: a file to write instead of memory, where images are decoded one by one.
        progress: told how many images are read.

    Raises:
        InputError: a file is corrupt, of another kind, or its parts do not agree.
        ConfigError: the built-in set does not come in this size.
        MissingError: the package with the built-in set, or of this kind of data, is not installed.
    """
    if image_size < 1:
        raise ConfigError(f"image_size (={image_size}) must be at least 1")
    if str(spec) in BUILT_IN:
        return replace(BUILT_IN[str(spec)](image_size, progress), source=str(spec))
    how = Reading(image_size, corrupt_limit, pixels, progress)
    if str(spec).startswith(PREFIX):
        return replace(load_hub(str(spec), how), source=str(spec))
    path = Path(spec)
    if path.is_dir() and is_prepared(path):
        return replace(load_prepared(path, image_size), source=str(path.resolve()))
    if path.is_dir():
        return replace(load_folder(path, how), source=str(path.resolve()))
    if path.suffix.lower() == ".tar":
        return replace(load_shards(str(spec), how), source=str(path.resolve()))
    if not path.exists():
        raise InputError(
            f"--data {spec}: no such folder or file, and no built-in set of that name. "
            f"Built in: {', '.join(BUILT_IN)}. A folder has one sub-folder of images per class."
        )
    if path.suffix.lower() == ".zip":
        return replace(load_zip(path, how), source=str(path.resolve()))
    if path.suffix.lower() == ".npz":
        return replace(load_arrays(path, image_size), source=str(path.resolve()))
    raise InputError(
        f"--data {spec} is neither a folder of images nor a .zip of one, nor an .npz file with arrays 'images' and "
        f"'labels', nor .tar shards, nor {PREFIX}NAME."
    )
