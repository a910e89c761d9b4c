"""Arrays that stay on the GPU: what a caller brings, and the images that he gets."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from sagan_deploy.errors import InputError
from sagan_deploy.runtime.contract import Contract
from sagan_deploy.runtime.dlpack import CUDA, CUDA_MANAGED, Tensor, make_capsule, read_capsule

_LEGACY_DEFAULT = 1  # how both protocols name the default stream
_ACCEPTED = "bring an array with __dlpack__ or __cuda_array_interface__, for example a CUDA tensor of PyTorch or CuPy"


@dataclass(frozen=True)
class View:
    """Contiguous device memory of somebody else; `owner` keeps it alive while this is."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class DeviceImages:
    """Images in device memory, readable by every library that knows DLPack or the CUDA array interface.

    The memory belongs to this object: it is freed when neither this object nor anything made from it through
    ``__dlpack__`` is left. A reader of ``__cuda_array_interface__`` has to keep the object, as that protocol says.
    It outlives the generator. `shape` is (n, 3, h, w), or (n, h, w, 3) for uint8, as exported.
    """

    def __init__(
        self, cuda: Any, shape: tuple[int, ...], contract: Contract, device: int, stream: int | None = None
    ) -> None:
        self._cuda, self._stream = cuda, stream
        self.shape, self.dtype, self.device = shape, contract.image_dtype, device
        self.row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self.nbytes = shape[0] * self.row_bytes
        buffer = cuda.DeviceBuffer(max(self.nbytes, 1))
        self.address: int = buffer.address
        # At the end of the process CUDA may be gone before this is, and frees everything itself.
        weakref.finalize(self, buffer.close).atexit = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; `stream` is the one on which the images come, None when they are there."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.nbytes else 0, False),
            "strides": None,
            "stream": self._stream or (None if self._stream is None else _LEGACY_DEFAULT),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """CUDA and the number of the device."""
        return CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule without a version, which consumers of every version take.

        Args:
            stream: the consumer's, which waits for images that are still to come; None is the default stream, −1
                orders nothing.
            max_version: the newest that the consumer knows.
            dl_device: another device is refused.
            copy: a copy is refused.

        Raises:
            BufferError: as the protocol says, for what cannot be done.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"these images are given as they lie, on CUDA device {self.device}, and without a copy")
        if self._stream is not None and stream != -1:
            self._cuda.order(self._stream, _LEGACY_DEFAULT if stream is None else int(stream))
        return make_capsule(Tensor(self.address, self.__dlpack_device__(), self.dtype, self.shape, None), self)

    def __repr__(self) -> str:
        return f"<DeviceImages {self.shape} {self.dtype} on cuda:{self.device}>"


def stream_handle(stream: Any) -> int | None:
    """The handle of a caller's stream: a number, an object with ``__cuda_stream__``, or None for none.

    Raises:
        InputError: it is something else.
    """
    if stream is None or (isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0):
        return stream
    if (protocol := getattr(stream, "__cuda_stream__", None)) is not None:
        return int((protocol() if callable(protocol) else protocol)[1])
    raise InputError(
        f"stream (={stream!r}) must be the handle of a CUDA stream, for PyTorch torch.cuda.current_stream().cuda_stream"
    )


def view_of(value: Any, name: str, contract: Contract, cuda: Any, device: int, stream: int) -> View:
    """A caller's array, checked for all that can be known without reading it.

    Args:
        value: an array with ``__dlpack__`` or ``__cuda_array_interface__``.
        name: ``z`` or ``labels``.
        contract: what the plan reads.
        cuda: the module `sagan_deploy.runtime.cuda`.
        device: the number of the device of the plan.
        stream: the handle of the stream that will read it; it is made to wait for the array's producer.

    Raises:
        InputError: no array of a device, on another device, of another type or shape, or not contiguous.
    """
    # DLPack first: its producer orders the streams, while the other protocol may leave that open.
    if hasattr(value, "__dlpack_device__") and hasattr(value, "__dlpack__"):
        address, shape, dtype, strides, owner = _from_dlpack(value, name, device, stream)
    elif (interface := getattr(value, "__cuda_array_interface__", None)) is not None:
        address, shape, dtype, strides, owner = _from_interface(value, interface, name, cuda, stream)
    else:
        raise InputError(f"{name} is a {type(value).__name__}, which does not lie on a GPU: {_ACCEPTED}.")
    expected = contract.shape(name)
    if dtype != contract.dtype(name):
        raise InputError(f"{name} has type {dtype}; on the device it must be {contract.dtype(name)} already.")
    if len(shape) != len(expected) + 1 or shape[1:] != expected:
        raise InputError(f"{name} has shape {shape}; it must be {('n', *expected)}.")
    if strides is not None and not _contiguous(shape, strides):
        raise InputError(f"{name} has gaps between its rows (strides {strides}, in elements); make it contiguous.")
    if math.prod(shape) and (found := cuda.device_of(address)) != device:
        where = "host memory" if found is None else f"CUDA device {found}"
        raise InputError(f"{name} lies in {where}, the generator on CUDA device {device}: {_ACCEPTED}.")
    return View(address, shape, dtype, owner)


_Found = tuple[int, tuple[int, ...], np.dtype[Any], tuple[int, ...] | None, Any]


def _from_dlpack(value: Any, name: str, device: int, stream: int) -> _Found:
    kind, number = value.__dlpack_device__()
    if kind not in (CUDA, CUDA_MANAGED) or number != device:
        raise InputError(
            f"{name} lies on the DLPack device ({int(kind)}, {number}); it must be ({CUDA}, {device}): {_ACCEPTED}."
        )
    capsule = value.__dlpack__(stream=stream)
    tensor = read_capsule(capsule)
    return tensor.address, tensor.shape, tensor.dtype, tensor.strides, capsule


def _from_interface(value: Any, interface: dict[str, Any], name: str, cuda: Any, stream: int) -> _Found:
    if interface.get("mask") is not None:
        raise InputError(f"{name} has a mask, which the generator cannot read.")
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None:
        strides = tuple(step // dtype.itemsize for step in strides)
    # 1 and 2 are the two default streams, None asks for no waiting.
    if (producer := interface.get("stream")) is not None:
        cuda.order(int(producer), stream)
    return int(interface["data"][0]), tuple(interface["shape"]), dtype, strides, value


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    # The step along an axis of one element is never taken, and libraries write what they like there.
    steps = (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return 0 in shape or all(size == 1 or a == b for size, a, b in zip(shape, strides, steps, strict=True))
