"""Arrays that stay on the device: against doubles whose device memory is a dictionary of bytes."""

import gc

import numpy as np
import pytest
import torch

from sagan_deploy.errors import ConfigError, InputError, MissingError
from sagan_deploy.runtime.contexts import TensorRTOptions
from sagan_deploy.runtime.dlpack import CUDA, Tensor, make_capsule, read_capsule
from tests.runtime.test_generator import generator_of
from tests.runtime.test_tensorrt import LABELS, TWO_PROFILES, Z, opened
from tests.tiny_models import CONFIG, UNCONDITIONAL, expected_images


class OnDevice:
    """A caller's array in the memory of the double, with one of the two protocols."""

    def __init__(self, cuda, array, protocol="interface", stream=None, strides=None, device=0):
        array = np.ascontiguousarray(array)
        self.buffer = cuda.DeviceBuffer(max(array.nbytes, 1))
        cuda.memory[self.buffer.address][: array.nbytes] = array.tobytes()
        self.asked = []
        if protocol == "interface":
            self.__cuda_array_interface__ = {
                "version": 3, "shape": array.shape, "typestr": array.dtype.str, "data": (self.buffer.address, False),
                "strides": strides, "stream": stream,
            }  # fmt: skip
        else:
            tensor = Tensor(self.buffer.address, (CUDA, device), array.dtype, array.shape, strides)
            self.__dlpack_device__ = lambda: (CUDA, device)
            self.__dlpack__ = lambda *, stream: self.asked.append(stream) or make_capsule(tensor, self)


def read(cuda, images):
    """What a consumer of the array interface sees."""
    interface = images.__cuda_array_interface__
    size = int(np.prod(interface["shape"])) * np.dtype(interface["typestr"]).itemsize
    raw = cuda.span(interface["data"][0], size) if size else b""
    return np.frombuffer(raw, interface["typestr"]).reshape(interface["shape"])


def on_device(cuda, count, protocol="interface"):
    return OnDevice(cuda, Z[:count], protocol), OnDevice(cuda, LABELS[:count].astype(np.int64), protocol)


@pytest.mark.parametrize("protocol", ["interface", "dlpack"])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_images_are_those_of_the_equation_and_the_host_sees_none(protocol, count):
    open_, _, cuda = opened()
    with open_() as generator:
        cuda.calls.clear()
        images = generator.on_device(*on_device(cuda, count, protocol))
        np.testing.assert_allclose(read(cuda, images), expected_images(CONFIG, Z[:count], LABELS[:count]), atol=1e-6)
        assert not {"copy_to_host", "copy_to_device", "PinnedBuffer"} & set(cuda.calls)
        assert cuda.calls[-1] == "synchronize"
        assert cuda.calls.count("synchronize") == 1


def test_unconditional():
    open_, _, cuda = opened(UNCONDITIONAL)
    with open_() as generator:
        images = generator.on_device(OnDevice(cuda, Z[:2]))
        np.testing.assert_allclose(read(cuda, images), expected_images(UNCONDITIONAL, Z[:2]), atol=1e-6)
        with pytest.raises(InputError, match="takes no labels"):
            generator.on_device(*on_device(cuda, 2))


def test_gaps_between_profiles_are_filled_on_the_device():
    open_, world, cuda = opened(plan_changes={"profiles": TWO_PROFILES})
    with open_() as generator:
        images = generator.on_device(*on_device(cuda, 2))
        assert images.shape == (2, 3, 8, 8)
        np.testing.assert_allclose(read(cuda, images), expected_images(CONFIG, Z[:2], LABELS[:2]), atol=1e-6)
        assert ("z", (4, 8)) in world.named("set_input_shape")


def test_a_callers_stream_is_ordered_on_both_sides_and_nobody_waits():
    open_, _, cuda = opened()
    with open_() as generator:
        z, labels = on_device(cuda, 2)
        cuda.calls.clear()
        generator.on_device(z, labels, stream=7)
        (mine,) = {call.split()[2] for call in cuda.calls if call.startswith("order 7 ")}
        steps = [call for call in cuda.calls if call.startswith(("order", "copy"))]
        assert steps[0] == f"order 7 {mine}"
        assert steps[-1] == f"order {mine} 7"
        assert "synchronize" not in cuda.calls


@pytest.mark.parametrize(("given", "named"), [(None, None), (7, 7), (0, 1)])
def test_readers_on_other_streams_wait_for_images_that_are_still_to_come(given, named):
    open_, _, cuda = opened()
    with open_() as generator:
        images = generator.on_device(*on_device(cuda, 1), stream=given)
        assert images.__cuda_array_interface__["stream"] == named
        cuda.calls.clear()
        for consumer in (5, None, -1):
            images.__dlpack__(stream=consumer)
        assert cuda.calls == ([] if given is None else [f"order {given} 5", f"order {given} 1"])


def test_streams_of_producers_are_waited_for():
    open_, _, cuda = opened()
    with open_() as generator:
        z = OnDevice(cuda, Z[:2], stream=5)
        labels = OnDevice(cuda, LABELS[:2].astype(np.int64), "dlpack")
        generator.on_device(z, labels)
        (order,) = [call for call in cuda.calls if call.startswith("order")]
        assert order == f"order 5 {labels.asked[0]}"  # DLPack's producer is told our stream and orders by itself


def test_an_object_that_knows_its_stream():
    class Stream:
        def __cuda_stream__(self):
            return 0, 9

    open_, _, cuda = opened()
    with open_() as generator:
        generator.on_device(*on_device(cuda, 1), stream=Stream())
        assert any(call.startswith("order 9 ") for call in cuda.calls)
        for wrong in ("7", -1, True, 1.5):
            with pytest.raises(InputError, match="handle of a CUDA stream"):
                generator.on_device(*on_device(cuda, 1), stream=wrong)


def test_the_images_outlive_the_generator_and_are_freed_with_their_last_reader():
    open_, _, cuda = opened()
    z, labels = on_device(cuda, 2)
    with open_() as generator:
        images = generator.on_device(z, labels)
    gc.collect()
    assert cuda.live == 3  # the caller's two, and the images
    assert images.__dlpack_device__() == (CUDA, 0)
    capsule = images.__dlpack__(stream=1, max_version=(1, 0))
    tensor = read_capsule(capsule)
    assert (tensor.address, tensor.shape, tensor.dtype) == (images.address, (2, 3, 8, 8), np.float32)
    del images
    gc.collect()
    assert cuda.live == 3
    del capsule
    gc.collect()
    assert cuda.live == 2


@pytest.mark.parametrize("asked", [{"copy": True}, {"dl_device": (1, 0)}])
def test_dlpack_refuses_what_it_cannot_do(asked):
    open_, _, cuda = opened()
    with open_() as generator:
        images = generator.on_device(*on_device(cuda, 1))
        with pytest.raises(BufferError, match="without a copy"):
            images.__dlpack__(**asked)


def test_no_rows_are_no_images():
    open_, world, cuda = opened()
    with open_() as generator:
        images = generator.on_device(*on_device(cuda, 0))
        assert read(cuda, images).shape == (0, 3, 8, 8)
        assert world.named("execute_async_v3") == []


def test_equal_batches_replay_a_graph_here_too():
    open_, _, cuda = opened(flavour="tensorrt", options=TensorRTOptions(cuda_graphs=True))
    with open_() as generator:
        for low in (0, 2, 4, 6):
            z = OnDevice(cuda, Z[low : low + 2])
            images = generator.on_device(z, OnDevice(cuda, LABELS[low : low + 2].astype(np.int64)))
            expected = expected_images(CONFIG, Z[low : low + 2], LABELS[low : low + 2])
            np.testing.assert_allclose(read(cuda, images), expected, atol=1e-6)
        assert (cuda.calls.count("capture"), cuda.calls.count("launch")) == (1, 3)


def test_on_a_callers_stream_the_warm_up_is_waited_for_before_it_is_recorded():
    open_, _, cuda = opened(flavour="tensorrt", options=TensorRTOptions(cuda_graphs=True))
    with open_() as generator:
        z, labels = on_device(cuda, 2)
        for _ in range(2):
            generator.on_device(z, labels, stream=7)
        steps = [call for call in cuda.calls if call in ("synchronize", "capture", "launch")]
        assert steps == ["synchronize", "capture", "launch"]


WRONG = {
    "numpy": (lambda cuda: Z[:2], r"z lies on the DLPack device \(1, 0\)"),
    "torch-cpu": (lambda cuda: torch.zeros(2, 8), r"z lies on the DLPack device \(1, "),
    "list": (lambda cuda: [[0.0] * 8] * 2, "z is a list, which does not lie on a GPU"),
    "float64": (lambda cuda: OnDevice(cuda, Z[:2].astype(np.float64)), "z has type float64.*float32 already"),
    "width": (lambda cuda: OnDevice(cuda, Z[:2, :7]), r"z has shape \(2, 7\).*\('n', 8\)"),
    "rank": (lambda cuda: OnDevice(cuda, Z[0]), r"z has shape \(8,\)"),
    "rows": (lambda cuda: OnDevice(cuda, Z[:3]), r"labels have shape \(2,\); z asks for \(3,\)"),
    "strides": (lambda cuda: OnDevice(cuda, Z[:2], strides=(64, 4)), r"gaps between its rows \(strides \(16, 1\)"),
    "other-device": (lambda cuda: OnDevice(cuda, Z[:2], "dlpack", device=1), r"DLPack device \(2, 1\)"),
}


@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_refused_before_anything_runs_and_cost_no_session(make, words):
    open_, world, cuda = opened()
    with open_() as generator:
        z, labels = make(cuda), OnDevice(cuda, LABELS[:2].astype(np.int64))
        world.calls.clear()
        with pytest.raises(InputError, match=words):
            generator.on_device(z, labels)
        assert world.calls == []
        generator.on_device(*on_device(cuda, 2))
        assert world.contexts == 1


def test_memory_of_the_host_behind_the_array_interface():
    open_, _, cuda = opened()
    with open_() as generator:
        z, labels = on_device(cuda, 2)
        z.__cuda_array_interface__["data"] = (Z.ctypes.data, False)
        with pytest.raises(InputError, match="z lies in host memory"):
            generator.on_device(z, labels)
        z.__cuda_array_interface__["mask"] = labels
        with pytest.raises(InputError, match="mask"):
            generator.on_device(z, labels)


def test_labels_are_needed():
    open_, _, cuda = opened()
    with open_() as generator, pytest.raises(InputError, match="needs labels"):
        generator.on_device(OnDevice(cuda, Z[:2]))


@pytest.mark.parametrize("call", ["copy_on_device", "synchronize", "DeviceBuffer"])
def test_a_failure_of_cuda_frees_the_session(call):
    open_, _, cuda = opened()
    with open_() as generator:
        z, labels = on_device(cuda, 2)
        cuda.fail.add(call)
        with pytest.raises(MissingError, match=call):
            generator.on_device(z, labels)
        cuda.fail.clear()
        gc.collect()
        assert cuda.live == 2
        generator.on_device(z, labels)


def test_a_refusal_of_tensorrt_is_explained():
    open_, world, cuda = opened()
    with open_() as generator:
        world.refuse.add("execute_async_v3")
        with pytest.raises(InputError, match="execute_async_v3"):
            generator.on_device(*on_device(cuda, 2))


def test_other_backends_refuse_clearly():
    generator, backend = generator_of()
    with pytest.raises(ConfigError, match=r"with diary takes arrays in host memory only.*TensorRT plan"):
        generator.on_device(Z, LABELS)
    assert backend.batches == []
    generator.close()
    with pytest.raises(InputError, match="closed"):
        generator.on_device(Z, LABELS)
