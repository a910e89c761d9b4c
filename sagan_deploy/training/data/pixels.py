"""Where pixels go while a data set is read: into memory, or into a file that is mapped and never read as a whole."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.files import new_file, writing


class PixelStore:
    """Square RGB images, one after the other, in the layout of an ``.npy`` file: uint8 [n, 3, size, size]."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self._count = 0
        self._header()

    def add(self, image: NDArray[np.uint8]) -> None:
        """One more image [3, size, size]."""
        self._stream.write(image.tobytes())
        self._count += 1

    def images(self) -> NDArray[np.uint8]:
        """All of them, without a copy."""
        begin = self._finish()
        assert isinstance(self._stream, io.BytesIO)
        return np.frombuffer(self._stream.getbuffer(), np.uint8, offset=begin).reshape(self._shape)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return (self._count, 3, self._size, self._size)

    def _finish(self) -> int:
        """The number of images is known now; numpy leaves room for it, so the header keeps its length."""
        self._stream.seek(0)
        self._header()
        return self._stream.tell()

    def _header(self) -> None:
        facts = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._stream, facts)


class PixelFile(PixelStore):
    """The same in a new file; the images are read-only then, and come from the disk when they are asked for."""

    def __init__(self, path: Path, stream: IO[bytes], size: int) -> None:
        self._path = path
        with writing(path):
            super().__init__(stream, size)

    def add(self, image: NDArray[np.uint8]) -> None:
        """One more image [3, size, size]."""
        with writing(self._path):
            super().add(image)

    def images(self) -> NDArray[np.uint8]:
        """All of them."""
        with writing(self._path):
            self._finish()
            self._stream.flush()
            os.fsync(self._stream.fileno())
        return map_pixels(self._path)


@contextlib.contextmanager
def pixel_store(size: int, path: Path | None = None) -> Iterator[PixelStore]:
    """A store in memory or, with a path, in a file; its images outlive the block.

    Raises:
        InputError: the file exists, or the disk refuses or is full.
    """
    if path is None:
        yield PixelStore(io.BytesIO(), size)
        return
    with new_file(path) as stream:
        yield PixelFile(path, stream, size)


def map_pixels(path: Path) -> NDArray[np.uint8]:
    """An ``.npy`` file as a read-only array whose parts are read when they are used.

    Raises:
        ValueError: it is no whole file of an array, or one of objects.
        OSError: it cannot be read.
    """
    images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return images
