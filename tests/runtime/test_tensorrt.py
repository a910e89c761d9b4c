"""The TensorRT backend against doubles: order of calls, every refusal, and nothing left behind. No GPU is used."""

import gc
import threading

import numpy as np
import pytest

from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.latents import sample_latents
from sagan_deploy.runtime import RuntimeGenerator
from sagan_deploy.runtime.contexts import TensorRTOptions
from sagan_deploy.runtime.session import choose_profile
from sagan_deploy.runtime.tensorrt import MAX_SESSIONS, open_plan
from tests.runtime.doubles import Cuda, World
from tests.tiny_models import CONFIG, UNCONDITIONAL, expected_images, manifest_of, plan_artifact, plan_bytes, profile

Z = sample_latents(5, 9, 8)
LABELS = np.arange(9) % 3
TWO_PROFILES = (profile(1, 1, 1), profile(4, 8, 8))


def opened(config=CONFIG, *, cuda=None, flavour="rtx", plan_changes=None, options=None, **world_changes):
    """A generator over doubles, with its world."""
    cuda = cuda or Cuda()
    changes = {} if flavour == "rtx" else {"flavour": "tensorrt", "tensorrt_version": "10.0.1.6"}
    payload = plan_bytes() if flavour == "rtx" else plan_bytes(b"ftrt", (10, 0, 1, 6))
    artifact = plan_artifact(payload, config=config, **(changes | (plan_changes or {})))
    world = World(cuda, artifact, config, flavour, **world_changes)
    manifest = manifest_of([artifact], config)

    def open_():
        backend, contract = open_plan(payload, "m.plan", manifest, artifact, trt=world.trt, cuda=cuda, options=options)
        return RuntimeGenerator(contract, backend, artifact="m.plan")

    return open_, world, cuda


@pytest.mark.parametrize("config", [CONFIG, UNCONDITIONAL])
@pytest.mark.parametrize(("flavour", "runtime_config"), [("rtx", True), ("tensorrt", True), ("tensorrt", False)])
def test_images_are_those_of_the_equation(config, flavour, runtime_config):
    open_, _, cuda = opened(config, flavour=flavour, runtime_config=runtime_config)
    labels = LABELS if config.conditional else None
    with open_() as generator:
        images = generator(Z, labels)  # 9 images, at most 4 at a time
        np.testing.assert_allclose(images, expected_images(config, Z, labels), atol=1e-6)
        again = generator(Z[:2], None if labels is None else labels[:2])
        np.testing.assert_array_equal(again, images[:2])
        assert generator.backend_name == ("tensorrt_rtx" if flavour == "rtx" else "tensorrt")
        assert generator.max_batch == 4
    assert cuda.live == 0


@pytest.mark.parametrize("config", [CONFIG, UNCONDITIONAL])
def test_the_time_of_the_gpu_is_that_of_the_network_without_copies(config):
    open_, _, cuda = opened(config)
    labels = LABELS if config.conditional else None
    with open_() as generator:
        before = cuda.clock
        assert generator.gpu_milliseconds(Z, labels) == 9  # the double takes one millisecond per image
        assert cuda.clock > before + 9  # copies take their time, too
        assert generator.gpu_milliseconds(Z[:0], None if labels is None else labels[:0]) == 0
    assert cuda.live == 0
    with pytest.raises(InputError, match="closed"):
        generator.gpu_milliseconds(Z, labels)


def test_the_time_of_a_batch_between_two_profiles_is_that_of_the_larger_one():
    open_, _, _ = opened(plan_changes={"profiles": TWO_PROFILES})
    with open_() as generator:
        assert [generator.gpu_milliseconds(Z[:count], LABELS[:count]) for count in (1, 2, 8)] == [1, 4, 8]


def test_the_time_of_the_gpu_with_graphs():
    open_, _, cuda = opened(flavour="tensorrt", options=TensorRTOptions(cuda_graphs=True))
    with open_() as generator:
        assert [generator.gpu_milliseconds(Z[:3], LABELS[:3]) for _ in range(4)] == [3, 3, 3, 3]
        assert "launch" in cuda.calls
        with pytest.raises(InputError, match="labels"):
            generator.gpu_milliseconds(Z[:3])


@pytest.mark.parametrize("step", ["Event", "record", "synchronize", "execute_async_v3"])
def test_a_refused_timing_leaves_nothing_behind(step):
    open_, world, cuda = opened()
    with open_() as generator:
        generator(Z[:2], LABELS[:2])
        cuda.fail.add(step)
        world.refuse.add(step)
        with pytest.raises((InputError, MissingError)):
            generator.gpu_milliseconds(Z[:2], LABELS[:2])
        cuda.fail.clear()
        world.refuse.clear()
        assert generator.gpu_milliseconds(Z[:2], LABELS[:2]) == 2
    assert cuda.live == 0


def test_the_order_of_calls():
    open_, world, cuda = opened()
    with open_() as generator:
        world.calls.clear()
        cuda.calls.clear()
        generator(Z[:3], LABELS[:3])
        assert [call[0] for call in world.calls] == [
            *("set_input_shape", "set_input_shape", "infer_shapes", "get_tensor_shape"),
            *("set_tensor_address", "set_tensor_address", "set_tensor_address", "execute_async_v3"),
        ]
        assert world.named("set_input_shape") == [("z", (3, 8)), ("labels", (3,))]
        assert world.named("set_tensor_address") == [("z",), ("labels",), ("images",)]
        assert cuda.calls == ["use_device 0", "copy_to_device", "copy_to_device", "copy_to_host", "synchronize"]


def test_opening_checks_validity_then_deserialises_then_makes_a_context():
    open_, world, _ = opened()
    with open_():
        assert [call[0] for call in world.calls] == [
            *("get_engine_validity", "deserialize_cuda_engine", "create_runtime_config", "create_execution_context")
        ]
        assert world.named("get_engine_validity") == [(64,)]


@pytest.mark.parametrize(("count", "expected"), [(1, (0, 1)), (2, (1, 4)), (4, (1, 4)), (7, (1, 7)), (8, (1, 8))])
def test_the_cheapest_profile(count, expected):
    plan = plan_artifact(plan_bytes(), profiles=TWO_PROFILES).plan
    assert choose_profile(plan, count) == expected


def test_profiles_change_only_when_needed_and_gaps_are_filled():
    open_, world, cuda = opened(plan_changes={"profiles": TWO_PROFILES})
    with open_() as generator:
        for count in (1, 1, 2, 8, 1):
            images = generator(Z[:count], LABELS[:count])
            np.testing.assert_allclose(images, expected_images(CONFIG, Z[:count], LABELS[:count]), atol=1e-6)
        assert world.named("set_optimization_profile_async") == [(1,), (0,)]
        assert cuda.calls.count("synchronize") == 5 + 2  # once per run, and after each change of profile
        assert ("z", (4, 8)) in world.named("set_input_shape")  # two images in a profile for at least four


BOOLS = ["set_input_shape", "set_tensor_address", "execute_async_v3", "infer_shapes", "set_optimization_profile_async"]


@pytest.mark.parametrize("call", BOOLS)
def test_every_refused_call_is_named_and_nothing_follows_it(call):
    open_, world, cuda = opened(plan_changes={"profiles": TWO_PROFILES})
    with open_() as generator:
        generator(Z[:1], LABELS[:1])
        world.calls.clear()
        world.refuse.add(call)
        with pytest.raises(InputError, match="labels" if call == "infer_shapes" else call):
            generator(Z[:8], LABELS[:8])
        assert world.calls[-1][0] == call
        assert cuda.live == 0  # the session of the failed call is gone …
        world.refuse.clear()
        images = generator(Z[:1], LABELS[:1])  # … and the next call makes a new one
        np.testing.assert_allclose(images, expected_images(CONFIG, Z[:1], LABELS[:1]), atol=1e-6)
    assert cuda.live == 0


@pytest.mark.parametrize("call", ["copy_to_device", "copy_to_host", "synchronize"])
def test_cuda_failures_in_a_run_free_everything(call):
    open_, _, cuda = opened()
    with open_() as generator:
        cuda.fail.add(call)
        with pytest.raises(MissingError, match=f"{call} failed: out of memory"):
            generator(Z[:1], LABELS[:1])
        cuda.fail.clear()
        assert cuda.live == 0


@pytest.mark.parametrize("call", ["Stream", "DeviceBuffer", "PinnedBuffer"])
def test_cuda_failures_while_opening_free_everything(call):
    open_, _, cuda = opened(cuda=Cuda(fail=[call]))
    with pytest.raises(MissingError, match="out of memory"):
        open_()
    assert cuda.live == 0


def test_no_engine_is_explained_from_the_log_without_the_echo_of_cuda():
    open_, _, cuda = opened(refuse=["deserialize_cuda_engine"])
    with pytest.raises(InputError, match=r"cannot load m\.plan: plan\.header\.size.*sagan-deploy build") as caught:
        open_()
    assert "catchCudaError" not in str(caught.value)
    assert cuda.live == 0


def test_no_context_is_an_error():
    open_, _, cuda = opened(refuse=["create_execution_context"])
    with pytest.raises(InputError, match="execution context"):
        open_()
    assert cuda.live == 0


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (1, "another version"),
        (2 | 4, "other GPUs and the NVIDIA driver is too old"),
        (32, "damaged"),
        (0, "no GPU answered"),
        (1 | 256, r"another version .* without a name here \(bits 0x100\)"),
        (4, r"driver is too old\. Update the NVIDIA driver\.$"),
        (2 | 4, r"Update the NVIDIA driver\. Build one that fits"),
        (8, "CUDA runtime is too old"),
        (16, "too little memory.*--max-batch"),
        (64, "CUDA reported an error.*nvidia-smi"),
    ],
)
def test_an_invalid_engine_is_explained_in_words(bits, words):
    open_, world, _ = opened(validity=(2, bits))
    with pytest.raises(InputError, match=words):
        open_()
    assert not world.named("deserialize_cuda_engine")


def test_a_suboptimal_engine_runs():
    open_, _, _ = opened(validity=(1, 2))
    open_().close()


def test_an_engine_with_other_arrays_than_its_manifest():
    open_, world, _ = opened()
    world.artifact = plan_artifact(plan_bytes(), config=UNCONDITIONAL)
    with pytest.raises(InputError, match=r"inputs and outputs.*manifest says"):
        open_()


@pytest.mark.parametrize(
    ("cuda", "error", "words"),
    [
        (Cuda(devices=0), MissingError, "needs an NVIDIA GPU"),
        (Cuda(capability=(12, 0)), InputError, r"built for sm_89; the GPU of this machine is sm_120.*--target sm_120"),
    ],
)
def test_the_wrong_gpu_stops_before_anything_is_loaded(cuda, error, words):
    open_, world, _ = opened(cuda=cuda)
    with pytest.raises(error, match=words):
        open_()
    assert world.calls == []


def test_threads_share_the_engine_and_never_a_context():
    open_, world, cuda = opened()
    wrong = []
    with open_() as generator:

        def work(seed):
            for _ in range(10):
                z, labels = generator.sample_inputs(3, seed=seed)
                if np.abs(generator(z, labels) - expected_images(CONFIG, z, labels)).max() > 1e-5:
                    wrong.append(seed)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert 1 <= world.contexts <= MAX_SESSIONS
    assert not wrong
    assert cuda.live == 0


def test_a_session_that_is_busy_while_the_generator_closes_is_freed_by_its_thread(monkeypatch):
    open_, _, cuda = opened()
    generator = open_()
    stream_copy = cuda.Stream.copy_to_device

    def close_in_between(*arguments):
        generator.close()
        stream_copy(*arguments)

    monkeypatch.setattr(cuda.Stream, "copy_to_device", close_in_between)
    assert generator(Z[:1], LABELS[:1]).shape == (1, 3, 8, 8)
    assert cuda.live == 0
    with pytest.raises(InputError, match="closed"):
        generator(Z[:1], LABELS[:1])


def test_images_do_not_lie_in_the_buffer_that_the_next_call_fills():
    open_, _, _ = opened()
    with open_() as generator:
        first = generator(Z[:1], LABELS[:1])
        kept = first.copy()
        generator(Z[1:2], LABELS[1:2])
        gc.collect()
        np.testing.assert_array_equal(first, kept)
