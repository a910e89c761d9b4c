"""The CUDA module: real cuda-bindings without a driver, and a double of them that counts."""

import ctypes
import types

import numpy as np
import pytest

from sagan_deploy.errors import MissingError
from sagan_deploy.runtime import cuda


class Code(int):
    name = "cudaErrorMemoryAllocation"


class Cudart:
    """A double of cuda.bindings.runtime on ordinary host memory."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaDeviceAttr = types.SimpleNamespace(cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76)

    def __init__(self, devices=2, fail=()):
        self.devices, self.fail, self.live, self.copies, self.device = devices, fail, {}, [], None

    def code(self, name):
        return Code(2) if name in self.fail else Code(0)

    def cudaGetDeviceCount(self):
        return self.code("cudaGetDeviceCount"), self.devices

    def cudaDeviceGetAttribute(self, attribute, device):
        return self.code("cudaDeviceGetAttribute"), {75: 8, 76: 9}[attribute]

    def cudaSetDevice(self, device):
        self.device = device
        return (self.code("cudaSetDevice"),)

    def cudaMalloc(self, size):
        if "cudaMalloc" in self.fail:
            return Code(2), None
        buffer = ctypes.create_string_buffer(size)
        self.live[ctypes.addressof(buffer)] = buffer
        return Code(0), ctypes.addressof(buffer)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address):
        del self.live[address]
        return (Code(0),)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        self.live[77] = "stream"
        return Code(0), 77

    def cudaStreamDestroy(self, handle):
        return self.cudaFree(handle)

    def cudaStreamSynchronize(self, handle):
        return (self.code("cudaStreamSynchronize"),)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        ctypes.memmove(target, source, size)
        self.copies.append((size, kind, stream))
        return (self.code("cudaMemcpyAsync"),)

    def cudaGetErrorString(self, code):
        return Code(0), b"out of memory"


@pytest.fixture
def cudart(monkeypatch):
    double = Cudart()
    monkeypatch.setattr(cuda, "_cudart", lambda: double)
    return double


def test_a_round_trip_through_device_memory(cudart):
    with (
        cuda.Stream() as stream,
        cuda.DeviceBuffer(64) as device,
        cuda.PinnedBuffer(64) as there,
        cuda.PinnedBuffer(64) as back,
    ):
        there.array((2, 3), np.dtype(np.float32))[:] = [[1, 2, 3], [4, 5, 6]]
        stream.copy_to_device(device, there, 24)
        stream.copy_to_host(back, device, 24)
        stream.synchronize()
        np.testing.assert_array_equal(back.array((2, 3), np.dtype(np.float32)), [[1, 2, 3], [4, 5, 6]])
        assert cudart.copies == [(24, 1, 77), (24, 2, 77)]
        assert len(cudart.live) == 4
    assert cudart.live == {}


def test_closing_twice_frees_once(cudart):
    buffer = cuda.DeviceBuffer(8)
    buffer.close()
    buffer.close()
    assert cudart.live == {}


@pytest.mark.parametrize("kind", [cuda.DeviceBuffer, cuda.PinnedBuffer])
def test_out_of_memory_says_how_much_was_wanted(cudart, kind):
    cudart.fail = ["cudaMalloc"]
    with pytest.raises(MissingError, match=r"of 1024 bytes failed: out of memory \(cudaErrorMemoryAllocation\)"):
        kind(1024)


def test_queries(cudart):
    assert cuda.device_count() == 2
    assert cuda.unavailable() is None
    assert cuda.compute_capability(0) == (8, 9)
    cuda.use_device(1)
    assert cudart.device == 1


def test_a_machine_without_a_device(cudart):
    cudart.devices = 0
    assert cuda.unavailable() == "there is no CUDA device"
    cudart.fail = ["cudaGetDeviceCount"]
    assert "cudaErrorMemoryAllocation" in cuda.unavailable()
    assert cuda.device_count() == 0


def test_without_the_package(monkeypatch):
    def missing():
        raise MissingError("the package 'cuda.bindings.runtime' cannot be imported. pip install x")

    monkeypatch.setattr(cuda, "_cudart", missing)
    assert cuda.device_count() == 0
    assert "pip install" in cuda.unavailable()


def test_the_real_package_has_every_name_that_the_double_has():
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    names = [name for name in dir(Cudart) if name.startswith("cuda")]
    assert len(names) > 10
    for name in names:
        assert hasattr(real, name), name
    for group in ("cudaMemcpyKind", "cudaDeviceAttr"):
        for name in vars(getattr(Cudart, group)):
            assert hasattr(getattr(real, group), name), name


def test_the_real_package_without_a_driver_is_an_ordinary_answer():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    assert "no usable NVIDIA driver or GPU" in cuda.unavailable()
    with pytest.raises(MissingError, match=r"cudaMalloc of 16 bytes failed: .*driver"):
        cuda.DeviceBuffer(16)
