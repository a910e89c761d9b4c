"""DLPack capsules, held against NumPy and PyTorch on the one device that every machine has: the CPU."""

import ctypes
import gc
import weakref

import numpy as np
import pytest
import torch

from sagan_deploy.errors import InputError
from sagan_deploy.runtime import dlpack
from sagan_deploy.runtime.dlpack import CPU, Tensor, make_capsule, read_capsule


class Memory:
    """Host memory that speaks DLPack through our capsules."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return CPU, 0

    def __dlpack__(self, **_):
        array = self.array
        strides = tuple(step // array.itemsize for step in array.strides)
        plain = None if array.flags.c_contiguous else strides
        return make_capsule(Tensor(array.ctypes.data, (CPU, 0), array.dtype, array.shape, plain), self)


ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.arange(24, dtype=np.float16).reshape(4, 6)[:, ::2],
    np.arange(5, dtype=np.int64),
    np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    np.arange(4, dtype=np.float64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
@pytest.mark.parametrize("reader", [np.from_dlpack, lambda memory: torch.from_dlpack(memory).numpy()])
def test_other_libraries_read_what_we_give(array, reader):
    read = reader(Memory(array))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    array[..., -1] += 1
    np.testing.assert_array_equal(read, array)  # the memory itself, not a copy
    assert dlpack._given


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
@pytest.mark.parametrize("source", [lambda array: array, torch.from_numpy])
def test_we_read_what_other_libraries_give(array, source):
    capsule = source(array).__dlpack__()
    tensor = read_capsule(capsule)
    assert (tensor.device, tensor.dtype, tensor.shape) == ((CPU, 0), array.dtype, array.shape)
    assert tensor.address == array.ctypes.data
    if tensor.strides is not None:
        steps = zip(array.shape, tensor.strides, array.strides, strict=True)
        assert all(size == 1 or ours * array.itemsize == numpys for size, ours, numpys in steps)


def test_an_offset_is_part_of_the_address():
    array = torch.arange(10, dtype=torch.int64)
    tensor = read_capsule(array[4:].__dlpack__())
    assert ctypes.c_int64.from_address(tensor.address).value == 4


def test_an_offset_that_the_capsule_itself_has():
    capsule = Memory(np.arange(10, dtype=np.int64)).__dlpack__()
    (managed, *_) = list(dlpack._given.values())[-1]
    managed.tensor.byte_offset = 3 * 8
    assert ctypes.c_int64.from_address(read_capsule(capsule).address).value == 3


@pytest.mark.parametrize("taken", [True, False])
def test_the_owner_lives_exactly_as_long_as_somebody_may_read(taken):
    gc.collect()
    dlpack._given.clear()
    memory = Memory(np.arange(3, dtype=np.float32))
    alive = weakref.ref(memory)
    held = torch.from_dlpack(memory) if taken else memory.__dlpack__()
    del memory
    gc.collect()
    assert alive() is not None
    assert len(dlpack._given) == 1
    if taken:
        assert held.tolist() == [0, 1, 2]
    del held
    gc.collect()
    assert alive() is None
    assert dlpack._given == {}


def test_what_is_no_capsule():
    with pytest.raises(InputError, match="no DLPack capsule"):
        read_capsule(object())


def test_a_capsule_that_was_taken_over():
    capsule = torch.arange(3).__dlpack__()
    torch.from_dlpack(capsule)
    with pytest.raises(InputError, match="used already"):
        read_capsule(capsule)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.bool])
def test_types_that_numpy_does_not_have(dtype):
    with pytest.raises(InputError, match="type code"):
        read_capsule(torch.zeros(2, dtype=dtype).__dlpack__())
