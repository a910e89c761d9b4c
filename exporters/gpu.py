"""The GPUs of this machine, asked through cuda-bindings; that there is none is an answer, not an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


def local_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The CUDA devices in their order, and the reason when there is none (empty otherwise)."""
    try:
        from cuda.bindings import runtime as cudart
    except (ImportError, OSError) as error:
        return (), f"the package cuda-bindings, which would find it, cannot be imported ({error})"
    code, count = cudart.cudaGetDeviceCount()
    if int(code) != 0:
        return (), f"no NVIDIA driver or GPU can be used here ({getattr(code, 'name', int(code))})"
    if not count:
        return (), "there is none"
    return tuple(_gpu(cudart, index) for index in range(count)), ""


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA version that the installed driver runs; None without a driver."""
    try:
        from cuda.bindings import runtime as cudart
    except (ImportError, OSError):
        return None
    code, version = cudart.cudaDriverGetVersion()
    return None if int(code) != 0 or not version else (version // 1000, version % 1000 // 10)


def _gpu(cudart: Any, index: int) -> Gpu:
    _, properties = cudart.cudaGetDeviceProperties(index)
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(name.rstrip("\0"), (properties.major, properties.minor), int(properties.totalGlobalMem))
