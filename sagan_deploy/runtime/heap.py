"""The C library's heap while a large model is opened: nothing that only opening needs stays, or adds to the peak."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGE = 32 << 20  # glibc's own threshold grows with what is freed, up to here
_SMALL = 256 << 10


@contextlib.contextmanager
def lean_heap(size: int) -> Iterator[None]:
    """Keep the memory for opening a model of `size` bytes low on glibc; elsewhere and for small models do little.

    glibc maps large blocks and gives them back when they are freed, but what is large grows with every block freed: of
    the copies of the weights that ONNX Runtime makes while it opens a file, the later ones stay in the heap. So the
    threshold is held at 256 KiB meanwhile (the peak of a 208 MB file falls from 504 to 442 MB). Afterwards it is where
    glibc's own rule ends up, 32 MiB; a threshold that the user set in the environment is left alone. Opening that file
    takes 0.25 s of CPU time more: memory given back comes back empty.
    """
    library = _glibc()
    steered = library is not None and size >= _LARGE and not _set_by_user()
    if steered:
        library.mallopt(_M_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        if steered:
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
            library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE)
        if library is not None:
            library.malloc_trim(0)


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return library if library.malloc_trim else None
    except (OSError, AttributeError):  # another C library has no such function
        return None


def _set_by_user() -> bool:
    return "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
