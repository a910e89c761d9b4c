"""The little of CUDA that inference needs, over cuda-bindings: buffers and streams that free themselves.

Everything goes through here, so a double of this module is enough to test what uses it without a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagan_deploy.errors import MissingError
from sagan_deploy.optional import require


@functools.cache
def _cudart() -> Any:
    return require("cuda.bindings.runtime", "rtx")


def check(call: str, result: tuple[Any, ...]) -> Any:
    """The value of a CUDA runtime call, or its error in words.

    Args:
        call: the name of the call, for the message.
        result: what it returned: the error code and zero or one value.

    Raises:
        MissingError: the code is not cudaSuccess.
    """
    code, *values = result
    if int(code) != 0:
        _, text = _cudart().cudaGetErrorString(code)
        words = text.decode() if isinstance(text, bytes) else str(text)
        raise MissingError(f"{call} failed: {words} ({getattr(code, 'name', int(code))}).")
    return values[0] if values else None


def device_count() -> int:
    """How many CUDA devices there are; 0 without a driver or without cuda-bindings."""
    return 0 if unavailable() else int(check("cudaGetDeviceCount", _cudart().cudaGetDeviceCount()))


def unavailable() -> str | None:
    """Why no CUDA device can be used, or None when one can."""
    try:
        code, count = _cudart().cudaGetDeviceCount()
    except MissingError as error:
        return str(error)
    if int(code) != 0:
        return f"there is no usable NVIDIA driver or GPU ({getattr(code, 'name', int(code))})"
    return None if count else "there is no CUDA device"


def compute_capability(device: int) -> tuple[int, int]:
    """Major and minor compute capability of a device, for example (8, 9)."""
    cudart = _cudart()
    names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
    major, minor = (
        int(
            check("cudaDeviceGetAttribute", cudart.cudaDeviceGetAttribute(getattr(cudart.cudaDeviceAttr, name), device))
        )
        for name in names
    )
    return major, minor


def device_name(device: int) -> str:
    """The name of a device, for example ``NVIDIA L4``."""
    properties = check("cudaGetDeviceProperties", _cudart().cudaGetDeviceProperties(device))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return name.rstrip("\0")


def use_device(device: int) -> None:
    """Make a device current in this thread: CUDA keeps that per thread."""
    check("cudaSetDevice", _cudart().cudaSetDevice(device))


def device_of(address: int) -> int | None:
    """The number of the device whose memory holds an address; None for memory of the host."""
    cudart = _cudart()
    found = check("cudaPointerGetAttributes", cudart.cudaPointerGetAttributes(address))
    kinds = (cudart.cudaMemoryType.cudaMemoryTypeDevice, cudart.cudaMemoryType.cudaMemoryTypeManaged)
    return int(found.device) if found.type in kinds else None


def order(before: int, after: int) -> None:
    """Let what is put on the stream `after` from now on wait for all that is on the stream `before` now.

    Neither the host nor `before` waits. Streams are handles; 0 is the default stream.
    """
    cudart = _cudart()
    event = check("cudaEventCreate", cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming))
    try:
        check("cudaEventRecord", cudart.cudaEventRecord(event, before))
        check("cudaStreamWaitEvent", cudart.cudaStreamWaitEvent(after, event, 0))
    finally:
        # CUDA keeps what still waits for it.
        check("cudaEventDestroy", cudart.cudaEventDestroy(event))


class _Owned:
    """Something of CUDA's that is given back once, at the latest when the block ends."""

    _handle: Any = None

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)

    def _release(self, handle: Any) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream(_Owned):
    """A stream of its own, never the default one, which would wait for everybody else's work."""

    def __init__(self) -> None:
        cudart = _cudart()
        self._handle = check("cudaStreamCreate", cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))

    @property
    def handle(self) -> int:
        """The address that TensorRT takes."""
        return int(self._handle)

    def synchronize(self) -> None:
        """Wait until all work of this stream is done."""
        check("cudaStreamSynchronize", _cudart().cudaStreamSynchronize(self._handle))

    def copy_to_device(self, target: DeviceBuffer, source: PinnedBuffer, size: int) -> None:
        """Begin to copy the first `size` bytes."""
        self._copy(target.address, source.address, size, "cudaMemcpyHostToDevice")

    def copy_to_host(self, target: PinnedBuffer, source: DeviceBuffer, size: int) -> None:
        """Begin to copy the first `size` bytes."""
        self._copy(target.address, source.address, size, "cudaMemcpyDeviceToHost")

    def copy_on_device(self, target: int, source: int, size: int) -> None:
        """Begin to copy `size` bytes between two addresses of the device."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice")

    def capture(self, work: Callable[[], object]) -> Graph:
        """Record what `work` puts on this stream, without running it.

        Raises:
            MissingError: CUDA cannot record it; the stream is usable again.
            Exception: whatever `work` raises.
        """
        cudart = _cudart()
        # Of this thread only: other threads may allocate or synchronise meanwhile.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check("cudaStreamBeginCapture", cudart.cudaStreamBeginCapture(self._handle, mode))
        try:
            work()
        except BaseException:
            with contextlib.suppress(MissingError):
                _graph_of(cudart.cudaStreamEndCapture(self._handle)).close()
            raise
        return _graph_of(cudart.cudaStreamEndCapture(self._handle))

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        cudart = _cudart()
        direction = getattr(cudart.cudaMemcpyKind, kind)
        check("cudaMemcpyAsync", cudart.cudaMemcpyAsync(target, source, size, direction, self._handle))

    def _release(self, handle: Any) -> None:
        check("cudaStreamDestroy", _cudart().cudaStreamDestroy(handle))


class Graph(_Owned):
    """Work that was recorded once and is launched as a whole."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        """Put the recorded work on a stream."""
        check("cudaGraphLaunch", _cudart().cudaGraphLaunch(self._handle, stream.handle))

    def _release(self, handle: Any) -> None:
        check("cudaGraphExecDestroy", _cudart().cudaGraphExecDestroy(handle))


def _graph_of(captured: tuple[Any, ...]) -> Graph:
    cudart = _cudart()
    try:
        recorded = check("cudaStreamEndCapture", captured)
        try:
            return Graph(check("cudaGraphInstantiate", cudart.cudaGraphInstantiate(recorded, 0)))
        finally:
            check("cudaGraphDestroy", cudart.cudaGraphDestroy(recorded))
    except MissingError:
        # CUDA remembers the refusal, and whoever asks next for the last error would take it for his own.
        cudart.cudaGetLastError()
        raise


class Event(_Owned):
    """A moment on a stream: when the GPU has done all that was put there before."""

    def __init__(self) -> None:
        cudart = _cudart()
        self._handle = check("cudaEventCreate", cudart.cudaEventCreateWithFlags(cudart.cudaEventDefault))

    def record(self, stream: Stream) -> None:
        """Be the moment that comes now on this stream."""
        check("cudaEventRecord", _cudart().cudaEventRecord(self._handle, stream.handle))

    def milliseconds_since(self, earlier: Event) -> float:
        """The time of the GPU between two moments, both past: synchronise the stream before; 0.5 µs fine."""
        return float(check("cudaEventElapsedTime", _cudart().cudaEventElapsedTime(earlier._handle, self._handle)))

    def _release(self, handle: Any) -> None:
        check("cudaEventDestroy", _cudart().cudaEventDestroy(handle))


class DeviceBuffer(_Owned):
    """Memory of the current device."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._handle = check(f"cudaMalloc of {size} bytes", _cudart().cudaMalloc(size))

    @property
    def address(self) -> int:
        """Where it lies on the device."""
        return int(self._handle)

    def _release(self, handle: Any) -> None:
        check("cudaFree", _cudart().cudaFree(handle))


class PinnedBuffer(_Owned):
    """Host memory that the device can read and write while the CPU does something else."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._handle = check(f"cudaMallocHost of {size} bytes", _cudart().cudaMallocHost(size))

    @property
    def address(self) -> int:
        """Where it lies in host memory."""
        return int(self._handle)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The first bytes as an array; it must not be used after `close`."""
        memory = (ctypes.c_byte * self.size).from_address(self.address)
        return np.frombuffer(memoryview(memory).cast("B"), dtype=dtype, count=int(np.prod(shape))).reshape(shape)

    def _release(self, handle: Any) -> None:
        check("cudaFreeHost", _cudart().cudaFreeHost(handle))
