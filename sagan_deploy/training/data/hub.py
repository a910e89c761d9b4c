"""Data sets of Hugging Face, through their own library, which is optional: by name, or from a folder that it saved."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require
from sagan_deploy.training.data.collect import Picture, Reading, collect
from sagan_deploy.training.data.dataset import Dataset

PREFIX = "huggingface:"


def load_hub(spec: str, how: Reading) -> Dataset:
    """Read ``huggingface:NAME@SPLIT``; the split is ``train`` unless said. NAME is what `datasets.load_dataset` takes,
    or a folder that `save_to_disk` wrote.

    The first image column is taken, and the class from the first column of class labels, if there is one.

    Raises:
        MissingError: the package `datasets` is not installed.
        InputError: there is no such data set or split, or it holds no images.
    """
    library = require("datasets", "datasets")
    name, _, split = spec.removeprefix(PREFIX).partition("@")
    rows = _rows(library, name, split or "train", spec)
    images = [column for column, kind in rows.features.items() if isinstance(kind, library.Image)]
    if not images:
        raise InputError(f"--data {spec} has the columns {', '.join(rows.column_names)}; none of them holds images.")
    labels = [column for column, kind in rows.features.items() if isinstance(kind, library.ClassLabel)]
    # Undecoded: what a broken image means is decided in one place for all sources.
    rows = rows.cast_column(images[0], library.Image(decode=False)).select_columns([images[0], *labels[:1]])
    return collect(name.rsplit("/", 1)[-1], _pictures(rows, images[0], labels, spec), how, len(rows))


def _rows(library: Any, name: str, split: str, spec: str) -> Any:
    saved = any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    try:
        found = library.load_from_disk(name) if saved else library.load_dataset(name, split=split)
        return found[split] if isinstance(found, library.DatasetDict) else found
    except Exception as error:  # the library's errors share no base: of its own, of the network, of the file system
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--data {spec} cannot be loaded ({first}). Expected {PREFIX}NAME or {PREFIX}NAME@SPLIT with a name that "
            "datasets.load_dataset knows, or a folder that save_to_disk wrote."
        ) from error


def _pictures(rows: Any, image: str, labels: list[str], spec: str) -> Iterator[Picture]:
    for number, row in enumerate(rows):
        stored = row[image]
        if stored is None:
            raise InputError(f"--data {spec}: row {number} has no image.")
        source = io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else Path(stored["path"])
        yield Picture(source, _class_of(rows, row, labels), f"{spec}, row {number}")


def _class_of(rows: Any, row: dict[str, Any], labels: list[str]) -> str | None:
    if not labels or row[labels[0]] is None or row[labels[0]] < 0:  # -1 is the library's "no label"
        return None
    return str(rows.features[labels[0]].int2str(row[labels[0]]))
