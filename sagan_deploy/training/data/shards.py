"""WebDataset shards and Hugging Face data sets, through their own libraries, which are optional."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require
from sagan_deploy.progress import Progress, silent
from sagan_deploy.training.data.collect import Collector
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.data.folder import SUFFIXES

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label", "class")


def load_shards(pattern: str, image_size: int, *, corrupt_limit: int = 0, progress: Progress = silent) -> Dataset:
    """Read ``shards-{000..009}.tar``: samples with an image and, unless unlabelled, its class as ``cls`` or ``txt``.

    Raises:
        MissingError: the package `webdataset` is not installed.
        InputError: a shard is missing or damaged, or holds no images.
    """
    webdataset = require("webdataset", "webdataset")
    urls = webdataset.shardlists.expand_urls(pattern)
    missing = [url for url in urls if not Path(url).is_file()]
    if missing:
        raise InputError(f"--data {pattern}: there is no shard {missing[0]} ({len(missing)} of {len(urls)} missing)")
    bad = [url for url in urls if not tarfile.is_tarfile(url)]
    if bad:
        raise InputError(f"--data {pattern}: {bad[0]} is not a whole .tar archive. Make the shard again.")
    collector = Collector(Path(urls[0]).stem, image_size, corrupt_limit)
    try:
        for count, sample in enumerate(_samples(webdataset, urls), start=1):
            kind = next((key for key in sample if f".{key.lower()}" in SUFFIXES), None)
            if kind is not None:
                collector.add(
                    io.BytesIO(sample[kind]), _class_of(sample), name=f"{sample['__url__']}/{sample['__key__']}"
                )
            progress("read images", count, None)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--data {pattern} is not a whole set of shards ({error}). Make them again.") from error
    return collector.dataset()


def _samples(webdataset: Any, urls: list[str]) -> Iterator[dict[str, Any]]:
    # In the order of the shards, once: our own batches shuffle, so that a resumed run sees the same ones.
    def complain(error: Exception) -> bool:
        raise InputError(f"a shard is damaged ({error}). Make it again.") from error

    yield from webdataset.WebDataset(urls, shardshuffle=False, empty_check=False, handler=complain)


def _class_of(sample: dict[str, Any]) -> str | None:
    for key in ("cls", "txt"):
        if key in sample:
            return str(bytes(sample[key]).decode(errors="replace").strip())
    return None


def load_hugging_face(folder: Path, image_size: int, *, corrupt_limit: int = 0, progress: Progress = silent) -> Dataset:
    """Read a data set that ``datasets`` has saved with ``save_to_disk``: a column of images, perhaps one of labels.

    Raises:
        MissingError: the package `datasets` is not installed.
        InputError: the folder is none of its own, or has no column of images.
    """
    datasets = require("datasets", "huggingface")
    try:
        table = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever its readers raise for damaged files
        raise InputError(f"--data hf:{folder} is no saved data set ({error}). Make it with save_to_disk.") from error
    if isinstance(table, dict):
        table = table["train"] if "train" in table else next(iter(table.values()))
    columns = list(table.column_names)
    image, label = (next((c for c in known if c in columns), None) for known in (_IMAGE_COLUMNS, _LABEL_COLUMNS))
    if image is None:
        raise InputError(f"--data hf:{folder} has columns {', '.join(columns)}; expected one of {_IMAGE_COLUMNS}")
    table = table.cast_column(image, datasets.Image(decode=False))
    names = getattr(table.features[label], "names", None) if label is not None else None
    collector = Collector(folder.name, image_size, corrupt_limit)
    for i, row in enumerate(table):
        known = None if label is None else row[label]
        content, path = row[image]["bytes"], row[image]["path"]
        source = io.BytesIO(content) if content is not None else Path(path or "")
        collector.add(source, _named(known, names), name=f"{folder}, row {i}")
        progress("read images", i + 1, len(table))
    return collector.dataset()


def _named(label: Any, names: list[str] | None) -> str | None:
    if label is None:
        return None
    return names[label] if names else str(label)
