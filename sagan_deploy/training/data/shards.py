"""WebDataset shards, through their own library, which is optional."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sagan_deploy.errors import InputError
from sagan_deploy.optional import require
from sagan_deploy.training.data.collect import Picture, Reading, collect
from sagan_deploy.training.data.dataset import Dataset
from sagan_deploy.training.data.folder import SUFFIXES


def load_shards(pattern: str, how: Reading) -> Dataset:
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
    try:
        return collect(Path(urls[0]).stem, _pictures(_samples(webdataset, urls)), how)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--data {pattern} is not a whole set of shards ({error}). Make them again.") from error


def _pictures(samples: Iterable[dict[str, Any]]) -> Iterator[Picture]:
    for sample in samples:
        kind = next((key for key in sample if f".{key.lower()}" in SUFFIXES), None)
        if kind is not None:
            name = f"{sample['__url__']}/{sample['__key__']}"
            yield Picture(io.BytesIO(sample[kind]), _class_of(sample), name)


def _samples(webdataset: Any, urls: list[str]) -> Iterator[dict[str, Any]]:
    # In the order of the shards, once: our own batches shuffle, so that a resumed run sees the same ones. The files are
    # opened here, since the library's own pipeline leaves them open.
    for url in urls:
        with Path(url).open("rb") as stream:
            files = webdataset.tariterators.tar_file_expander([{"url": url, "stream": stream}])
            yield from webdataset.tariterators.group_by_keys(files)


def _class_of(sample: dict[str, Any]) -> str | None:
    for key in ("cls", "txt"):
        if key in sample:
            return str(bytes(sample[key]).decode(errors="replace").strip())
    return None
