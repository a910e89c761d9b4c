"""The timing cache of the classic builder: what it measured of kernels, kept from one build to the next."""

from __future__ import annotations

from typing import Any

from exporters.errors import SpecError
from exporters.tensorrt.backend import Backend


def attach(backend: Backend, config: Any, content: bytes | None) -> Any | None:
    """Let a build read and extend a timing cache; the cache, or None when `content` is None.

    Raises:
        SpecError: TensorRT for RTX, which times nothing at build time, or a cache of another version or GPU.
    """
    if content is None:
        return None
    if backend.caps.cc_targets:
        raise SpecError(
            f"{backend.product} builds without measuring kernels and has no timing cache; leave the option out. "
            f"Its runtime cache is filled where the plan runs."
        )
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise SpecError(
            f"the timing cache ({len(content)} bytes) is not of {backend.product} on this kind of GPU, or is damaged; "
            "delete it, and the build begins a new one."
        )
    return cache


def content(cache: Any) -> bytes:
    """The cache as bytes, to be given to the next build."""
    return bytes(memoryview(cache.serialize()))
