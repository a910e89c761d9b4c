"""Execution contexts as the options ask for them: CUDA graphs and the runtime cache of TensorRT for RTX.

TensorRT for RTX compiles kernels where they run. Its runtime cache keeps them from one process to the next: read before
the first context is made, shared by all contexts of an engine, written when the generator is closed. It belongs to one
version, GPU and operating system, so it is checked when it is read and never shipped.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import read_bytes, write_bytes
from sagan_deploy.runtime.plan import Flavour

log = logging.getLogger(__name__)


class TensorRTError(InputError):
    """TensorRT answered False or nothing where it had to agree."""


@dataclass(frozen=True)
class TensorRTOptions:
    """How plans run.

    `cuda_graphs` records the work of a batch and launches it as a whole; `runtime_cache` is the file in which TensorRT
    for RTX keeps the kernels that it compiled. The classic TensorRT compiles nothing where it runs and leaves it alone.
    """

    cuda_graphs: bool = False
    runtime_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.runtime_cache is not None and self.runtime_cache.is_dir():
            raise ConfigError(f"runtime_cache (={self.runtime_cache}) is a folder; it must name a file")


class Contexts:
    """Makes the execution contexts of one engine and keeps what they share."""

    def __init__(self, trt: Any, engine: Any, flavour: Flavour, options: TensorRTOptions) -> None:
        self._trt, self._engine, self._flavour, self._options = trt, engine, flavour, options
        self._lock = threading.Lock()
        self._cache: Any = None
        self._known: bytes | None = None

    @property
    def own_graphs(self) -> bool:
        """Whether sessions record CUDA graphs themselves: only where TensorRT does not."""
        return self._options.cuda_graphs and self._flavour != "rtx"

    def create(self) -> Any:
        """A new context.

        Raises:
            TensorRTError: TensorRT refuses it or one of its settings.
        """
        engine = self._engine
        # The runtime config is where newer versions take caches and CUDA graph strategies; older ones have none.
        if hasattr(engine, "create_runtime_config"):
            context = engine.create_execution_context(self._configured(engine.create_runtime_config()))
        else:
            context = engine.create_execution_context()
        if context is None:
            raise TensorRTError("TensorRT cannot create an execution context")
        return context

    def close(self) -> None:
        """Write the runtime cache, if it grew, and let go of the engine. A disk that refuses only costs a warning."""
        engine, self._engine = self._engine, None
        cache, self._cache = self._cache, None
        path = self._options.runtime_cache
        if engine is None or cache is None or path is None:
            return
        memory = cache.serialize()
        if memory is None:
            log.warning("TensorRT for RTX gave no runtime cache to write to %s", path)
            return
        content = bytes(memoryview(memory))
        if content == self._known:
            return
        try:
            write_bytes(path, content)
        except InputError as error:
            log.warning("the runtime cache was not kept: %s", error)

    def _configured(self, runtime_config: Any) -> Any:
        if self._flavour != "rtx":
            return runtime_config
        if self._options.cuda_graphs:
            runtime_config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._options.runtime_cache is not None:
            self._set_cache(runtime_config, self._options.runtime_cache)
        return runtime_config

    def _set_cache(self, runtime_config: Any, path: Path) -> None:
        with self._lock:  # threads make their contexts at the same time, and there is one cache for all
            cache, known = self._cache, self._known
            if cache is None:
                cache, known = _read_cache(runtime_config.create_runtime_cache(), path)
            if not runtime_config.set_runtime_cache(cache):
                raise TensorRTError("TensorRT refused set_runtime_cache")
            self._cache, self._known = cache, known


def _read_cache(runtime_cache: Any, path: Path) -> tuple[Any, bytes | None]:
    """A cache with the content of a file, and that content; empty and None where there is none that fits."""
    if runtime_cache is None:
        raise TensorRTError("TensorRT cannot create a runtime cache")
    if not path.exists():
        return runtime_cache, None
    content = read_bytes(path)
    if runtime_cache.deserialize(content):
        return runtime_cache, content
    log.warning(
        "the runtime cache %s (%d bytes) is not of this version of TensorRT for RTX, GPU and driver, or is damaged; "
        "kernels are compiled again and the file is replaced when the generator is closed",
        path,
        len(content),
    )
    return runtime_cache, None
