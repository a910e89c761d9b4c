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
    cudaEventDefault = 0
    cudaEventDisableTiming = 2
    cudaMemcpyKind = types.SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaMemoryType = types.SimpleNamespace(cudaMemoryTypeHost=1, cudaMemoryTypeDevice=2, cudaMemoryTypeManaged=3)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = types.SimpleNamespace(cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76)

    def __init__(self, devices=2, fail=()):
        self.devices, self.fail, self.live, self.copies, self.device = devices, fail, {}, [], None
        self.calls, self.flags = [], []

    def code(self, name):
        return Code(2) if name in self.fail else Code(0)

    def cudaGetDeviceCount(self):
        return self.code("cudaGetDeviceCount"), self.devices

    def cudaDeviceGetAttribute(self, attribute, device):
        return self.code("cudaDeviceGetAttribute"), {75: 8, 76: 9}[attribute]

    def cudaGetDeviceProperties(self, device):
        return self.code("cudaGetDeviceProperties"), types.SimpleNamespace(name=b"NVIDIA L4\0\0")

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

    def made(self, name, handle):
        self.calls.append(name)
        if name in self.fail:
            return Code(2), None
        self.live[handle] = name
        return Code(0), handle

    def cudaEventCreateWithFlags(self, flags):
        self.flags.append(flags)
        return self.made("cudaEventCreateWithFlags", 87 + len(self.flags))

    def cudaEventElapsedTime(self, start, end):
        self.calls.append(("cudaEventElapsedTime", start, end))
        return self.code("cudaEventElapsedTime"), 1.5

    def cudaEventRecord(self, event, stream):
        self.calls.append(("cudaEventRecord", event, stream))
        return (self.code("cudaEventRecord"),)

    def cudaStreamWaitEvent(self, stream, event, flags):
        self.calls.append(("cudaStreamWaitEvent", stream, event, flags))
        return (self.code("cudaStreamWaitEvent"),)

    def cudaEventDestroy(self, event):
        return self.cudaFree(event)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == 1
        self.calls.append("cudaStreamBeginCapture")
        return (self.code("cudaStreamBeginCapture"),)

    def cudaStreamEndCapture(self, stream):
        return self.made("cudaStreamEndCapture", 91)

    def cudaGraphInstantiate(self, graph, flags):
        assert (graph, flags) == (91, 0)
        return self.made("cudaGraphInstantiate", 92)

    def cudaGraphDestroy(self, graph):
        return self.cudaFree(graph)

    def cudaGraphExecDestroy(self, graph):
        return self.cudaFree(graph)

    def cudaGraphLaunch(self, graph, stream):
        self.calls.append(("cudaGraphLaunch", graph, stream))
        return (self.code("cudaGraphLaunch"),)

    def cudaGetLastError(self):
        self.calls.append("cudaGetLastError")
        return (Code(0),)

    def cudaPointerGetAttributes(self, address):
        kind = self.cudaMemoryType.cudaMemoryTypeDevice if address in self.live else 0
        return self.code("cudaPointerGetAttributes"), types.SimpleNamespace(type=kind, device=1)

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


def test_a_copy_that_stays_on_the_device(cudart):
    with cuda.Stream() as stream, cuda.DeviceBuffer(8) as one, cuda.DeviceBuffer(8) as other:
        ctypes.memmove(one.address, b"abcdefgh", 8)
        stream.copy_on_device(other.address + 4, one.address, 4)
        assert ctypes.string_at(other.address + 4, 4) == b"abcd"
        assert cudart.copies == [(4, 3, 77)]


def test_one_stream_waits_for_another_through_an_event_that_is_given_back(cudart):
    cuda.order(5, 6)
    assert cudart.calls == ["cudaEventCreateWithFlags", ("cudaEventRecord", 88, 5), ("cudaStreamWaitEvent", 6, 88, 0)]
    assert cudart.flags == [cudart.cudaEventDisableTiming]
    assert cudart.live == {}


def test_the_time_between_two_events_that_keep_time(cudart):
    with cuda.Stream() as stream, cuda.Event() as start, cuda.Event() as end:
        start.record(stream)
        end.record(stream)
        assert end.milliseconds_since(start) == 1.5
        assert cudart.calls[2:] == [
            *(("cudaEventRecord", 88, 77), ("cudaEventRecord", 89, 77), ("cudaEventElapsedTime", 88, 89))
        ]
        assert cudart.flags == [cudart.cudaEventDefault] * 2
    assert cudart.live == {}


@pytest.mark.parametrize("call", ["cudaEventCreate", "cudaEventRecord", "cudaEventElapsedTime"])
def test_a_refused_event(cudart, call):
    cudart.fail = [call, call + "WithFlags"]
    with pytest.raises(MissingError, match=call), cuda.Stream() as stream, cuda.Event() as event:
        event.record(stream)
        event.milliseconds_since(event)
    assert cudart.live == {}


@pytest.mark.parametrize("call", ["cudaEventCreateWithFlags", "cudaEventRecord", "cudaStreamWaitEvent"])
def test_order_refused(cudart, call):
    cudart.fail = [call]
    with pytest.raises(MissingError, match=call.removesuffix("WithFlags")):
        cuda.order(5, 6)
    assert cudart.live == {}


def test_a_graph_is_recorded_instantiated_and_launched(cudart):
    with cuda.Stream() as stream, stream.capture(lambda: cudart.calls.append("work")) as graph:
        assert cudart.calls == [*("cudaStreamBeginCapture", "work", "cudaStreamEndCapture", "cudaGraphInstantiate")]
        assert cudart.live == {77: "stream", 92: "cudaGraphInstantiate"}  # the recording itself is gone
        graph.launch(stream)
        assert cudart.calls[-1] == ("cudaGraphLaunch", 92, 77)
        cudart.fail = ["cudaGraphLaunch"]
        with pytest.raises(MissingError, match="cudaGraphLaunch failed"):
            graph.launch(stream)
    assert cudart.live == {}


@pytest.mark.parametrize("call", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_what_cannot_be_recorded_leaves_nothing_and_no_error_behind(cudart, call):
    cudart.fail = [call]
    with cuda.Stream() as stream, pytest.raises(MissingError, match=call):
        stream.capture(lambda: None)
    assert cudart.live == {}
    assert cudart.calls[-1] == "cudaGetLastError"


def test_a_recording_that_cannot_begin(cudart):
    cudart.fail = ["cudaStreamBeginCapture"]
    with cuda.Stream() as stream, pytest.raises(MissingError, match="cudaStreamBeginCapture"):
        stream.capture(lambda: pytest.fail("nothing may be enqueued"))


@pytest.mark.parametrize("fail", [(), ("cudaStreamEndCapture",)])
def test_work_that_fails_ends_the_recording_and_speaks_for_itself(cudart, fail):
    def work():
        raise ValueError("refused")

    cudart.fail = fail
    with cuda.Stream() as stream, pytest.raises(ValueError, match="refused"):
        stream.capture(work)
    assert "cudaStreamEndCapture" in cudart.calls
    assert cudart.live == {}


def test_where_memory_lies(cudart):
    with cuda.DeviceBuffer(8) as buffer:
        assert cuda.device_of(buffer.address) == 1
    assert cuda.device_of(1234) is None


def test_queries(cudart):
    assert cuda.device_count() == 2
    assert cuda.unavailable() is None
    assert cuda.compute_capability(0) == (8, 9)
    assert cuda.device_name(0) == "NVIDIA L4"
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
    assert hasattr(real.cudaDeviceProp, "name")
    assert {"type", "device"} <= set(dir(real.cudaPointerAttributes))
    for group in ("cudaMemcpyKind", "cudaDeviceAttr", "cudaMemoryType", "cudaStreamCaptureMode"):
        for name in vars(getattr(Cudart, group)):
            assert hasattr(getattr(real, group), name), name


def test_the_real_package_without_a_driver_is_an_ordinary_answer():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    assert "no usable NVIDIA driver or GPU" in cuda.unavailable()
    with pytest.raises(MissingError, match=r"cudaMalloc of 16 bytes failed: .*driver"):
        cuda.DeviceBuffer(16)
