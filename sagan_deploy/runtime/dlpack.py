"""DLPack capsules without a framework: how arrays on a device change hands between libraries of one process.

The structures are those of DLPack 0.8, which every library reads and version 1 still allows
(https://dmlc.github.io/dlpack/latest/c_api.html). A capsule that is taken over is renamed by the taker, who then calls
the deleter; one that is dropped untaken calls it itself.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from sagan_deploy.errors import InputError

CPU, CUDA, CUDA_MANAGED = 1, 2, 13
_NAME = b"dltensor"
_INTEGERS = ctypes.POINTER(ctypes.c_int64)
_CODES = {"i": 0, "u": 1, "f": 2}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", _INTEGERS),
        ("strides", _INTEGERS),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


@dataclass(frozen=True)
class Tensor:
    """What a capsule says: `strides` are in elements, None for rows one after the other."""

    address: int
    device: tuple[int, int]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None


def read_capsule(capsule: Any) -> Tensor:
    """Look at a capsule without taking it over: its memory lives as long as the capsule does.

    Raises:
        InputError: it is no DLPack capsule, was taken over already, or holds a type that NumPy does not know.
    """
    try:
        pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(capsule, _NAME)
    except (ValueError, TypeError, ctypes.ArgumentError) as error:
        raise InputError(f"no DLPack capsule came, or one that was used already ({error}).") from error
    tensor = _ManagedTensor.from_address(pointer).tensor
    kinds = {code: kind for kind, code in _CODES.items()}
    if tensor.lanes != 1 or tensor.code not in kinds or tensor.bits not in (8, 16, 32, 64):
        raise InputError(f"DLPack gives the type code {tensor.code} of {tensor.bits} bits, which NumPy does not know.")
    axes = range(tensor.ndim)
    return Tensor(
        (tensor.data or 0) + tensor.byte_offset,
        (tensor.device_type, tensor.device_id),
        np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}"),
        tuple(tensor.shape[axis] for axis in axes),
        tuple(tensor.strides[axis] for axis in axes) if tensor.strides else None,
    )


def make_capsule(tensor: Tensor, owner: Any) -> Any:
    """A capsule over memory that `owner` keeps alive until the last taker lets go."""
    number = len(tensor.shape)
    shape = (ctypes.c_int64 * number)(*tensor.shape)
    strides = None if tensor.strides is None else (ctypes.c_int64 * number)(*tensor.strides)
    managed = _ManagedTensor()
    managed.tensor = _Tensor(
        tensor.address, *tensor.device, number, _CODES[tensor.dtype.kind], tensor.dtype.itemsize * 8, 1,
        ctypes.cast(shape, _INTEGERS), None if strides is None else ctypes.cast(strides, _INTEGERS), 0,
    )  # fmt: skip
    managed.deleter = ctypes.cast(_deleter, ctypes.c_void_p)
    key = next(_keys)
    managed.context = key
    _given[key] = (managed, shape, strides, owner)
    new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(ctypes.addressof(managed), _NAME, ctypes.cast(_destructor, ctypes.c_void_p))


def _python(name: str, result: Any, *arguments: Any) -> Any:
    # A prototype of its own for each use: the one in `ctypes.pythonapi` is shared with every other module.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


# What takers may still read, by the number in the context of its structure; the structures must not move.
_given: dict[int, Any] = {}
_keys = itertools.count(1)
_is_untaken = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer_of = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)


def _delete(managed: int) -> None:
    _given.pop(_ManagedTensor.from_address(managed).context, None)


def _destroy(capsule: int) -> None:
    # The capsule is being destroyed, so it is handled by address: a reference would bring it back to life.
    if _is_untaken(capsule, _NAME):
        _delete(_pointer_of(capsule, _NAME))


_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete)
_destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_destroy)
