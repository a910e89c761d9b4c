"""A folder of pixels that were read once: for data larger than memory, and for many runs or processes on the same data.

``images.npy`` is mapped, so processes of one machine share what the system holds of it; ``labels.npz`` has the labels
and attributes, ``dataset.json`` the rest.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import InputError
from sagan_deploy.files import new_folder, read_bytes, write_bytes, write_text
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.data.pixels import map_pixels, pixel_store

FACTS_NAME, IMAGES_NAME, LABELS_NAME = "dataset.json", "images.npy", "labels.npz"
_FORMAT = "sagan-deploy/dataset/1"
_LABELS = "labels"


def prepare(read: Callable[[Path], Dataset], out: Path, *, force: bool = False) -> Dataset:
    """Write what `read` returns into a new folder.

    Args:
        read: given a file that it may put the pixels into, as `open_dataset` does; its images may be elsewhere, too.
        out: the folder.
        force: replace such a folder.

    Raises:
        InputError: `out` exists, or the disk refuses or is full; nothing is left behind then.
    """
    out = Path(out)
    with new_folder(out, marker=FACTS_NAME, force=force) as folder:
        data = read(folder / IMAGES_NAME)
        if not (folder / IMAGES_NAME).exists():
            with pixel_store(data.image_size, folder / IMAGES_NAME) as store:
                for image in data.images:
                    store.add(image)
                store.images()
        arrays = {f"attribute/{name}": values for name, values in data.attributes.items()}
        if data.labels is not None:
            arrays[_LABELS] = data.labels
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **arrays)
        write_bytes(folder / LABELS_NAME, packed.getbuffer())
        facts = {
            "format": _FORMAT, "name": data.name, "class_names": data.class_names, "attribution": data.attribution,
            "preparation": data.preparation, "fingerprint": data.fingerprint(),
        }  # fmt: skip
        write_text(folder / FACTS_NAME, json.dumps(facts, indent=2))
    return replace(load_prepared(out, data.image_size), source=str(out.resolve()))


def is_prepared(folder: Path) -> bool:
    """Whether `prepare` wrote this folder."""
    return (folder / FACTS_NAME).is_file() and (folder / IMAGES_NAME).is_file()


def load_prepared(folder: Path, image_size: int) -> Dataset:
    """Open such a folder; its pixels stay on the disk until they are used.

    Raises:
        InputError: its parts are damaged, of different data sets, or of another image size.
    """
    try:
        facts: dict[str, Any] = json.loads(read_bytes(folder / FACTS_NAME))
        if facts.get("format") != _FORMAT:
            raise InputError(f"{folder / FACTS_NAME} says format {facts.get('format')!r}; expected {_FORMAT!r}.")
        with np.load(io.BytesIO(read_bytes(folder / LABELS_NAME)), allow_pickle=False) as opened:
            arrays: dict[str, NDArray[Any]] = {name: opened[name] for name in opened.files}
        data = Dataset(
            facts["name"],
            map_pixels(folder / IMAGES_NAME),
            arrays.pop(_LABELS, None),
            tuple(facts["class_names"]),
            attribution=facts["attribution"],
            attributes={name.partition("/")[2]: values for name, values in arrays.items()},
            preparation=facts["preparation"],
        )
    except (ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{folder} is not a whole prepared data set ({error}). Prepare it again.") from error
    if data.fingerprint() != facts["fingerprint"]:
        raise InputError(f"{folder} holds other images or labels than were prepared there. Prepare it again.")
    if data.image_size != image_size:
        raise InputError(
            f"{folder} holds images of {data.image_size}x{data.image_size} pixels; this preset draws "
            f"{image_size}x{image_size}. Prepare the images with --size {image_size}, or choose another --preset."
        )
    return data
