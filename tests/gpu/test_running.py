"""How plans run: graphs, caches, threads, profiles, device arrays and what is given back at the end."""

import gc
import threading
import time

import numpy as np
import pytest

from sagan_deploy.first_use import BuildSettings, load_or_build
from sagan_deploy.runtime import cuda, load
from tests.generators import tiny_checkpoint
from tests.gpu.plans import plan_of, tiny_bundle
from tests.tiny_models import CONFIG, expected_images, make_bundle

pytestmark = pytest.mark.gpu

CODE = 2 / 255


@pytest.fixture(scope="module")
def plan(flavour, tmp_path_factory):
    """A real generator, fp16, with a fused attention block."""
    return plan_of(tiny_checkpoint(), tmp_path_factory.mktemp(f"plan-{flavour}"), flavour, precision="fp16")


@pytest.fixture(scope="module")
def two_profiles(flavour, tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp(f"two-{flavour}") / "b", flavour, ((1, 1, 1), (4, 8, 8)))


@pytest.fixture
def tolerance(flavour):
    """How far two runs of one plan may be apart: TensorRT for RTX compiles better kernels while it runs."""
    return CODE if flavour == "rtx" else 0.0


def check(generator, z, labels):
    np.testing.assert_allclose(generator(z, labels), expected_images(CONFIG, z, labels), atol=CODE)


def test_graphs_replay_the_same_images(plan, tolerance):
    with load(plan, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(40)
        plain = [generator(z[low : low + 4], labels[low : low + 4]) for low in range(0, 40, 4)]
    with load(plan, backend="tensorrt", cuda_graphs=True) as generator:
        replayed = [generator(z[low : low + 4], labels[low : low + 4]) for low in range(0, 40, 4)]
        other = generator(z[:3], labels[:3])  # another batch: the graph goes, the images stay right
        again = generator(z[:4], labels[:4])
    np.testing.assert_allclose(np.stack(replayed), np.stack(plain), rtol=0, atol=tolerance)
    np.testing.assert_allclose(other, plain[0][:3], rtol=0, atol=CODE)
    np.testing.assert_allclose(again, plain[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("weights", ["refittable", "stripped"])
def test_plans_whose_weights_are_put_in_later_draw_the_same(plan, flavour, tmp_path, weights):
    other = plan_of(tiny_checkpoint(), tmp_path, flavour, precision="fp16", weights=weights)
    if weights == "stripped":
        assert other.stat().st_size < plan.stat().st_size
    with load(plan, backend="tensorrt") as one, load(other, backend="tensorrt") as two:
        z, labels = one.sample_inputs(8)
        np.testing.assert_allclose(two(z, labels), one(z, labels), rtol=0, atol=CODE)


def test_the_classic_tensorrt_really_is_recorded(plan, flavour, caplog):
    if flavour != "tensorrt":
        pytest.skip("TensorRT for RTX records by itself")
    with load(plan, backend="tensorrt", cuda_graphs=True) as generator:
        for _ in range(3):
            generator.sample(4)
        (session,) = generator._backend._idle
        assert session._enqueued._graph is not None
    assert "CUDA graphs are off" not in caplog.text


def test_profiles_change_with_the_batch(two_profiles):
    for graphs in (False, True):
        with load(two_profiles, backend="tensorrt", cuda_graphs=graphs) as generator:
            z, labels = generator.sample_inputs(8)
            for count in (1, 8, 1, 1, 1, 5, 8, 8, 8, 2, 1, 4):
                check(generator, z[:count], labels[:count])


def test_the_runtime_cache_makes_a_round_trip(plan, flavour, tmp_path, caplog):
    if flavour != "rtx":
        pytest.skip("only TensorRT for RTX has a runtime cache")
    path = tmp_path / "kernels.cache"
    with load(plan, backend="tensorrt", runtime_cache=path) as generator:
        first = generator.sample(4)
    written = path.read_bytes()
    assert written
    with load(plan, backend="tensorrt", runtime_cache=path) as generator:
        np.testing.assert_allclose(generator.sample(4), first, rtol=0, atol=CODE)
    assert "runtime cache" not in caplog.text  # it was taken
    path.write_bytes(written[: len(written) // 2])
    with load(plan, backend="tensorrt", runtime_cache=path) as generator:
        np.testing.assert_allclose(generator.sample(4), first, rtol=0, atol=CODE)
    assert f"the runtime cache {path}" in caplog.text
    assert len(path.read_bytes()) > len(written) // 2


@pytest.mark.parametrize("graphs", [False, True])
def test_two_sessions_in_two_threads(plan, graphs, tolerance):
    with load(plan, backend="tensorrt", cuda_graphs=graphs) as generator:
        inputs = {seed: generator.sample_inputs(4, seed=seed) for seed in range(2)}
        alone = {seed: generator(*pair) for seed, pair in inputs.items()}
        start, wrong = threading.Barrier(2), []

        def work(seed):
            start.wait()
            wrong.extend(seed for _ in range(50) if np.abs(generator(*inputs[seed]) - alone[seed]).max() > tolerance)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in inputs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(generator._backend._idle) == 2
    assert wrong == []


def free_memory():
    gc.collect()
    runtime = cuda._cudart()
    cuda.check("cudaDeviceSynchronize", runtime.cudaDeviceSynchronize())
    code, free, _total = runtime.cudaMemGetInfo()
    assert int(code) == 0
    return free


@pytest.mark.parametrize("graphs", [False, True])
def test_memory_is_returned(plan, graphs):
    def cycle():
        with load(plan, backend="tensorrt", cuda_graphs=graphs) as generator:
            for count in (4, 4, 4, 8, 8, 8):
                generator.sample(count)

    cycle()  # libraries keep what they load once
    cycle()
    before = free_memory()
    for _ in range(5):
        cycle()
    assert free_memory() >= before - 2**20


def test_the_time_of_the_gpu_is_part_of_the_time_of_the_call(plan):
    for graphs in (False, True):
        with load(plan, backend="tensorrt", cuda_graphs=graphs) as generator:
            z, labels = generator.sample_inputs(8)
            for _ in range(3):
                generator(z, labels)
            calls, times = [], []
            for _ in range(20):
                start = time.perf_counter()
                generator(z, labels)
                calls.append(1e3 * (time.perf_counter() - start))
                times.append(generator.gpu_milliseconds(z, labels))
            assert 0 < np.median(times) < np.median(calls)


def test_the_device_path_against_the_host_path(plan, torch_cuda, tolerance):
    torch = torch_cuda
    for graphs in (False, True):
        with load(plan, backend="tensorrt", cuda_graphs=graphs) as generator:
            z, labels = generator.sample_inputs(20)
            expected = generator(z, labels)
            there = torch.from_numpy(z).cuda(), torch.from_numpy(labels).cuda()
            by_dlpack = torch.from_dlpack(generator.on_device(*there))
            by_interface = torch.as_tensor(generator.on_device(*there), device="cuda")
            for drawn in (by_dlpack, by_interface):
                np.testing.assert_allclose(drawn.cpu().numpy(), expected, rtol=0, atol=tolerance)


def test_the_callers_stream_is_followed(plan, torch_cuda, tolerance):
    torch = torch_cuda
    with load(plan, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(8)
        expected = generator(z, labels)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(20):
                torch.cuda._sleep(2_000_000)  # keeps the stream busy, so that a missing order would show
                late = torch.zeros(8, z.shape[1], device="cuda")
                late.copy_(torch.from_numpy(z).pin_memory(), non_blocking=True)
                images = generator.on_device(late, torch.from_numpy(labels).cuda(), stream=stream.cuda_stream)
                drawn = torch.from_dlpack(images).clone()
                late.zero_()
                np.testing.assert_allclose(drawn.cpu().numpy(), expected, rtol=0, atol=tolerance)


def test_device_images_outlive_the_generator_and_then_give_their_memory_back(plan, torch_cuda):
    torch = torch_cuda
    with load(plan, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(8192)  # more bytes than CUDA hands out in one piece
        there = torch.from_numpy(z).cuda(), torch.from_numpy(labels).cuda()
        expected = generator(z[:8], labels[:8])
        images = torch.from_dlpack(generator.on_device(*there))
    np.testing.assert_allclose(images[:8].cpu().numpy(), expected, rtol=0, atol=CODE)
    size, held = images.nbytes, free_memory()
    del images
    assert free_memory() >= held + size - 2**21


def test_a_plan_is_built_at_first_use_and_found_at_the_second(flavour, tmp_path, monkeypatch):
    from sagan_deploy import build

    bundle = make_bundle(tmp_path / "bundle")
    settings = BuildSettings(flavour, max_batch=4)
    with load_or_build(bundle, cache=tmp_path / "cache", settings=settings, backend="tensorrt") as generator:
        z, labels = generator.sample_inputs(6)
        check(generator, z, labels)
    monkeypatch.setattr(build, "build_plan", lambda *_, **__: pytest.fail("it is in the cache"))
    with load_or_build(bundle, cache=tmp_path / "cache", settings=settings, backend="tensorrt") as generator:
        check(generator, z, labels)
